# SPDX-License-Identifier: Apache-2.0
"""loader/compile.py: a BCC that is not there, or too old, is told before anything is asked of it."""

import sys
from types import ModuleType

import pytest

from exporter.errors import CompileError
from exporter.loader import compile


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("0.18.0", True),
        ("0.25.0", True),
        ("0.3.1", True),
        ("0.26.0", False),
        ("0.26.0+ds", False),
        ("0.37.0", False),
        ("1.0", False),
        ("@REVISION@", False),
    ],
)
def test_versions_by_their_numbers(version: str, old: bool) -> None:
    """Before 0.26 is too old; what tells no numbers is given a try."""
    assert compile.too_old(version) == old


def test_an_old_bcc_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its compiler is not asked for what it may crash on."""
    old, lib = ModuleType("bcc"), ModuleType("bcc.libbcc")
    vars(old).update(BPF=object, __version__="0.18.0")
    vars(lib).update(lib=None)
    monkeypatch.setitem(sys.modules, "bcc", old)
    monkeypatch.setitem(sys.modules, "bcc.libbcc", lib)
    with pytest.raises(CompileError) as told:
        compile.compile_source("p", "", "")
    assert told.value.reason == "BCC 0.18.0 is too old: install python3-bpfcc 0.26 or later"


def test_a_missing_bcc_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module may be another project's of that name, or not be there at all."""
    monkeypatch.setitem(sys.modules, "bcc", ModuleType("bcc"))
    with pytest.raises(CompileError, match=r"^cannot import bcc: .*; install the package python3-bpfcc$"):
        compile.compile_source("p", "", "")
