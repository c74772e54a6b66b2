# SPDX-License-Identifier: Apache-2.0
"""User-space files: which functions and USDT probes one has, and whether Go made it."""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from exporter.errors import HookError, UnknownHook
from exporter.hooks.names import did_you_mean, nearest

# Symbols are unpacked here: pyelftools makes an object of each, 40 microseconds, and a Go program has 100,000.
_SYMBOL = {8: struct.Struct("<IBBHQQ"), 4: struct.Struct("<IIIBBH")}  # Elf64_Sym, Elf32_Sym
_OBJECT, _FUNC, _COMMON, _GNU_IFUNC = 1, 2, 5, 10

# https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation
_NT_STAPSDT = 3
_NOTE = struct.Struct("<III")  # length of the name, of the description, type

# what pyelftools and the code below run into where a file is not what its first bytes say
_TORN = (struct.error, ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError)


# a variable in an operand: counter(%rip), 48+rows(%rip), rows+48(%rip)
_RELATIVE = re.compile(r"(?:(?P<ahead>-?\d+)\+)?(?P<name>[A-Za-z_.][\w.$]*)(?P<behind>[-+]\d+)?\(%rip\)")


class Usdt(NamedTuple):
    """A probe that a program's author put into it. arguments as the note has them: ``-4@%edi 8@(%rsp)``."""

    provider: str
    name: str
    arguments: str


class Place(NamedTuple):
    """Where a USDT probe stands in a file, in bytes: its instruction, and its semaphore, 0 where it has none.

    arguments are as the note has them; a variable is named by how far from the instruction it is:
    ``4@counter+8(%rip)`` -> ``4@11304(%rip)``.
    """

    offset: int
    semaphore: int
    arguments: str


class _Note(NamedTuple):
    """A USDT probe and the addresses of its place, as they were when the file was linked."""

    probe: Usdt
    instruction: int
    base: int
    semaphore: int


@contextmanager
def _opened(path: Path) -> Iterator[ELFFile]:
    """Opens an ELF file. Raises HookError, also for what turns out to be wrong while it is read."""
    try:
        with path.open("rb") as file:
            yield ELFFile(file)
    except OSError as error:
        raise HookError(f"cannot read {path}: {error.strerror}") from error
    except (ELFError, *_TORN) as error:
        raise HookError(f"{path} is not a program or library that can be read: {error}") from error


def symbols(path: Path) -> Iterator[str]:
    """Yields the names of the functions that a file defines, each once: of .symtab, and of .dynsym, which strip leaves.

    Raises HookError where it is not an ELF file or can't be read.
    """
    with _opened(path) as elf:
        yield from dict.fromkeys(name.decode("utf-8", "backslashreplace") for name, _ in _functions(elf))


def offset(path: Path, symbol: str) -> int:
    """Returns where in a file a function starts, in bytes: what a uprobe wants.

    Raises UnknownHook where the file does not define it, HookError where it is not an ELF file or can't be read.
    """
    with _opened(path) as elf:
        wanted = symbol.encode()
        for name, address in _functions(elf):
            if name == wanted and (found := _in_file(elf, address)) is not None:
                return found
        near = nearest(symbol, {name.decode("utf-8", "backslashreplace") for name, _ in _functions(elf)})
    raise UnknownHook(f"there is no symbol {symbol} in {path}{did_you_mean(near)}", near)


def _in_file(elf: ELFFile, address: int) -> int | None:
    """Returns where in a file is what will be at an address."""
    for segment in elf.iter_segments("PT_LOAD"):
        if segment["p_vaddr"] <= address < segment["p_vaddr"] + segment["p_memsz"]:
            return int(address - segment["p_vaddr"] + segment["p_offset"])
    return None


def _functions(elf: ELFFile) -> Iterator[tuple[bytes, int]]:
    return _symbols(elf, (_FUNC, _GNU_IFUNC))


