# SPDX-License-Identifier: Apache-2.0
"""docs/reliability.md: its table is in step with the tests that it names."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| (.+) \| (.+) \| `(\w+)` \|$", (ROOT / "docs" / "reliability.md").read_text(), re.MULTILINE)


def names_in(*folders: str) -> list[str]:
    """Returns the names of the tests in folders."""
    return [
        found.name
        for folder in folders
        for path in (ROOT / "tests" / folder).glob("test_*.py")
        for found in ast.parse(path.read_text()).body
        if isinstance(found, ast.FunctionDef) and found.name.startswith("test_")
    ]


def test_each_test_of_a_fault_has_its_row() -> None:
    """And each row is of a test that there is, once."""
    named = [name for _, _, name in ROWS]
    assert len(named) == len(set(named))
    assert set(names_in("e2e")) - set(named) == set()
    assert set(named) - set(names_in("e2e", "kernel", "vm")) == set()


def test_each_line_of_the_tables_is_read() -> None:
    """No row is left out because it is written otherwise."""
    lines = [line for line in (ROOT / "docs" / "reliability.md").read_text().splitlines() if line.startswith("| ")]
    heads = [line for line in lines if line.startswith("| fault")]
    assert len(lines) - len(heads) == len(ROWS) > 40
