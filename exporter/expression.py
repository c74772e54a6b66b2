# SPDX-License-Identifier: Apache-2.0
"""Expressions of probes in YAML, as trees. ``grammar`` makes them of text; what they mean is for ``loader.body``."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from exporter.errors import Problem


class ExpressionError(Exception):
    """An expression that can't be; the message names the word and what could stand there."""


@dataclass(frozen=True)
class Number:
    """A whole number from -2**63 to 2**64-1."""

    value: int


@dataclass(frozen=True)
class Text:
    """What stands between quotes."""

    value: str


@dataclass(frozen=True)
class Word:
    """A word, with its members: ``args.sk.skc_family`` is ("args", "sk", "skc_family")."""

    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True)
class Call:
    """A function of one value; size is the whole number that may follow it: ``str(args.name, 128)``."""

    function: str
    argument: "Node"
    size: int | None = None


@dataclass(frozen=True)
class Unary:
    """``-``, ``~`` or ``not`` of a value."""

    operator: str
    operand: "Node"


@dataclass(frozen=True)
class Binary:
    """Two values with what is between: arithmetic, a comparison, ``and`` or ``or``."""

    operator: str
    left: "Node"
    right: "Node"


Node = Number | Text | Word | Call | Unary | Binary


@dataclass(frozen=True)
class Expression:
    """A tree with its text, and where it stands: a problem that names the place and has still to say what is wrong.

    The same expression on another line is the same.
    """

    tree: Node
    text: str
    place: Problem = field(compare=False)

    def problem(self, message: str) -> Problem:
        """Returns what is wrong with it."""
        return Problem(self.place.path, self.place.line, self.place.message + message)


def nodes(node: Node) -> Iterator[Node]:
    """Yields a tree's nodes, the root first."""
    yield node
    match node:
        case Call(_, inner, _) | Unary(_, inner):
            yield from nodes(inner)
        case Binary(_, left, right):
            yield from nodes(left)
            yield from nodes(right)
