# SPDX-License-Identifier: Apache-2.0
"""From the text of an expression to its tree.

The grammar is a part of Python's, whose parser reads it: numbers, texts in quotes, words, ``args.a.b``, calls of
functions, arithmetic, comparison, ``and or not``. All that is not named here is an error.
"""

import ast
import keyword
import re
import warnings
from collections.abc import Iterator
from itertools import islice

from exporter.expression import Binary, Call, ExpressionError, Node, Number, Text, Unary, Word, nodes

MAX_LENGTH = 1000  # characters
MAX_NODES = 100  # so that the registers and the stack of a BPF program do

MAX_MEMBERS = 12  # each may be a read of memory

ARITHMETIC = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Mod: "%",
    ast.LShift: "<<", ast.RShift: ">>", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
}  # fmt: skip
COMPARISON = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
UNARY = {ast.USub: "-", ast.Invert: "~", ast.Not: "not"}

ALLOWED = "numbers, texts in quotes, + - * / % << >> & | ^ ~, == != < <= > >=, and, or, not, and parentheses"
_KEYWORD_MEMBER = re.compile(rf"\.\s*({'|'.join(keyword.kwlist)})\b")
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", re.DOTALL)
_HIDDEN = "_ebpf_keyword_"


def parse(text: str) -> Node:
    """Returns the tree of an expression. Raises ExpressionError for whatever is not of the grammar."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    if not text.strip():
        raise ExpressionError("is empty")
    outside = _QUOTED.split(text)[::2]
    if any("#" in part for part in outside):
        raise ExpressionError("'#': an expression has no comments; write them in the YAML")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and calls: what is odd is refused below
            tree = ast.parse(_hidden(text), mode="eval").body
            node = _node(tree)
            # a chain has its inner parts twice, a chain of chains has more than there is time to count
            count = sum(1 for _ in islice(nodes(node), MAX_NODES + 1))
    except SyntaxError as error:
        raise ExpressionError(_explained("".join(outside), error)) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text[:100]!r} is no expression; allowed are {ALLOWED}") from error
    if count > MAX_NODES:
        raise ExpressionError(f"has more than {MAX_NODES} parts; at most {MAX_NODES} are allowed")
    return node


def _hidden(text: str) -> str:
    """Returns a text in one line whose words Python takes for words.

    A field may have a name that Python keeps for itself: ``args.from``. What is between quotes stays as it is.
    """
    return "".join(
        part if at % 2 else _KEYWORD_MEMBER.sub(rf".{_HIDDEN}\1", re.sub(r"\s+", " ", part))
        for at, part in enumerate(_QUOTED.split(text))
    ).strip()


def _explained(text: str, error: SyntaxError) -> str:
    """Says what is wrong where Python only says that something is; text is what is outside of quotes."""
    for wrong, right in (("&&", "and"), ("||", "or")):
        if wrong in text:
            return f"{wrong!r}: write {right!r}"
    if re.search(r"!(?!=)", text):
        return "'!': write 'not'"
    if re.search(r"(?<![=!<>])=(?!=)", text):
        return "'=': write '==' to compare"
    near = (error.text or "")[max((error.offset or 1) - 1, 0) :][:20].replace(_HIDDEN, "").strip()
    return f"cannot be read{f' at {near!r}' if near else ', for it ends too soon'}; allowed are {ALLOWED}"


def _node(tree: ast.expr) -> Node:
    match tree:
        case ast.Constant(value=bool()):
            raise ExpressionError(f"{tree.value!r}: write 1 or 0")
        case ast.Constant(value=int() as value):
            return _number(value)
        case ast.Constant(value=str() as value):
            if "\0" in value or not _encodable(value):
                raise ExpressionError(f"{value!r}: no text of the kernel's has such a character")
            return Text(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)) if not isinstance(value, bool):
            return _number(-value)
        case ast.Name() | ast.Attribute():
            path = tuple(_path(tree))
            if len(path) > MAX_MEMBERS:
                raise ExpressionError(
                    f"{'.'.join(path)[:50]!r} … has {len(path)} parts; at most {MAX_MEMBERS} are allowed"
                )
            return Word(path)
        case ast.UnaryOp(op=operator, operand=operand) if type(operator) in UNARY:
            return Unary(UNARY[type(operator)], _node(operand))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in ARITHMETIC:
            return Binary(ARITHMETIC[type(operator)], _node(left), _node(right))
        case ast.BoolOp(op=operator, values=values):
            word = "and" if isinstance(operator, ast.And) else "or"
            return _chain(word, [_node(value) for value in values])
        case ast.Compare(left=left, ops=operators, comparators=rights) if all(
            type(one) in COMPARISON for one in operators
        ):
            # a < b < c is a < b and b < c, as in Python
            operands = [_node(one) for one in (left, *rights)]
            return _chain(
                "and",
                [
                    Binary(COMPARISON[type(operator)], operands[at], operands[at + 1])
                    for at, operator in enumerate(operators)
                ],
            )
        case ast.Call(func=ast.Name(id=function), args=[argument, *sizes], keywords=[]) if len(sizes) < 2:
            return Call(function, _node(argument), _size(function, sizes[0]) if sizes else None)
    raise ExpressionError(f"{_shown(tree)} is not allowed; {ALLOWED} are")


def _shown(tree: ast.expr) -> str:
    return repr(ast.unparse(tree)[:100].replace(_HIDDEN, ""))


def _number(value: int) -> Number:
    if not -(2**63) <= value < 2**64:
        raise ExpressionError("a number is beyond 64 bits")
    return Number(value)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path(tree: ast.expr) -> Iterator[str]:
    if isinstance(tree, ast.Attribute):
        yield from _path(tree.value)
        yield tree.attr.removeprefix(_HIDDEN)
    elif isinstance(tree, ast.Name):
        yield tree.id
    else:
        raise ExpressionError(f"{_shown(tree)} has no members")


def _size(function: str, tree: ast.expr) -> int:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int) and not isinstance(tree.value, bool):
        return tree.value
    raise ExpressionError(f"{function}: after the comma there must be a number of bytes")


def _chain(operator: str, operands: list[Node]) -> Node:
    result = operands[0]
    for operand in operands[1:]:
        result = Binary(operator, result, operand)
    return result
