# SPDX-License-Identifier: Apache-2.0
"""hooks/elf.py: against what binutils says of the files that are here, and of one that is made to measure."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.errors import HookError, UnknownHook
from exporter.hooks import elf, files

# A library with a function of each sort, and the notes that <sys/sdt.h> would make of two probes, one in two places.
SOURCE = r"""
#define NOTE(provider, name, arguments) __asm__ volatile( \
    "990: nop\n" \
    ".pushsection .note.stapsdt,\"\",\"note\"\n" \
    ".balign 4\n.4byte 992f-991f, 994f-993f, 3\n" \
    "991: .asciz \"stapsdt\"\n992: .balign 4\n" \
    "993: .8byte 990b, 0, 0\n" \
    ".asciz \"" provider "\"\n.asciz \"" name "\"\n.asciz \"" arguments "\"\n" \
    "994: .balign 4\n.popsection\n")
static int hidden(int n) { NOTE("made", "second", ""); return n * 2; }
int shown(int n) { NOTE("made", "first", "-4@%edi 8@(%rsp)"); return hidden(n); }
int again(int n) { NOTE("made", "first", "-4@$7"); return n; }
int data_is_no_function = 3;
extern int elsewhere(void);
int calls(void) { return elsewhere(); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("elf")
    (folder / "made.c").write_text(SOURCE)
    made = folder / "made.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O0", "-o", str(made), str(folder / "made.c")], check=True)
    return made


def test_functions_that_a_file_defines(library: Path) -> None:
    """Static ones too; neither data nor what is defined elsewhere."""
    found = set(elf.symbols(library))
    assert {"hidden", "shown", "again", "calls"} <= found
    assert not found & {"data_is_no_function", "elsewhere"}


def test_a_stripped_file_has_its_dynamic_symbols(library: Path, tmp_path: Path) -> None:
    """strip takes .symtab, and with it the static functions, and nothing of .dynsym."""
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "-o", str(stripped), str(library)], check=True)
    found = set(elf.symbols(stripped))
    assert {"shown", "again", "calls"} <= found
    assert "hidden" not in found


@pytest.mark.parametrize("name", [shutil.which("sh"), "libc", sys.executable])
def test_symbols_are_those_of_readelf(name: str) -> None:
    """Each function that readelf shows as defined, by its name without its version."""
    path = files.resolve(name)
    if not shutil.which("readelf"):
        pytest.skip("needs readelf")
    said = subprocess.run(["readelf", "-W", "-s", str(path)], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in said.splitlines() if re.match(r"\s*\d+: [0-9a-f]+ ", line)]
    expected = {
        row[7].partition("@")[0] for row in rows if len(row) > 7 and row[3] in ("FUNC", "IFUNC") and row[6] != "UND"
    }
    assert set(elf.symbols(path)) == expected


def test_the_offset_of_a_function_is_where_its_code_is(library: Path) -> None:
    """What is in the file there is what objdump disassembles of the function."""
    said = subprocess.run(
        ["objdump", "-d", "--disassemble=shown", str(library)], capture_output=True, text=True, check=True
    ).stdout
    code = bytes.fromhex("".join(re.findall(r"^\s+[0-9a-f]+:\t([0-9a-f ]+?)\s*(?:\t|$)", said, re.MULTILINE)))
    start = elf.offset(library, "shown")
    assert len(code) > 8
    assert library.read_bytes()[start : start + len(code)] == code


def test_a_symbol_that_is_not_there_is_answered_with_the_nearest(library: Path) -> None:
    """The file is named, and what is most like it."""
    with pytest.raises(UnknownHook) as caught:
        elf.offset(library, "shwon")
    assert str(caught.value) == f"there is no symbol shwon in {library}; did you mean shown?"


def test_usdt_probes_with_their_arguments(library: Path) -> None:
    """Each place of a probe, in the order of the notes."""
    assert elf.usdt(library) == (
        ("made", "second", ""),
        ("made", "first", "-4@%edi 8@(%rsp)"),
        ("made", "first", "-4@$7"),
    )


def test_a_file_of_go_is_known(library: Path, tmp_path: Path) -> None:
    """By the section that Go's linker writes into every program."""
    (tmp_path / "buildinfo").write_bytes(b"\xff Go buildinf:")
    made = tmp_path / "go"
    subprocess.run(
        ["objcopy", "--add-section", f".go.buildinfo={tmp_path / 'buildinfo'}", str(library), str(made)], check=True
    )
    assert (elf.is_go(library), elf.is_go(made)) == (False, True)


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01" + b"\xff" * 80], ids=["empty", "script", "torn"]
)
def test_what_is_no_program_is_told(tmp_path: Path, content: bytes) -> None:
    """An empty file, a script, and one that only begins as a program does."""
    path = tmp_path / "file"
    path.write_bytes(content)
    for look in (lambda: list(elf.symbols(path)), lambda: elf.usdt(path), lambda: elf.is_go(path)):
        with pytest.raises(HookError, match="is not a program or library"):
            look()


@pytest.mark.parametrize("flags", [["-pie"], ["-no-pie", "-static"]], ids=["pie", "static"])
def test_the_places_of_a_usdt_probe(tmp_path: Path, flags: list[str]) -> None:
    """Where they are in the file: the instruction that sdt.h leaves (nop), a semaphore of 0; a variable by its way."""
    if platform.machine() != "x86_64" or not shutil.which("gcc"):
        pytest.skip("needs gcc, for x86-64")
    (tmp_path / "made.c").write_text(
        "#define _SDT_HAS_SEMAPHORES 1\n#include <sys/sdt.h>\n"
        '__extension__ unsigned short p_n_semaphore __attribute__((section(".probes"))) = 4711;\n'
        "int number = 815;\nint main(void) { STAP_PROBE1(p, n, number); return 0; }\n"
    )
    made = tmp_path / "made"
    done = subprocess.run(["gcc", "-O2", *flags, "-o", str(made), str(tmp_path / "made.c")], capture_output=True)
    if b"sys/sdt.h" in done.stderr:
        pytest.skip("needs sys/sdt.h (systemtap-sdt-dev)")
    assert done.returncode == 0, done.stderr
    [place] = elf.places(made, "p", "n")
    data = made.read_bytes()
    assert data[place.offset] == 0x90
    assert int.from_bytes(data[place.semaphore : place.semaphore + 2], sys.byteorder) == 4711
    said = subprocess.run(["readelf", "-n", str(made)], capture_output=True, text=True, check=True).stdout
    assert "Arguments: -4@number(%rip)" in said
    location = re.search(r"Location: (0x\w+)", said)
    symbols = subprocess.run(["nm", str(made)], capture_output=True, text=True, check=True).stdout
    number = re.search(r"^(\w+) D number$", symbols, re.MULTILINE)
    assert location
    assert number
    assert place.arguments == f"-4@{int(number[1], 16) - int(location[1], 16)}(%rip)"


def test_a_usdt_probe_that_is_not_there(library: Path) -> None:
    """The nearest is told; where none is near, what there is; and a file that has none."""
    for wanted, answer in {"frist": "; did you mean made:first?", "x": "; it has made:first, made:second"}.items():
        with pytest.raises(UnknownHook) as caught:
            elf.places(library, "made", wanted)
        assert str(caught.value) == f"{library} has no USDT probe made:{wanted}{answer}"
    with pytest.raises(UnknownHook, match=r"has no USDT probes$"):
        elf.places(Path("/bin/true"), "made", "first")
