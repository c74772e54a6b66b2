# SPDX-License-Identifier: Apache-2.0
"""containers/tree.py: which containers run, by folders that are made and removed."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter import cgroups
from exporter.containers.inotify import IN_Q_OVERFLOW, Event, Inotify
from exporter.containers.tree import Tree

ID = "4f0a7c1b9e2d" + "0" * 52
OTHER = "5f0a7c1b9e2d" + "1" * 52


def mount(folder: Path, kind: str = "cgroup2", options: str = "rw") -> str:
    folder.mkdir(exist_ok=True)
    device = folder.stat().st_dev
    return f"31 24 {os.major(device)}:{os.minor(device)} / {folder} rw - {kind} {kind} {options}\n"


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for version 2's hierarchy."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(mount(tmp_path / "cgroup"))
    monkeypatch.setattr(cgroups, "MOUNTS", mounts)
    return tmp_path / "cgroup"


@pytest.fixture
def start() -> Iterator[Callable[[], Tree]]:
    """Begins to follow what is in the hierarchies; until the end of a test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Tree()))


def make(folder: Path, *pids: int) -> Path:
    """A cgroup with these processes."""
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    (folder / "cgroup.events").write_text("populated 0\n")
    return folder


def keys(tree: Tree) -> list[str]:
    tree.update()
    return sorted(tree.groups)


def test_what_is_there_and_what_comes_and_goes(top: Path, start: Callable[[], Tree]) -> None:
    """Containers that run at the start, and such as begin and end later, are known; nothing else is."""
    make(top / "system.slice" / "ssh.service")
    make(top / "system.slice" / f"docker-{ID}.scope")
    tree = start()
    assert keys(tree) == [ID[:12]]
    assert tree.groups[ID[:12]].identifier == ID
    make(top / "kubepods" / "burstable" / "pod1" / OTHER)  # folders within folders, which nobody saw being made
    make(top / "lxc.payload.web")
    assert keys(tree) == [ID[:12], OTHER[:12], "web"]
    assert tree.groups["web"].identifier == ""
    shutil.rmtree(top / "kubepods" / "burstable")
    shutil.rmtree(top / "system.slice" / f"docker-{ID}.scope")
    assert keys(tree) == ["web"]
    make(top / "system.slice" / f"docker-{ID}.scope")
    assert keys(tree) == [ID[:12], "web"]


def test_what_is_worth_a_look(top: Path, start: Callable[[], Tree]) -> None:
    """A new container is, and its first process; what a container makes within itself is not, nor what ends."""
    tree = start()
    make(top / "system.slice" / "cron.service")
    assert not tree.update()
    scope = make(top / f"libpod-{ID}.scope")
    assert tree.update()
    assert not tree.update()
    (scope / "cgroup.events").write_text("populated 1\n")
    assert tree.update()
    tree.groups[ID[:12]].namespace = 3
    (scope / "cgroup.events").write_text("populated 0\n")
    assert not tree.update()
    make(scope / "system.slice" / "nginx.service")
    assert not tree.update()
    assert len(tree.groups[ID[:12]].folders) == 3
    shutil.rmtree(scope)
    assert not tree.update()
    assert not tree.groups


def test_processes(top: Path, start: Callable[[], Tree]) -> None:
    """A container's processes are those of its cgroup, and of all within: those of a container within too."""
    scope = make(top / f"docker-{ID}.scope", 0)
    make(scope / "init.scope", 41, 42)
    make(scope / "kubepods" / OTHER, 43)
    (make(scope / "threaded") / "cgroup.procs").unlink()
    tree = start()
    assert sorted(tree.groups[ID[:12]].processes()) == [41, 42, 43]
    assert keys(tree) == [ID[:12]]


def test_folders_without_processes(top: Path, start: Callable[[], Tree]) -> None:
    """However many empty ones a container makes, its processes are found; of those with processes some are enough."""
    tree = start()
    scope = make(top / f"docker-{ID}.scope")
    for number in range(100):
        make(scope / f"empty{number}")
    make(scope / "init.scope", 41)
    tree.update()
    assert list(tree.groups[ID[:12]].processes()) == [41]
    for number in range(100):
        make(scope / f"full{number}", 42)
    tree.update()
    assert list(tree.groups[ID[:12]].processes()) == [41] + 15 * [42]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to a user")
