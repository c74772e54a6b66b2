# SPDX-License-Identifier: Apache-2.0
"""users.py: names from the passwd file alone."""

import os
from pathlib import Path

import pytest

from exporter import users
from exporter.users import user_name


@pytest.fixture
def passwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "passwd"
    monkeypatch.setattr(users, "PASSWD", path)
    return path


def test_names(passwd: Path) -> None:
    """The first name of a uid counts, as in libc; lines that are none are passed over."""
    passwd.write_text("root:x:0:0:root:/root:/bin/sh\n\n# comment\n+::::::\ntoor:x:0:0:::\nalice:x:1000:100:::\n")
    assert [user_name(uid) for uid in (0, 1000, 1001)] == ["root", "alice", "1001"]


def test_a_changed_file_is_read_again(passwd: Path) -> None:
    """A user who is added has a name from the next read on."""
    passwd.write_text("root:x:0:0:::\n")
    os.utime(passwd, ns=(0, 1))
    assert user_name(7) == "7"
    passwd.write_text("root:x:0:0:::\nseven:x:7:0:::\n")
    os.utime(passwd, ns=(0, 2))
    assert user_name(7) == "seven"


def test_without_the_file(passwd: Path) -> None:
    """Without a passwd file users are numbers."""
    assert not passwd.exists()
    assert user_name(0) == "0"
