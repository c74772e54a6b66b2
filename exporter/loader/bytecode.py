# SPDX-License-Identifier: Apache-2.0
"""What a compile yields: maps and instructions as plain data, with no descriptor in it, so that it can be kept.

A load of a map's address is two instructions of which the first has opcode 0x18 and source register 1
(BPF_PSEUDO_MAP_FD); in place of a descriptor its immediate holds the map's position in ``maps``.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

_INSTRUCTION = struct.Struct("<BBhi")
_LOAD_64, _MAP_FD = 0x18, 1


@dataclass(frozen=True)
class Map:
    """How a map is created; sizes in bytes, type and flags as in bpf.h."""

    name: str
    type: int
    key_size: int
    value_size: int
    entries: int
    flags: int


@dataclass(frozen=True)
class Bytecode:
    """A compiled probe: its maps, the instructions of its programs by function name, the compiler's version."""

    maps: tuple[Map, ...]
    programs: dict[str, bytes]
    compiler: str


def relocate(instructions: bytes, to: Callable[[int], int]) -> bytes:
    """Returns instructions with each map reference (a descriptor or a position) replaced by ``to(reference)``."""
    result = bytearray(instructions)
    offset = 0
    while offset < len(result):
        opcode, registers, off, immediate = _INSTRUCTION.unpack_from(result, offset)
        if opcode == _LOAD_64:
            if registers >> 4 == _MAP_FD:
                _INSTRUCTION.pack_into(result, offset, opcode, registers, off, to(immediate))
            offset += _INSTRUCTION.size
        offset += _INSTRUCTION.size
    return bytes(result)
