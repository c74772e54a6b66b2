# SPDX-License-Identifier: Apache-2.0
"""Whatever is written as an expression or a probe, it is taken, or refused in words: nothing crashes, nothing hangs."""

import os
import string
from copy import deepcopy
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import CompileError, ConfigError
from exporter.expression import ExpressionError, nodes
from exporter.grammar import MAX_NODES, parse
from exporter.loader import context, script
from tests.declared import PLACES, declaration, probe, value
from tests.expressions import written

CASES = int(os.environ.get("EBPF_EXPORTER_TEST_FUZZ", "8000"))

LONGEST = 2200  # of a message, which shows what was written and lists what could be

PIECES = (
    "args.dfd args.from.x comm pid user arg0 retval elapsed str( ip( ksym( s8( u64( ( ) ) ) , , 'sh' \"a  b\" '' 0 1 "
    "-1 "
    "0x7f 18446744073709551615 "
    "99999999999999999999 + - * / % << >> & | ^ ~ == != < <= > >= and or not not if lambda "
    "[ ] { } : := = ! && || . .. # \\ \n \t \x00 ; @ ** // 1.5 1j None True b'x' f'{x}' ü … in is await yield *"
).split(" ")


def refused(text: str) -> str:
    """Parses a text. Returns why it can't be, nothing if it can."""
    try:
        tree = parse(text)
    except ExpressionError as error:
        return str(error)
    assert sum(1 for _ in nodes(tree)) <= MAX_NODES
    return ""


def good(message: str) -> None:
    assert not set(message) & set("\n\r\x00\x1b"), message
    assert len(message) <= LONGEST, message


@settings(max_examples=CASES // 10)
@given(st.text(max_size=1100) | st.text(string.printable, max_size=80))
def test_any_text(text: str) -> None:
    """Characters of all of Unicode, and of a keyboard."""
    good(refused(text))


def test_pieces_of_the_grammar() -> None:
    """The words and signs of the grammar, and of what Python has besides, in any order and number."""
    chance = Random(1)
    taken = 0
    for _ in range(CASES):
        pieces = chance.choices(PIECES, k=chance.choice((1, 2, 3, 4, 5, 8, 20, 200)))
        message = refused(chance.choice(("", " ")).join(pieces))
        good(message)
        taken += not message
    assert taken > CASES // 100


@pytest.mark.parametrize(
    "text",
    [
        "0<(" * 150 + "0" + "<0)" * 150,
        "(" * 500 + "1" + ")" * 500,
        "-" * 999 + "1",
        "not " * 240 + "1",
        "1+" * 499 + "1",
        "a." * 499 + "a",
        "s8(" * 199 + "1" + ")" * 199,
        "1" * 1000,
        "[" * 1000,
        "'" + "\\" * 998,
    ],
)
def test_what_is_deep(text: str) -> None:
    """What is nested or chained more often than any stack or clock allows is refused at once."""
    message = refused(text)
    good(message)
    assert message


def mutated(chance: Random, written_: str) -> str:
    """Changes a text in a place or two."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(written_) + 1)
        to = min(len(written_), at + chance.choice((0, 0, 1, 1, 5)))
        written_ = written_[:at] + chance.choice((*PIECES, "")) + written_[to:]
    return written_


def test_expressions_with_a_fault() -> None:
    """What was good, with something put in, taken away or put in its place."""
    chance = Random(2)
    for _ in range(CASES):
        place = chance.choice(PLACES)
        good(refused(mutated(chance, written(value(chance, place, chance.randint(1, 8))))))


OTHERS: tuple[Any, ...] = (
    None, True, 0, -1, 2**64, 10**400, 1.5, float("nan"), float("inf"), 5e-324, 1e308, "", "x", "pid", "comm", [], {},
    ["a"], [1, 2], [0.5, 1, 10**400], {"a": 1}, {"value": "pid", "default": False}, {"kind": "comm"}, "\ud7ff", "a\nb",
    "tracepoint:a:b", "kprobe:f", "kretprobe:f", "xdp", "profile:hz:99", {"start": "kprobe:f", "end": "kretprobe:f"},
    [{"start": "kprobe:f"}], ["kprobe:f", "tracepoint:a:b"], {"on_event": "kprobe:f"}, "histogram", "gauge", "max",
)  # fmt: skip
KEYS = ("attach", "where", "metrics", "type", "help", "value", "labels", "keep", "bounds", "exponents", "scale",
        "default", "purpose", "max_series", "source", "options", "ebpf_a", "ebpf_a_total", "ebpf_m0", "le", "int",
        "ebpf_x_bucket", "a", "Ü", "")  # fmt: skip


def spoiled(chance: Random, value: Any) -> Any:
    """Returns what stands in a document, with something else in one place of it."""
    if chance.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return mutated(chance, value) if isinstance(value, str) and chance.random() < 0.5 else chance.choice(OTHERS)
    changed = deepcopy(value)
    key = chance.choice(list(changed) if isinstance(changed, dict) else range(len(changed)))
    what = chance.random()
    if what < 0.1:
        del changed[key]
    elif what < 0.2 and isinstance(changed, dict):
        changed[chance.choice(KEYS)] = changed.pop(key)
    elif what < 0.3 and isinstance(changed, dict):
        changed[chance.choice(KEYS)] = chance.choice(OTHERS)
    else:
        changed[key] = spoiled(chance, changed[key])
    return changed


def test_documents_with_a_fault() -> None:
    """A probe of which something is missing, elsewhere, or of another form is refused with its place, or its programs
    can be written."""
    chance = Random(3)
    taken = 0
    for _ in range(CASES // 2):
        declared = declaration(chance, chance.choice((1, 1, 2)))
        for _ in range(chance.randint(0, 2)):
            declared = spoiled(chance, declared)
        try:
            found = probe("p", declared)
            if found.source is None:
                assert script.resolve(found, context.offline).c
        except ConfigError as error:
            for problem in error.problems:
                good(problem.message)
        except CompileError as error:
            raise AssertionError("check had to say so") from error
        else:
            taken += 1
    assert taken > CASES // 20
