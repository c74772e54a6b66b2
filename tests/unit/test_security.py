# SPDX-License-Identifier: Apache-2.0
"""docs/security.md: each statement names tests that there are; capabilities and figures are those of the unit."""

import ast
import re
from pathlib import Path

from exporter import privileges

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
UNIT = (ROOT / "deploy" / "systemd" / "ebpf-exporter.service").read_text()
NAMED = re.compile(r"`(test_\w+)`")


def present() -> set[str]:
    """Returns the names of all tests of this project."""
    return {
        found.name
        for path in (ROOT / "tests").glob("*/**/test_*.py")
        for found in ast.walk(ast.parse(path.read_text()))
        if isinstance(found, ast.FunctionDef) and found.name.startswith("test_")
    }


def tables() -> list[list[list[str]]]:
    """Returns the cells of each table, by rows, the head first."""
    found = [re.findall(r"^\| (.*) \|$", table, re.MULTILINE) for table in re.split(r"\n\n", TEXT)]
    return [[row.split(" | ") for row in rows] for rows in found if rows]


def test_tests_that_are_named_are_there() -> None:
    """By their names, in whatever folder."""
    named = set(NAMED.findall(TEXT))
    assert len(named) > 50
    assert named - present() == set()


def test_each_row_names_its_test() -> None:
    """Of every table that has a column of tests."""
    shown = [rows for rows in tables() if rows[0][-1] == "test"]
    assert len(shown) == 6
    for rows in shown:
        assert [row for row in rows[1:] if len(row) != len(rows[0]) or not NAMED.search(row[-1])] == []


def test_capabilities_are_those_of_the_unit() -> None:
    """None is kept quiet about."""
    [table] = [rows for rows in tables() if rows[0][0] == "capability"]
    said = [name for row in table[1:] for name in re.findall(r"CAP_\w+", row[0])]
    given = [name for line in re.findall(r"^CapabilityBoundingSet=(.+)$", UNIT, re.MULTILINE) for name in line.split()]
    assert sorted(said) == sorted(given)


def test_the_figure_is_what_a_test_allows() -> None:
    """What systemd says of the unit is asked for in a virtual machine, with this limit."""
    [figure] = re.findall(r"Systemd's own measure .* is (\d\.\d)", TEXT)
    service = (ROOT / "tests" / "vm" / "test_service.py").read_text()
    assert re.findall(r"--threshold=(\d+)", service) == [figure.replace(".", "")]


def test_names_that_are_told_are_those_of_the_code() -> None:
    """The worker's user, and its number where there is none."""
    assert f"`{privileges.USER}`, without groups; where there is no such user, {privileges.NUMBER} " in TEXT
