# SPDX-License-Identifier: Apache-2.0
"""grammar.py: texts to trees, and what is said of texts that are none."""

import pytest

from exporter.expression import Binary, Call, ExpressionError, Node, Number, Text, Unary, Word
from exporter.grammar import ALLOWED, MAX_LENGTH, MAX_NODES, parse

A, B, C = Word(("a",)), Word(("b",)), Word(("c",))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("1", Number(1)),
        ("-1", Number(-1)),
        ("0x1f", Number(31)),
        ("0o644", Number(0o644)),
        ("0b101", Number(5)),
        ("1_000", Number(1000)),
        ("-9223372036854775808", Number(-(2**63))),
        ("18446744073709551615", Number(2**64 - 1)),
        ("'sh'", Text("sh")),
        ('"it\'s"', Text("it's")),
        ("'a  b\\tc'", Text("a  b\tc")),
        ("'/a#b'", Text("/a#b")),
        ("'a.if'", Text("a.if")),
        ("args.sk.skc_family", Word(("args", "sk", "skc_family"))),
        ("args.from", Word(("args", "from"))),
        ("args . class . in", Word(("args", "class", "in"))),
        ("str(a)", Call("str", A)),
        ("str(a, 128)", Call("str", A, 128)),
        ("- a", Unary("-", A)),
        ("~a", Unary("~", A)),
        ("not a", Unary("not", A)),
        ("a and b or c", Binary("or", Binary("and", A, B), C)),
        ("a and (b or c)", Binary("and", A, Binary("or", B, C))),
        ("not a == b", Unary("not", Binary("==", A, B))),
        ("a & b == c", Binary("==", Binary("&", A, B), C)),  # unlike C
        ("a + b * c", Binary("+", A, Binary("*", B, C))),
        ("a - b - c", Binary("-", Binary("-", A, B), C)),
        ("a < b <= c", Binary("and", Binary("<", A, B), Binary("<=", B, C))),
        ("a\n  and\n  b", Binary("and", A, B)),
        ("  a  ", A),
    ],
)
def test_parse(text: str, tree: Node) -> None:
    """Numbers as C and Python have them, quotes of both sorts, Python's ranks of operators, words that Python keeps."""
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("operator", "text"), [(operator, f"a {operator} b") for operator in "+ - * / % << >> & | ^".split()]
)
def test_arithmetic(operator: str, text: str) -> None:
    """All operators between numbers."""
    assert parse(text) == Binary(operator, A, B)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n ", "is empty"),
        ("a && b", "'&&': write 'and'"),
        ("a || b", "'||': write 'or'"),
        ("!a", "'!': write 'not'"),
        ("a = 1", "'=': write '==' to compare"),
        ("a == '&&' and", f"cannot be read at \"a == '&&' and\"; allowed are {ALLOWED}"),
        ("a b", f"cannot be read at 'b'; allowed are {ALLOWED}"),
        ("(a", f"cannot be read at '(a'; allowed are {ALLOWED}"),
        ("a # b", "'#': an expression has no comments; write them in the YAML"),
        ("True", "True: write 1 or 0"),
        ("1.5", f"'1.5' is not allowed; {ALLOWED} are"),
        ("a if b else c", f"'a if b else c' is not allowed; {ALLOWED} are"),
        ("a in b", f"'a in b' is not allowed; {ALLOWED} are"),
        ("a[1]", f"'a[1]' is not allowed; {ALLOWED} are"),
        ("a // b", f"'a // b' is not allowed; {ALLOWED} are"),
        ("b'x'", f"\"b'x'\" is not allowed; {ALLOWED} are"),
        ("f()", f"'f()' is not allowed; {ALLOWED} are"),
        ("f(a, 1, 2)", f"'f(a, 1, 2)' is not allowed; {ALLOWED} are"),
        ("str(a, b)", "str: after the comma there must be a number of bytes"),
        ("str(a, True)", "str: after the comma there must be a number of bytes"),
        ("str(args.from).x", "'str(args.from)' has no members"),
        ("18446744073709551616", "a number is beyond 64 bits"),
        ("-9223372036854775809", "a number is beyond 64 bits"),
        ("a == 'x\\0'", "'x\\x00': no text of the kernel's has such a character"),
        ("a" * (MAX_LENGTH + 1), "has 1001 characters; at most 1000 are allowed"),
        ("~" * MAX_NODES + "1", "has more than 100 parts; at most 100 are allowed"),
        (
            ".".join("abcdefghijklm"),
            "'a.b.c.d.e.f.g.h.i.j.k.l.m' … has 13 parts; at most 12 are allowed",
        ),
    ],
)
def test_what_is_no_expression(text: str, message: str) -> None:
    """Each names the word, and what could stand there."""
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_as_many_parts_as_are_allowed() -> None:
    """The limit itself is allowed."""
    assert parse("~" * (MAX_NODES - 1) + "1")
    assert parse("a" * MAX_LENGTH)
