# SPDX-License-Identifier: Apache-2.0
"""A YAML file that remembers its lines, and its comparison with a schema: every problem, with its line.

Imports PyYAML and jsonschema, which together take 15 MB: only short-lived processes import this module.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.reader import ReaderError
from yaml.resolver import Resolver

from exporter.errors import ConfigError, Problem, one_of

Where = tuple[str | int, ...]  # ("probes", "xdp", "interfaces", 0)

MAX_BYTES = 4 << 20  # ten thousand rules have one; more is a mistake, and an alias bomb is worse
_MAX_PLACES = 500_000


@dataclass(frozen=True)
class Document:
    """A file's value and, for each place in it, its line (from 1)."""

    path: Path
    value: Any
    lines: Mapping[Where, int]
    base: Where = ()  # of a part, where it is in the file

    def line(self, where: Where) -> int:
        """Returns the line of a place, or of the nearest place around it."""
        where = (*self.base, *where)
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def part(self, where: Where) -> "Document":
        """Returns what stands at a place, as a document of its own whose problems name the place in the file."""
        value = self.value
        for step in where:
            value = value[step]
        return Document(self.path, value, self.lines, (*self.base, *where))

    def problem(self, where: Where, message: str) -> Problem:
        """Returns a problem at a place, its message led by the place's name: ``probes.xdp.interfaces: …``."""
        name = ".".join(str(part) for part in (*self.base, *where))
        return Problem(self.path, self.line(where), f"{name}: {message}" if name else message)


def read(path: Path) -> Document:
    """Reads a YAML file. Raises ConfigError where it can't be read, is no YAML, or names a key twice."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(path, 0, f"cannot be read: {error.strerror}")]) from error
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem(path, 0, f"is larger than {MAX_BYTES} bytes")])
    loader = None
    try:
        loader, root = _composed(data)
        builder = _Builder(path, loader)
        value = builder.build(root, ()) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise ConfigError([Problem(path, line, f"not YAML: {error.problem or error.context}")]) from error
    except ReaderError as error:  # control characters, invalid UTF-8
        line = data[: error.position].count(b"\n") + 1
        raise ConfigError([Problem(path, line, f"not YAML: {error.reason}")]) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError([Problem(path, 0, f"not YAML: {str(error).splitlines()[0]}")]) from error
    finally:
        if loader is not None:
            loader.dispose()
    if builder.problems:
        raise ConfigError(builder.problems)
    return Document(path, value, builder.lines)


def _composed(data: bytes) -> tuple[yaml.SafeLoader, yaml.Node | None]:
    """Returns a document's nodes, and the loader that knows what scalars are.

    With libyaml's parser, where PyYAML has it, thousands of rules take a quarter of the time; PyYAML's own says better
    what is wrong.
    """
    if yaml.__with_libyaml__:
        loader = _fast_loader()(data)
        try:
            return loader, loader.get_single_node()
        except yaml.YAMLError:
            loader.dispose()
    loader = yaml.SafeLoader(data)
    return loader, loader.get_single_node()


@functools.cache
def _fast_loader() -> type[yaml.SafeLoader]:
    from yaml.cyaml import CParser

    class Loader(Composer, CParser, SafeConstructor, Resolver):  # type: ignore[misc]  # untyped
        """PyYAML's composer is first: libyaml's recurses until the process crashes."""

        def __init__(self, data: bytes) -> None:
            CParser.__init__(self, data)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

    return Loader


class _Builder:
    """Turns a tree of YAML nodes into Python values, keeping the line of each."""

    def __init__(self, path: Path, loader: yaml.SafeLoader) -> None:
        self.path = path
        self.loader = loader
        self.lines: dict[Where, int] = {}
        self.problems: list[Problem] = []
        self.open: list[yaml.Node] = []

    def build(self, node: yaml.Node, where: Where) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(where, line)
        if len(self.lines) > _MAX_PLACES or any(node is outer for outer in self.open):
            raise ValueError("an alias that repeats without end")
        self.open.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(child, (*where, index)) for index, child in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, where)
            return self._scalar(node)
        finally:
            self.open.pop()

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self.loader.construct_object(node)
            if isinstance(value, str):
                value.encode()  # half a surrogate pair, which \\ud800 makes, has no place on a page
            return value
        except (ValueError, LookupError, AttributeError) as error:  # PyYAML's own, of an explicit tag such as !!int
            raise yaml.MarkedYAMLError(problem=f"no value of {node.tag}", problem_mark=node.start_mark) from error

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            # a key is what is written: `on` and `80` are no booleans or numbers here
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(self.path, line, "a key must be a plain word"))
                continue
            key = str(key_node.value)
            if key in result:
                self.problems.append(Problem(self.path, line, f"{key!r} stands here a second time"))
            self.lines[(*where, key)] = line
            result[key] = self.build(value_node, (*where, key))
        return result


def validate(document: Document, schema: Mapping[str, Any]) -> list[Problem]:
    """Compares a document with a JSON schema. Returns every problem, in the order of lines; the list is empty if none.

    A schema's own ``description`` is what a message says is expected there. What is ``writeOnly`` is a secret, which no
    message shows.
    """
    problems: list[Problem] = []
    for error in _Validator(schema).iter_errors(document.value):
        problems.extend(_explain(document, error))
    return sorted(set(problems))


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is of the form of a schema."""
    return bool(_Validator(schema).is_valid(value))


# To JSON schema 5.0 is an integer; to what comes after, it is not.
_Validator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def _explain(document: Document, error: ValidationError) -> Iterable[Problem]:
    where: Where = tuple(error.absolute_path)
    schema = error.schema if isinstance(error.schema, dict) else {}
    deepest = max(error.context or [error], key=lambda inner: len(inner.absolute_path))
    if len(deepest.absolute_path) > len(where):  # of several forms, the one that got furthest is the one that was meant
        yield from _explain(document, deepest)
    elif "propertyNames" in list(error.absolute_schema_path)[-2:]:
        yield document.problem((*where, error.instance), f"not a valid name; expected {schema.get('description')}")
    elif error.validator == "additionalProperties":
        allowed = list(schema.get("properties", {}))
        for key in error.instance:
            if key not in allowed:
                yield document.problem((*where, key), f"unknown key; {one_of(key, allowed)}")
    elif error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        yield document.problem(where, f"lacks {', '.join(repr(key) for key in missing)}")
    else:
        expected = schema.get("description")
        if expected is None and error.validator == "enum":
            expected = "one of " + ", ".join(str(value) for value in error.validator_value)
        found = "nothing" if error.instance is None else _shown(error.instance)
        if schema.get("writeOnly"):
            found = "something else"
        if error.validator == "uniqueItems":
            expected = f"{expected}, each once"
        yield document.problem(where, f"expected {expected}, found {found}" if expected else error.message)


def _shown(value: Any) -> str:
    try:
        return repr(value)[:200]
    except ValueError:  # Python does not write integers of over 4,300 digits
        return "a number of thousands of digits"
