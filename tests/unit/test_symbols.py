# SPDX-License-Identifier: Apache-2.0
"""symbols.py: addresses to names, through the table that privileges make and others read."""

import os
from pathlib import Path

import pytest

from exporter import symbols
from exporter.errors import LoadError
from exporter.symbols import LONGEST, Symbols

KALLSYMS = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 t vfs_read
ffffffff81000200 W weak_one
ffffffff82000000 D a_datum
ffffffff82000008 r another
ffffffff82000100 T after_data
ffffffff82000180 d same_place
ffffffff82000180 t function_at_same_place
ffffffffc0000000 t nf_nat_init\t[nf_nat]
ffffffffc0000040 t bpf_prog_6deef7357e7b4530_on_event\t[bpf]
ffffffffc0000020 t grün_\udcff\t[nf_nat]
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Symbols:
    monkeypatch.setattr(symbols, "KALLSYMS", tmp_path / "kallsyms")
    symbols.KALLSYMS.write_bytes(KALLSYMS.encode("utf-8", "surrogateescape"))
    fd = symbols.build()
    found = Symbols()
    found.use(fd)
    os.close(fd)
    return found


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0, "0x0"),
        (42, "0x2a"),
        (0xFFFFFFFF80FFFFFF, "0xffffffff80ffffff"),
        (0xFFFFFFFF81000000, "_stext"),
        (0xFFFFFFFF810000FF, "_stext"),
        (0xFFFFFFFF81000100, "vfs_read"),
        (0xFFFFFFFF81000101, "vfs_read"),
        (0xFFFFFFFF81000200, "weak_one"),
        (0xFFFFFFFF81000200 + LONGEST, "0xffffffff81100200"),
        (0xFFFFFFFF82000000, "0xffffffff82000000"),
        (0xFFFFFFFF82000010, "0xffffffff82000010"),
        (0xFFFFFFFF82000100, "after_data"),
        (0xFFFFFFFF82000180, "function_at_same_place"),
        (0xFFFFFFFFC0000010, "nf_nat_init"),
        (0xFFFFFFFFC0000021, "grün_\\xff"),
        (0xFFFFFFFFC0000041, "bpf_prog_6deef7357e7b4530_on_event"),
        (2**64 - 1, "0xffffffffffffffff"),
    ],
)
def test_name(table: Symbols, address: int, name: str) -> None:
    """An address within a function has its name, the first of several; all else reads as the number."""
    assert table.name(address) == name


def test_before_there_is_a_table() -> None:
    """Without a table addresses are numbers."""
    assert Symbols().name(0xFFFFFFFF81000000) == "0xffffffff81000000"


def test_what_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel shows zeros, or has no such file, a probe is told why."""
    monkeypatch.setattr(symbols, "KALLSYMS", tmp_path / "kallsyms")
    with pytest.raises(LoadError, match="CONFIG_KALLSYMS"):
        symbols.build()
    symbols.KALLSYMS.write_text("0000000000000000 T _stext\n0000000000000000 t vfs_read\n")
    with pytest.raises(LoadError, match=r"CAP_SYSLOG, and kernel\.kptr_restrict below 2"):
        symbols.build()


def test_the_table_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the table can't change it for others."""
    monkeypatch.setattr(symbols, "KALLSYMS", tmp_path / "kallsyms")
    symbols.KALLSYMS.write_text("ffffffff81000000 T _stext\n")
    fd = symbols.build()
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)
