# SPDX-License-Identifier: Apache-2.0
"""containers/__init__.py: what is told of links whose namespaces and names come late, or come and go at once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import cgroups, containers
from exporter.containers import Containers
from exporter.containers.links import Ended, Gone, Link, Links
from exporter.containers.names import Names
from exporter.places import Place

from . import runtimes

ID = "4f0a7c1b9e2d" + "0" * 52
OTHER = "5f0a7c1b9e2d" + "1" * 52


class StubLinks(Links):
    """Tells what a test says; of processes, the numbers of their namespaces."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Link | Gone | Ended] = []
        self.of_processes: dict[int, int] = {}

    def changes(self) -> Iterator[Link | Gone | Ended]:
        said, self.said = self.said, []
        yield from said

    def namespace_of_process(self, pid: int) -> int | None:
        return self.of_processes.get(pid)

    def namespace_of_file(self, _: int) -> int | None:
        return None


class Host:
    """A host of a test's own: its cgroups, docker's files, its links and its clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1000.0
        self.links = StubLinks()
        (root / "cgroup").mkdir()
        device = root.stat().st_dev
        (root / "mountinfo").write_text(
            f"31 24 {os.major(device)}:{os.minor(device)} / {root}/cgroup rw - cgroup2 cgroup2 rw\n"
        )

    def container(self, identifier: str, pid: int, namespace: int) -> None:
        folder = self.root / "cgroup" / f"docker-{identifier}.scope"
        folder.mkdir()
        (folder / "cgroup.procs").write_text(f"{pid}\n")
        self.links.of_processes[pid] = namespace


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(cgroups, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(containers, "Links", lambda: made.links)
    return made


@pytest.fixture
def known(host: Host) -> Iterator[Containers]:
    found = Containers(Names(host.root), lambda: host.now)
    yield found
    found.close()


def changed(known: Containers) -> None:
    """All that has happened is told in one batch."""
    for _, handler in known.handlers():
        handler()


def test_a_number_that_another_has_within_a_batch(host: Host, known: Containers) -> None:
    """A link whose namespace has the number of one that has just ended is not told as that one's, even if it goes
    before the next look."""
    runtimes.docker(host.root, ID, "web")
    host.container(ID, 41, 5)
    host.links.said = [Link(11, "veth1", 5)]
    changed(known)
    known.look()
    assert known.news()[0] == {11: Place("veth1", "web")}
    host.links.said = [Gone(11), Ended(5), Link(12, "veth2", 5), Gone(12)]
    changed(known)
    assert known.news()[0] == {12: Place("veth2", "veth2")}
