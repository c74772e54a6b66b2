# SPDX-License-Identifier: Apache-2.0
"""loader/body.py: what the generated C computes is what the documentation says, for trees at random."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from exporter.expression import Binary, Node, Number, Text, Word
from exporter.grammar import parse
from exporter.loader.body import HELPERS, Body
from exporter.loader.context import Context, Value
from exporter.probe import Hook
from tests.expressions import number, tree, worth, wrapped, written

TREES = int(os.environ.get("EBPF_EXPORTER_TEST_TREES", "1000"))

WORDS = {"a": True, "b": True, "c": False, "d": False}  # name -> signed
TEXTS = ("", "sh", "a  b", "fifteen letters", "ünïcödé")

STUBS = """
#include <stdio.h>
#include <string.h>
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef signed char s8; typedef short s16; typedef int s32; typedef long long s64;
#define __always_inline inline __attribute__((always_inline))
static const char *comm;
static void bpf_get_current_comm(void *to, u32 size) { strncpy(to, comm, size); }
static void bpf_probe_read_kernel_str(void *to, u32 size, void *from) { strncpy(to, from, size); }
static void bpf_probe_read_user_str(void *to, u32 size, void *from) { strncpy(to, from, size); }
"""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


class Case(NamedTuple):
    """A tree with what its words are."""

    tree: Node
    numbers: tuple[int, ...]
    comm: str

    def worth(self) -> tuple[int, bool]:
        words = {name: (number, WORDS[name]) for name, number in zip(WORDS, self.numbers, strict=True)}
        return worth(self.tree, words, {"comm": self.comm})


class Inputs(Context):
    """Words that are the numbers of an array."""

    def word(self, word: Word, body: Body) -> Value:
        name = str(word)
        if name in WORDS:
            signed = WORDS[name]
            return Value("number", f"({'s' if signed else 'u'}64)ctx[{list(WORDS).index(name)}]", signed=signed)
        return super().word(word, body)


def computed(cases: Sequence[Case], folder: Path) -> list[tuple[int, bool]]:
    """Returns what the C of each tree computes, all compiled as one program by an ordinary C compiler."""
    functions, calls, signs = [], [], []
    for at, case in enumerate(cases):
        body = Body(Inputs(Hook("tracepoint", "a:b")))
        value = body.number(case.tree)
        signs.append(value.signed)
        lines = "\n".join([f"text_word texts[{body.most_words + 1}];", *body.lines])
        functions.append(f"static u64 tree_{at}(const u64 *ctx)\n{{\n{lines}\nreturn {value.c};\n}}\n")
        numbers = ", ".join(f"{wrapped(number, False)}ULL" for number in case.numbers)
        text = "".join(f"\\x{byte:02x}" for byte in case.comm.encode())
        calls.append(f'comm = "{text}"; printf("%llu\\n", tree_{at}((u64[]){{{numbers}}}));')
    mains = [calls[at : at + 100] for at in range(0, len(calls), 100)]  # one long function takes gcc minutes
    steps = [f"static void step_{at}(void)\n{{\n{chr(10).join(part)}\n}}\n" for at, part in enumerate(mains)]
    main = "int main(void)\n{\n" + "".join(f"step_{at}();" for at in range(len(steps))) + "return 0;\n}\n"
    source, program = folder / "trees.c", folder / "trees"
    source.write_text(STUBS + HELPERS + "".join(functions) + "".join(steps) + main)
    # what C leaves undefined ends the program
    flags = ["-O0", "-w", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    subprocess.run(["gcc", *flags, "-o", program, source], check=True)
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    return [(wrapped(int(word), signed), signed) for word, signed in zip(out, signs, strict=True)]


def case(chance: Random) -> Case:
    def leaf() -> Node:
        what = chance.randrange(5)
        if what == 0:
            return Binary(chance.choice(("==", "!=")), Word(("comm",)), Text(chance.choice(TEXTS)))
        return Number(number(chance)) if what == 1 else Word((chance.choice(list(WORDS)),))

    numbers = tuple(wrapped(number(chance), signed) for signed in WORDS.values())
    return Case(tree(chance, leaf, chance.randint(1, 10)), numbers, chance.choice(TEXTS))


@needs_gcc
def test_generated_c_computes_what_the_documentation_says(tmp_path: Path) -> None:
    """Numbers at random and at the edges of 8, 16, 32 and 64 bits, through every operator and cast."""
    chance = Random(1)
    cases = [case(chance) for _ in range(TREES)]
    wrong = [
        f"{written(one.tree)} of {one.numbers}, {one.comm!r}: {found}, not {one.worth()}"
        for one, found in zip(cases, computed(cases, tmp_path), strict=True)
        if found != one.worth()
    ]
    assert wrong == []


def test_a_tree_that_is_written_down_is_read_as_it_was() -> None:
    """The grammar says the same of a text as who wrote it from a tree."""
    chance = Random(2)
    for one in (case(chance).tree for _ in range(TREES)):
        assert parse(written(one)) == one