def _symbols(elf: ELFFile, kinds: tuple[int, ...]) -> Iterator[tuple[bytes, int]]:
    """Yields what a file defines, with its addresses, some twice."""
    for table in map(elf.get_section_by_name, (".symtab", ".dynsym")):
        if table is None or table["sh_type"] == "SHT_NOBITS":  # the latter in files of debug information
            continue
        strings = elf.get_section(table["sh_link"]).data()
        layout, wide = _SYMBOL[elf.elfclass // 8], elf.elfclass == 64
        data = table.data()
        for symbol in layout.iter_unpack(data[: len(data) // layout.size * layout.size]):
            if wide:
                start, info, _, section, address, _ = symbol
            else:
                start, address, _, info, _, section = symbol
            if info & 0xF not in kinds or not section:  # section 0: defined elsewhere
                continue
            # `memcpy@@GLIBC_2.14`: the linker writes the version behind the name in .symtab
            if name := strings[start : strings.index(b"\0", start)].partition(b"@")[0]:
                yield name, address


def usdt(path: Path) -> tuple[Usdt, ...]:
    """Returns the USDT probes of a file, in its order; one that stands in several places is there several times.

    Raises HookError where it is not an ELF file or can't be read.
    """
    with _opened(path) as elf:
        section = elf.get_section_by_name(".note.stapsdt")
        return tuple(note.probe for note in _notes(section.data(), elf.elfclass // 8)) if section else ()


def places(path: Path, provider: str, name: str) -> tuple[Place, ...]:
    """Returns the places of a USDT probe.

    Raises UnknownHook where the file does not have it, HookError where it is not an ELF file or can't be read.
    """
    with _opened(path) as elf:
        section = elf.get_section_by_name(".note.stapsdt")
        notes = list(_notes(section.data(), elf.elfclass // 8)) if section else []
        base = elf.get_section_by_name(".stapsdt.base")
        found: dict[Place, None] = {}
        for probe, instruction, linked, semaphore in notes:
            if (probe.provider, probe.name) != (provider, name):
                continue
            # what moved the file's parts after it was linked (prelink) moved the base as well
            moved = base["sh_addr"] - linked if base and linked else 0
            offset = _in_file(elf, instruction + moved)
            counted = _in_file(elf, semaphore + moved) if semaphore else 0
            if offset is not None and counted is not None:
                found[Place(offset, counted, _located(elf, probe.arguments, instruction))] = None
    if found:
        return tuple(found)
    if not notes:
        raise UnknownHook(f"{path} has no USDT probes")
    names = sorted({f"{note.probe.provider}:{note.probe.name}" for note in notes})
    near = nearest(f"{provider}:{name}", names)
    has = did_you_mean(near) or f"; it has {', '.join(names[:20])}{', …' if names[20:] else ''}"
    raise UnknownHook(f"{path} has no USDT probe {provider}:{name}{has}", near)


def _located(elf: ELFFile, arguments: str, instruction: int) -> str:
    """Names variables by where they are; one of which there are several, or none, keeps its name."""

    def distance(match: re.Match[str]) -> str:
        wanted = match["name"].encode()
        at = {address for name, address in _symbols(elf, (_OBJECT, _COMMON)) if name == wanted}
        more = int(match["ahead"] or 0) + int(match["behind"] or 0)
        return f"{at.pop() + more - instruction}(%rip)" if len(at) == 1 else match[0]

    return _RELATIVE.sub(distance, arguments)


def _notes(data: bytes, word: int) -> Iterator[_Note]:
    """A description is three addresses (the probe's, the base's, the semaphore's), then three texts."""
    position = 0
    while position + _NOTE.size <= len(data):
        name_size, size, kind = _NOTE.unpack_from(data, position)
        start = position + _NOTE.size + (name_size + 3 & ~3)
        if kind == _NT_STAPSDT:
            texts = data[start + 3 * word : start + size].split(b"\0")
            provider, name, arguments = (text.decode("utf-8", "backslashreplace") for text in texts[:3])
            addresses = struct.unpack_from("<3Q" if word == 8 else "<3I", data, start)
            yield _Note(Usdt(provider, name, arguments), *addresses)
        position = start + (size + 3 & ~3)


def is_go(path: Path) -> bool:
    """Whether Go made a file: its functions move their stacks, so that a uretprobe crashes the program.

    Raises HookError where it is not an ELF file or can't be read.
    """
    with _opened(path) as elf:
        return any(elf.get_section_by_name(name) for name in (".go.buildinfo", ".note.go.buildid"))