def test_what_a_user_makes(top: Path, start: Callable[[], Tree]) -> None:
    """In a cgroup that is a user's nothing is taken for a container, whatever it is called, then and later, nor harms
    the real one; what root gives a user is a container."""

    def forge(folder: Path) -> None:
        make(folder, 41)
        os.chown(folder.parent, 1000, 1000)
        os.chown(folder, 1000, 1000)

    manager = top / "user.slice" / "user-1000.slice" / "user@1000.service"
    forge(manager / "app.slice" / f"docker-{ID}.scope")
    forge(top / "system.slice" / "batch.service" / f"docker-{ID}.scope")  # Delegate=yes, User=batch
    forge(top / "system.slice" / "gr\udcfcn.service" / "lxc.payload.bad")  # any bytes
    tree = start()
    assert keys(tree) == []
    os.chown(make(top / "docker" / ID, 42), 1000, 1000)
    forge(manager / "docker" / ID)
    assert keys(tree) == [ID[:12]]
    assert list(tree.groups[ID[:12]].processes()) == [42]
    shutil.rmtree(manager)
    assert keys(tree) == [ID[:12]]
    make(top / "docker" / ID / f"docker-{OTHER}.scope", 43)  # what is below it is its own
    assert keys(tree) == [ID[:12]]
    shutil.rmtree(top / "docker" / ID)
    assert keys(tree) == []


def test_both_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[], Tree]) -> None:
    """On a host that has both, a container is known by either; where version 1's hierarchies are, systemd's is used."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        mount(tmp_path / "pids", "cgroup", "rw,pids")
        + mount(tmp_path / "systemd", "cgroup", "rw,xattr,name=systemd")
        + mount(tmp_path / "unified")
    )
    monkeypatch.setattr(cgroups, "MOUNTS", mounts)
    make(tmp_path / "pids" / "docker" / ("a" * 64))
    make(tmp_path / "systemd" / "docker" / ID, 41)
    make(tmp_path / "unified" / f"libpod-{OTHER}.scope", 42)
    both = [make(tmp_path / name / "lxc.payload.web") for name in ("systemd", "unified")]
    tree = start()
    assert keys(tree) == [ID[:12], OTHER[:12], "web"]
    assert [list(tree.groups[one[:12]].processes()) for one in (ID, OTHER)] == [[41], [42]]
    shutil.rmtree(both[0])
    assert "web" in keys(tree)
    shutil.rmtree(both[1])
    assert "web" not in keys(tree)


def test_no_watch_is_left(top: Path, start: Callable[[], Tree]) -> None:
    """What has gone is watched no longer: the kernel would keep it."""

    def watches() -> int:
        return Path(f"/proc/self/fdinfo/{tree.fileno()}").read_text().count("inotify wd:")

    tree = start()
    before = watches()
    for number in range(20):
        scope = make(top / f"docker-{number:012x}{ID[12:]}.scope")
        make(scope / "init.scope")
        tree.update()
    assert watches() == before + 3 * 20
    for number in range(20):
        shutil.rmtree(top / f"docker-{number:012x}{ID[12:]}.scope")
    assert keys(tree) == []
    assert watches() == before


def test_where_not_all_can_be_watched(
    top: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, start: Callable[[], Tree]
) -> None:
    """Where the system has no more watches, that is said once, and a walk finds what comes and goes."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Inotify, "folder", refuse)
    make(top / f"docker-{ID}.scope")
    tree = start()
    assert tree.blind
    assert [(record.message, vars(record)["reason"]) for record in caplog.records] == [
        (
            "containers are found seconds late",
            "not all cgroups can be watched: No space left on device; raise fs.inotify.max_user_watches",
        )
    ]
    assert list(tree.groups) == [ID[:12]]
    shutil.rmtree(top / f"docker-{ID}.scope")
    make(top / f"docker-{OTHER}.scope")
    assert keys(tree) == [ID[:12]]
    tree.walk()
    assert keys(tree) == [OTHER[:12]]


def test_lost_events(top: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[], Tree]) -> None:
    """When more has happened than the kernel keeps, all is looked at."""
    make(top / f"docker-{ID}.scope")
    tree = start()
    shutil.rmtree(top / f"docker-{ID}.scope")
    make(top / f"docker-{OTHER}.scope")
    monkeypatch.setattr(Inotify, "events", lambda _: iter([Event(-1, IN_Q_OVERFLOW, b"")]))
    assert tree.update()
    assert list(tree.groups) == [OTHER[:12]]


def test_without_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[], Tree]) -> None:
    """Where none can be seen there are no containers, and nothing fails."""
    monkeypatch.setattr(cgroups, "MOUNTS", tmp_path / "none")
    assert keys(start()) == []
