# SPDX-License-Identifier: Apache-2.0
"""loader/usdt.py: what the notes of USDT probes say of their arguments, as C."""

import re
from types import SimpleNamespace

import pytest

from exporter.loader import usdt

REGISTERS = {"ax": 0x1122334455667788, "cx": 3, "di": 0xFFFFFFFF_FFFFFFFB, "bp": 0x1000, "sp": 0x2000, "r8": 2**64 - 1}
REGISTERS |= {"bx": 0, "dx": 0, "si": 0, "ip": 0x400000, **{f"r{number}": number for number in range(9, 16)}}
CONTEXT = SimpleNamespace(**REGISTERS, regs=[10 * number for number in range(31)])
CONTEXT.regs[1], CONTEXT.regs[30] = 0xFFFF_FFFF_0000_0002, 2**64 - 1


def computed(c: str) -> int:
    """Returns what C of casts, sums and shifts yields, by Python."""
    text = re.sub(r"\(([su])(\d+)\)", r"\1\2*", c).replace("ULL", "").replace("ctx->", "ctx.")

    class Cast:
        def __init__(self, bits: int, signed: bool) -> None:
            self.bits, self.signed = bits, signed

        def __mul__(self, value: int) -> int:
            low = value & (1 << self.bits) - 1
            return low - (1 << self.bits) if self.signed and low >> self.bits - 1 else low

    casts = {f"{sign}{bits}": Cast(bits, sign == "s") for sign in "su" for bits in (8, 16, 32, 64)}
    result = eval(text, {"__builtins__": {}}, {"ctx": CONTEXT, **casts})
    assert isinstance(result, int)
    return result


def value(argument: usdt.Argument) -> int:
    """Returns an argument's value, or of memory the address."""
    c = argument.c if argument.memory else f"({argument.c_type})({argument.c})"
    return computed(c) % 2**64 if argument.memory else computed(c)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-4@%edi", -5),
        ("8@%rdi", 0xFFFFFFFF_FFFFFFFB),
        ("-8@%rdi", -5),
        ("4@%edi", 0xFFFFFFFB),
        ("-1@%dil", -5),
        ("1@%al", 0x88),
        ("1@%ah", 0x77),
        ("2@%ax", 0x7788),
        ("8@%eax", 0x55667788),
        ("-4@%r8d", -1),
        ("2@%r8w", 0xFFFF),
        ("1@%r15b", 15),
        ("4@$5", 5),
        ("-4@$-7", -7),
        ("2@$-1", 65535),
        ("8@$-1", 2**64 - 1),
    ],
)
def test_values_on_x86_64(text: str, expected: int) -> None:
    """A register, or a part of it, or a constant, in its size and sign."""
    [argument] = usdt.parse(text, "x86_64")
    assert (value(argument), argument.memory, argument.text) == (expected, False, text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8@-8(%rbp)", 0xFF8),
        ("-4@(%rsp)", 0x2000),
        ("-4@0x10(%rsp)", 0x2010),
        ("8@(%rbp,%rcx,8)", 0x1018),
        ("8@16(%rbp,%rcx,4)", 0x101C),
        ("8@4096(,%rcx,8)", 0x1018),
        ("8@(%rbp,%rcx)", 0x1003),
        ("4@11304(%rip)", 0x400000 + 11304),
        ("4@-8(%rip)", 0x400000 - 8),
    ],
)
def test_memory_on_x86_64(text: str, address: int) -> None:
    """An address by a base, an index with its scale, and an offset."""
    [argument] = usdt.parse(text, "x86_64")
    assert (value(argument), argument.memory) == (address, True)


@pytest.mark.parametrize(
    ("text", "expected", "memory"),
    [
        ("8@x3", 30, False),
        ("-4@w1", 2, False),
        ("-8@x30", -1, False),
        ("4@5", 5, False),
        ("-4@-3", -3, False),
        ("8@xzr", 0, False),
        ("8@sp", 0x2000, False),
        ("-4@[sp, 60]", 0x2000 + 60, True),
        ("8@[x2]", 20, True),
        ("8@[x2, #-8]", 12, True),
        ("8@[x2,x3]", 50, True),
        ("8@[x2, x3, lsl 3]", 20 + 240, True),
    ],
)
def test_arguments_on_arm64(text: str, expected: int, memory: bool) -> None:
    """Registers and constants; memory in brackets."""
    [argument] = usdt.parse(text, "aarch64")
    assert (value(argument), argument.memory) == (expected, memory)


def test_several_arguments() -> None:
    """Between them is a space, as there is in some of them."""
    assert [one.text for one in usdt.parse("-4@[sp, 60] 8@x0 4@5", "aarch64")] == ["-4@[sp, 60]", "8@x0", "4@5"]
    assert [one.text for one in usdt.parse("-4@%edi 8@-8(%rbp)", "x86_64")] == ["-4@%edi", "8@-8(%rbp)"]
    assert usdt.parse("", "x86_64") == ()


@pytest.mark.parametrize(
    "text",
    ["8f@%xmm0", "8@%xmm0", "8@elsewhere(%rip)", "8@$symbol", "4@%fs:8", "16@%rax", "8@(%rax,%xmm1)", "nonsense"],
)
def test_what_cannot_be_read_is_left(text: str) -> None:
    """Its text is known, and that there is no C for it."""
    [argument] = usdt.parse(text, "x86_64")
    assert (argument.text, argument.c) == (text, "")
    assert usdt.parse(text, "riscv64")[0].c == ""
