# SPDX-License-Identifier: Apache-2.0
"""document.py: values with their lines, and what is said of files that are wrong."""

from pathlib import Path
from typing import Any

import pytest

from exporter import document
from exporter.document import MAX_BYTES, Where
from exporter.errors import ConfigError, one_of

from .conftest import Write

NESTED = """\
# a comment
listen:
  - localhost:9435

  - ":80"
probes:
  xdp: {interfaces: [auto, eth0],
        mode: auto}
  off:
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ((), 2),
        (("listen",), 2),
        (("listen", 0), 3),
        (("listen", 1), 5),
        (("probes", "xdp"), 7),
        (("probes", "xdp", "interfaces"), 7),
        (("probes", "xdp", "interfaces", 1), 7),
        (("probes", "xdp", "mode"), 8),
        (("probes", "off"), 9),
        (("probes", "xdp", "labels", 3), 7),  # not there: the nearest around it
        (("nothing",), 2),
    ],
)
def test_line_of_a_place(write: Write, where: Where, line: int) -> None:
    """Each key and each item has the line that it stands on; what is missing has the line of what is around it."""
    assert document.read(write("c.yaml", NESTED)).line(where) == line


def test_a_part_is_a_document_that_knows_its_place(write: Write) -> None:
    """What is wrong in it is told with the line and the place in the whole file."""
    part = document.read(write("c.yaml", NESTED)).part(("probes", "xdp")).part(("interfaces",))
    assert part.value == ["auto", "eth0"]
    assert [part.line(()), part.line((1,)), part.line((7,))] == [7, 7, 7]
    assert str(part.problem((1,), "is down")) == f"{part.path}:7: probes.xdp.interfaces.1: is down"
    assert str(part.problem((), "is long")) == f"{part.path}:7: probes.xdp.interfaces: is long"


def test_value_is_what_is_written(write: Write) -> None:
    """The value is that of YAML, with keys as text."""
    expected = {
        "listen": ["localhost:9435", ":80"],
        "probes": {"xdp": {"interfaces": ["auto", "eth0"], "mode": "auto"}, "off": None},
    }
    assert document.read(write("c.yaml", NESTED)).value == expected


def test_keys_are_text_as_written(write: Write) -> None:
    """Words that YAML takes for booleans or numbers are plain keys."""
    assert document.read(write("c.yaml", "{on: 1, 80: 2, null: 3, 1.50: 4}")).value == {
        "on": 1,
        "80": 2,
        "null": 3,
        "1.50": 4,
    }


def test_an_alias_is_its_anchor_again(write: Write) -> None:
    """A value can be reused; each of its places has a line."""
    found = document.read(write("c.yaml", "one: &x\n  a: [1]\ntwo: *x\n"))
    assert found.value == {"one": {"a": [1]}, "two": {"a": [1]}}
    assert found.line(("two",)) == 3
    assert found.line(("one", "a", 0)) == 2


def test_an_empty_file_is_nothing(write: Write) -> None:
    """An empty file has the value None, at line 1."""
    found = document.read(write("c.yaml", "# only a comment\n"))
    assert (found.value, found.line(("probes",))) == (None, 1)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "3: 'a' stands here a second time"),
        ("a:\n  b: 1\n  b: 1\n", "3: 'b' stands here a second time"),
        ("a: [1\nb: 2\n", "2: not YAML: expected ',' or ']', but got ':'"),
        ("a: b: c\n", "1: not YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "2: not YAML: found character '\\t' that cannot start any token"),
        ("a: *b\n", "1: not YAML: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2\n", "2: not YAML: but found another document"),
        ("a: 1\nb: !!python/name:os.system x\n", "2: not YAML: could not determine a constructor for the tag"),
        ("? [a, b]\n: 1\n", "1: a key must be a plain word"),
        ("a: &a [1, *a]\n", " not YAML: an alias that repeats without end"),
        (BOMB, " not YAML: an alias that repeats without end"),
        ("a: \x01\n", "1: not YAML: special characters are not allowed"),
        ("[" * 2000, " not YAML: maximum recursion depth exceeded"),
    ],
)
def test_what_is_no_document(write: Write, text: str, problem: str) -> None:
    """What can't be taken for a document is a ConfigError of one problem, with its line where there is one."""
    path = write("c.yaml", text)
    with pytest.raises(ConfigError) as caught:
        document.read(path)
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(f"{path}:{problem}")


