# SPDX-License-Identifier: Apache-2.0
"""What is generated is what its sources make of it now."""

import pytest

from generate.__main__ import texts
from tests.documents import ROOT

TEXTS = texts()


@pytest.mark.parametrize("name", TEXTS)
def test_files_are_as_generated(name: str) -> None:
    """Where this fails: `python -m generate`, with what tests/requirements.txt has, writes them."""
    assert (ROOT / name).read_text() == TEXTS[name]
