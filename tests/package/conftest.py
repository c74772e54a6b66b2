# SPDX-License-Identifier: Apache-2.0
"""The tree as it is built from."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def clone() -> Iterator[Path]:
    """A copy, in a folder that is open to all users."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(
            shutil.copytree(ROOT, Path(folder) / "clone", ignore=shutil.ignore_patterns(".*", "__pycache__", "dist"))
        )


def shipped(folder: Path) -> dict[str, bytes]:
    """Returns what a user gets of a tree: the program and its probes, by their paths."""
    files = [path for name in ("exporter", "bpf") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "__pycache__" not in path.parts}
