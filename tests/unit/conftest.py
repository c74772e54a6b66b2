# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the unit tests, which need no root, no BPF and no network beyond loopback."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

# it would make a folder .hypothesis where it is started
_home = tempfile.TemporaryDirectory(prefix="hypothesis-")
set_hypothesis_home_dir(_home.name)
# the same examples each time: what fails here fails everywhere
hypothesis.settings.register_profile("unit", deadline=None, max_examples=100, derandomize=True, database=None)
hypothesis.settings.load_profile("unit")

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a file under the test's own folder: name, text -> path."""

    def write_one(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_one
