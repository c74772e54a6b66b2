# SPDX-License-Identifier: Apache-2.0
"""loader/bytecode.py: references to maps in instructions."""

import struct

import pytest

from exporter.loader.bytecode import relocate


def instruction(opcode: int, source: int = 0, immediate: int = 0) -> bytes:
    """One instruction, to register 1."""
    return struct.pack("<BBhi", opcode, source << 4 | 1, 0, immediate)


MOVE = instruction(0xB7, 0, 3)
EXIT = instruction(0x95)
CALL = instruction(0x85, 1, 3)  # a call within the program: source register 1, but no load of a map


def load_map(reference: int) -> bytes:
    return instruction(0x18, 1, reference) + instruction(0, 0, 0)


def load_number(low: int, high: int) -> bytes:
    return instruction(0x18, 0, low) + struct.pack("<BBhi", 0, 0, 0, high)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (MOVE + EXIT, MOVE + EXIT),
        (load_map(3) + EXIT, load_map(103) + EXIT),
        (load_map(3) + MOVE + load_map(4) + load_map(3), load_map(103) + MOVE + load_map(104) + load_map(103)),
        (load_number(3, 4) + CALL, load_number(3, 4) + CALL),
        # the second half of a number that looks like a load of a map's address
        (
            instruction(0x18, 0, 7) + instruction(0x18, 1, 3) + EXIT,
            instruction(0x18, 0, 7) + instruction(0x18, 1, 3) + EXIT,
        ),
    ],
)
def test_relocate(before: bytes, after: bytes) -> None:
    """Only the references to maps are replaced; all else stays, byte for byte."""
    assert relocate(before, lambda reference: reference + 100) == after


def test_there_and_back() -> None:
    """Descriptors to positions and back to other descriptors, as the two sides of a compile do it."""
    positions = {17: 0, 23: 1}
    compiled = relocate(load_map(23) + load_map(17), positions.__getitem__)
    assert relocate(compiled, [5, 6].__getitem__) == load_map(6) + load_map(5)
