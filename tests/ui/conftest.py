# SPDX-License-Identifier: Apache-2.0
"""A real browser; and root, for a real exporter."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.kernel.conftest import pytest_collection_modifyitems
from tests.ui.browser import Browser

__all__ = ["pytest_collection_modifyitems"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests: each opens pages of its own."""
    if find_spec("selenium") is None:
        pytest.skip("needs python3-selenium")
    for command in ("chromium", "chromedriver"):
        if shutil.which(command) is None:
            pytest.skip(f"needs {command}")
    with Browser() as one:
        yield one
