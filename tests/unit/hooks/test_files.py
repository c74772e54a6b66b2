# SPDX-License-Identifier: Apache-2.0
"""hooks/files.py: which file a name means, and whether it is the same."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from exporter.errors import UnknownHook
from exporter.hooks import files
from exporter.probe import Hook


def test_a_library_is_found_as_the_loader_finds_it() -> None:
    """By its short name, with or without lib, or by the name of its file."""
    mapped = re.search(r"(\S+/libc\.so\.6)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    if not mapped or not shutil.which("ldconfig", path="/usr/sbin:/sbin"):
        pytest.skip("no glibc here")
    for name in ("c", "libc", "libc.so", "libc.so.6"):
        assert files.resolve(name).samefile(mapped[1]), name


def test_a_program_is_found_in_the_path() -> None:
    """What is no library is looked for among the programs; a path is what it is."""
    assert files.resolve("sh").samefile("/bin/sh")
    assert files.resolve("/bin/sh") == Path("/bin/sh")


@pytest.mark.parametrize("name", ["no-such-thing", "/no/such/file", "/tmp"])
def test_what_is_not_there_is_told(name: str) -> None:
    """A name that is neither, a path that leads nowhere or to a folder."""
    with pytest.raises(UnknownHook, match=f"there is no .*{name}"):
        files.resolve(name)


def test_what_may_not_be_seen_is_not_told_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who attaches says which capability is lacking."""

    def closed(*_: object, **__: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(PermissionError):
        files.resolve("/closed/program")


def test_libraries_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ldconfig is run again only when the loader's cache is another file, or another's content."""
    asked: list[str] = []
    cache = tmp_path / "ld.so.cache"

    def ask(name: str) -> Path:
        asked.append(name)
        return tmp_path / str(len(asked))

    monkeypatch.setattr(files, "_LOADERS_CACHE", cache)
    monkeypatch.setattr(files, "_libraries", files._Libraries())
    monkeypatch.setattr(files, "_ask", ask)
    assert [files.resolve("a").name for _ in range(3)] == ["1"] * 3
    assert files.resolve("b").name == "2"
    cache.write_text("one")
    assert [files.resolve("a").name for _ in range(3)] == ["3"] * 3
    cache.write_text("another")
    assert files.resolve("a").name == "4"
    assert asked == ["a", "b", "a", "a"]


def test_a_file_has_its_identity(tmp_path: Path) -> None:
    """It is the same until the file is written, replaced or removed; a link's is that of what it leads to."""
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    assert files.identity(str(link)) is None
    file.write_text("one")
    first = files.identity(str(file))
    assert first is not None
    assert files.identity(str(link)) == first
    file.write_text("longer")
    second = files.identity(str(link))
    assert second is not None
    assert second[:2] == first[:2]
    assert second != first
    other = tmp_path / "other"
    other.write_text("longer")
    other.rename(file)
    third = files.identity(str(link))
    assert third is not None
    assert third[:2] != second[:2]
    file.unlink()
    assert files.identity(str(file)) is None


@pytest.mark.parametrize(
    ("hook", "name"),
    [
        (Hook("uprobe", "/bin/bash:readline"), "/bin/bash"),
        (Hook("uretprobe", "libstdc++:_ZSt4sortPiS_"), "libstdc++"),
        (Hook("usdt", "/usr/bin/x:provider:name"), "/usr/bin/x"),
        (Hook("tracepoint", "signal:signal_generate"), ""),
        (Hook("kprobe", "vfs_read"), ""),
    ],
)
def test_a_hook_names_its_file(hook: Hook, name: str) -> None:
    """What is in the kernel has none."""
    assert files.named(hook) == name