@pytest.mark.parametrize("value", ["2001-99-99", "!!bool perhaps", "!!int ''", "!!float ''", "!!timestamp soon"])
def test_a_value_that_is_none_of_its_type(write: Write, value: str) -> None:
    """A value that YAML's own tags forbid is a problem of the file, not a fault of ours."""
    path = write("c.yaml", f"a: {value}\n")
    with pytest.raises(ConfigError) as caught:
        document.read(path)
    assert [(problem.path, "not YAML: " in str(problem)) for problem in caught.value.problems] == [(path, True)]


def test_every_second_key_is_reported(write: Write) -> None:
    """Several keys that stand twice are several problems."""
    with pytest.raises(ConfigError) as caught:
        document.read(write("c.yaml", "a: 1\na: 2\nb: {c: 1, c: 2}\n"))
    assert [problem.line for problem in caught.value.problems] == [2, 3]


@pytest.mark.parametrize(("name", "reason"), [("absent.yaml", "No such file or directory"), (".", "Is a directory")])
def test_unreadable_file(tmp_path: Path, name: str, reason: str) -> None:
    """A file that can't be read is a problem of the file as a whole, with the system's reason."""
    path = tmp_path / name
    with pytest.raises(ConfigError) as caught:
        document.read(path)
    assert str(caught.value) == f"{path}: cannot be read: {reason}"


def test_too_large_file(write: Write) -> None:
    """A file of a byte more than the limit is refused; one of the limit is read."""
    assert document.read(write("good.yaml", "#" * MAX_BYTES)).value is None
    path = write("c.yaml", "#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError) as caught:
        document.read(path)
    assert str(caught.value) == f"{path}: is larger than {MAX_BYTES} bytes"


SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "settings",
    "additionalProperties": False,
    "required": ["name", "mode"],
    "properties": {
        "name": {"type": "string", "description": "a name"},
        "mode": {"enum": ["auto", "native"]},
        "sizes": {"type": "array", "items": {"type": "integer"}},
        "probes": {
            "type": "object",
            "propertyNames": {"pattern": "^[a-z]+$", "description": "small letters"},
            "additionalProperties": {"type": "object", "description": "settings of a probe"},
        },
    },
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nmode: auto\n", []),
        ("name: a\nmode: auto\nnmae: b\n", ["3: nmae: unknown key; did you mean 'name'? "
                                           "allowed: name, mode, sizes, probes"]),
        ("name: a\nmode: auto\nzzz: b\n", ["3: zzz: unknown key; allowed: name, mode, sizes, probes"]),
        ("mode: auto\nname: 3\n", ["2: name: expected a name, found 3"]),
        ("mode: auto\nname:\n", ["2: name: expected a name, found nothing"]),
        ("name: a\nmode: fast\n", ["2: mode: expected one of auto, native, found 'fast'"]),
        ("name: a\nmode: auto\nsizes: [1, x]\n", ["3: sizes.1: 'x' is not of type 'integer'"]),
        ("name: a\n", ["1: lacks 'mode'"]),
        ("sizes: []\n", ["1: lacks 'name', 'mode'"]),
        ("[]", ["1: expected settings, found []"]),
        ("", ["1: expected settings, found nothing"]),
        ("name: a\nmode: auto\nprobes:\n  x: {}\n  X: {}\n", ["5: probes.X: not a valid name; expected small letters"]),
    ],
)  # fmt: skip
def test_validate_says_where_and_what_is_expected(write: Write, text: str, expected: list[str]) -> None:
    """Each difference from the schema is told once, with its line, its place and what is expected there."""
    found = document.read(write("c.yaml", text))
    assert [str(problem) for problem in document.validate(found, SCHEMA)] == [
        f"{found.path}:{problem}" for problem in expected
    ]


def test_all_problems_at_once_in_the_order_of_lines(write: Write) -> None:
    """Nothing hides another problem, and they read from the top of the file to its end."""
    found = document.read(write("c.yaml", "zzz: 1\nmode: fast\nname: 3\nsizes: [x]\nyyy: 1\n"))
    assert [problem.line for problem in document.validate(found, SCHEMA)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("word", "allowed", "expected"),
    [
        ("lables", ["labels", "metrics"], "did you mean 'labels'? allowed: labels, metrics"),
        ("zzz", ["labels", "metrics"], "allowed: labels, metrics"),
        ("zzz", [], "allowed: none"),
    ],
)
def test_one_of(word: str, allowed: list[str], expected: str) -> None:
    """The near word is offered, all are listed."""
    assert one_of(word, allowed) == expected
