# SPDX-License-Identifier: Apache-2.0
"""Expressions for tests: at random, as text, and what their numbers are by what the documentation says of them."""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from exporter.expression import Binary, Call, Node, Number, Text, Unary, Word

ARITHMETIC = ("+", "-", "*", "/", "%", "<<", ">>", "&", "|", "^")
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
CASTS = ("s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64")

EDGES = (0, 1, 2, 7, 8, 31, 32, 63, 64, 65, 100, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
         2**62, 2**63 - 1, -1, -2, -8, -63, -64, -100, -128, -(2**15), -(2**31), -(2**32), -(2**63))  # fmt: skip
UNSIGNED_EDGES = (2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1)


def number(chance: Random) -> int:
    """Returns a number at an edge, a small one, or any."""
    return chance.choice(
        (
            lambda: chance.choice(EDGES + UNSIGNED_EDGES),
            lambda: chance.randint(-9, 9),
            lambda: chance.randint(-(2**63), 2**64 - 1),
        )
    )()


def tree(chance: Random, leaf: Callable[[], Node], leaves: int) -> Node:
    """Returns a tree of numbers: every operator and cast, with so many leaves."""
    if chance.random() < 0.2:
        inner = tree(chance, leaf, leaves)
        what = chance.choice(("~", "not", "-", "cast"))
        if what == "cast":
            return Call(chance.choice(CASTS), inner)
        # written down, - ahead of a number is part of it
        return Unary("~" if isinstance(inner, Number) and what == "-" else what, inner)
    if leaves < 2:
        return leaf()
    left = chance.randint(1, leaves - 1)
    operator = chance.choice(chance.choice((ARITHMETIC, COMPARISONS, ("and", "or"))))
    return Binary(operator, tree(chance, leaf, left), tree(chance, leaf, leaves - left))


def written(node: Node) -> str:
    """Returns a tree as text, with a parenthesis around whatever has parts."""
    match node:
        case Number(value):
            return str(value) if value >= 0 else f"({value})"
        case Text(value):
            return repr(value)
        case Word():
            return str(node)
        case Call(function, argument, size):
            return f"{function}({written(argument)}{'' if size is None else f', {size}'})"
        case Unary(operator, operand):
            return f"({operator} {written(operand)})"
        case Binary(operator, left, right):
            return f"({written(left)} {operator} {written(right)})"
    raise AssertionError(node)


def wrapped(value: int, signed: bool, bits: int = 64) -> int:
    """Returns what so many bits keep of a number."""
    value &= 2**bits - 1
    return value - 2**bits if signed and value >> (bits - 1) else value


def worth(node: Node, words: Mapping[str, tuple[int, bool]], texts: Mapping[str, str] = {}) -> tuple[int, bool]:
    """Returns the number that a tree is, and whether it is a signed one; words have their numbers, texts theirs."""

    def inner(node: Node) -> tuple[int, bool]:
        return worth(node, words, texts)

    match node:
        case Number(value):
            return value, value < 2**63
        case Word():
            return words[str(node)]
        case Call(function, argument, _):
            signed, bits = function[0] == "s", int(function[1:])
            return wrapped(inner(argument)[0], signed, bits), signed or bits < 64
        case Unary("not", operand):
            return int(not inner(operand)[0]), True
        case Unary("-", operand):
            return wrapped(-inner(operand)[0], True), True
        case Unary("~", operand):
            value, signed = inner(operand)
            return wrapped(~value, signed), signed
        case Binary(operator, Text(text), Word() as word) | Binary(operator, Word() as word, Text(text)):
            return int((texts[str(word)] == text) == (operator == "==")), True
        case Binary("and", left, right):
            return int(bool(inner(left)[0]) and bool(inner(right)[0])), True
        case Binary("or", left, right):
            return int(bool(inner(left)[0]) or bool(inner(right)[0])), True
        case Binary(operator, left, right):
            return _between(operator, inner(left), inner(right))
    raise AssertionError(node)


def _between(operator: str, left: tuple[int, bool], right: tuple[int, bool]) -> tuple[int, bool]:
    (a, a_signed), (b, b_signed) = left, right
    signed = a_signed and b_signed
    comparisons: dict[str, Any] = {
        "==": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b,
    }  # fmt: skip
    if operator in comparisons:
        return int(comparisons[operator]), True
    if operator in ("<<", ">>"):
        b = wrapped(b, False)
        if operator == "<<":
            return wrapped(a << b if b < 64 else 0, a_signed), a_signed
        return a >> min(b, 64), a_signed
    if operator in ("/", "%"):
        if not signed:
            a, b = wrapped(a, False), wrapped(b, False)
        quotient = abs(a) // abs(b) if b else 0
        if (a < 0) != (b < 0):
            quotient = -quotient
        if operator == "/":
            return wrapped(quotient, signed), signed
        return wrapped(a - quotient * b if b else 0, signed), signed
    numbers = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "&": lambda: a & b, "|": lambda: a | b}
    numbers["^"] = lambda: a ^ b
    return wrapped(numbers[operator](), signed), signed
