# SPDX-License-Identifier: Apache-2.0
"""Control groups: from the number that a BPF program has to the path, the systemd unit and the container.

A cgroup's id is the number of its folder's inode (kernel commit 743210386c03, "cgroup: use cgrp->kn->id as the cgroup
ID", 5.5), is never given to another, and its path never changes. So what is known of an id stays true when it is gone;
but it must be learnt while it lives: of those that are there, by a walk of the file system; of each that is made later,
from the kernel itself (``loader.births``), even if it ends before anybody looks.
"""

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

UNKNOWN = "(unknown)"  # a cgroup that ended before it was seen, or that this process may not see
MOUNTS = Path("/proc/self/mountinfo")
MOST = 32_768  # ids that are remembered, those that were last asked for or learnt

# the map in which a probe keeps cgroups that are made, until the next read: ids, and paths that end with a NUL
BORN = "cgroups_born"
BORN_PATH = 384  # bytes; a container's in Kubernetes has some 200. A longer one is left to be found by a walk
BORN_ENTRIES = 2048  # cgroups that are made between two reads; so many are 0.9 MB of the kernel's memory

_NO_CHILDREN = 2  # links of a folder without folders in it, as in every file system of the kernel's own (kernfs)


class Paths:
    """The paths of cgroups by their ids. In a process that has root's rights or none: cgroups are open to all."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._paths: dict[int, str] = {}  # those that were least lately asked for first
        self._may_walk = True

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, number: int) -> str:
        """Returns a cgroup's path, ``/system.slice/ssh.service``, from where this process sees the hierarchy's root.

        All of which it is not known read ``(unknown)``. What is known of none is looked for, but by one walk at most
        until ``next_read``: that one found all that lived when what is now read was counted.
        """
        found = self._paths.pop(number, None)
        if found is None and self._may_walk:
            self.walk()
            found = self._paths.pop(number, None)
        self._keep(number, found or UNKNOWN)  # known to be unknown: that will not change, and costs no walk again
        return found or UNKNOWN

    def next_read(self) -> None:
        """What is asked for from now on was counted up to now."""
        self._may_walk = True

    def learn(self, number: int, path: bytes) -> None:
        """A cgroup was made."""
        self._paths.pop(number, None)
        self._keep(number, _text(path))

    def learn_all(self, numbers: memoryview, paths: memoryview) -> None:
        """Cgroups were made: what a drain took out of the map of them."""
        for at, number in enumerate(numbers.cast("B").cast("Q")):
            path = bytes(paths[at * BORN_PATH : (at + 1) * BORN_PATH])
            self.learn(number, path.partition(b"\0")[0])

    def walk(self) -> None:
        """Learns all cgroups that are there."""
        self._may_walk = False
        for number, path in found():
            self.learn(number, path)

    def _keep(self, number: int, path: str) -> None:
        self._paths[number] = path
        if len(self._paths) > self._most:
            # many at once: to find the first key of a dict, those that were deleted ahead of it are passed one by one
            for oldest in list(islice(self._paths, max(1, self._most // 16))):
                del self._paths[oldest]


PATHS = Paths()  # of this process, as there is one hierarchy in the kernel


def found() -> Iterator[tuple[int, bytes]]:
    """Yields the ids and paths of all cgroups of version 2 that can be seen here."""
    mount = mounted()
    if mount is None:
        return
    folder, root = mount
    try:
        top = os.lstat(folder)
    except OSError:  # unmounted just now
        return
    yield top.st_ino, root or b"/"
    waiting = [root]
    while waiting:
        path = waiting.pop()
        for number, name in _folders(folder + path[len(root) :]):
            below = path + b"/" + name
            yield number, below
            try:
                if os.lstat(folder + below[len(root) :]).st_nlink != _NO_CHILDREN:  # else there are files alone
                    waiting.append(below)
            except OSError:  # it has gone since
                continue


def _folders(path: bytes) -> list[tuple[int, bytes]]:
    try:
        with os.scandir(path) as entries:
            return [(entry.inode(), entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # it has gone since, or its owner has closed it to others
        return []


def mounted() -> tuple[bytes, bytes] | None:
    """Returns where cgroups of version 2 are mounted, and the path of the cgroup that is there: nothing for the root.

    ``/sys/fs/cgroup``, or on a host that has both versions ``/sys/fs/cgroup/unified``, stand in mountinfo(5) as
    ``31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw``. In a container that has cgroups of its own
    the root is ``/../..`` or just ``/``, and what is outside can't be seen.
    """
    return _mounted(lambda kind, _: kind == b"cgroup2")


def mounted_v1() -> tuple[bytes, bytes] | None:
    """Returns the same of one hierarchy of version 1, in which all tasks have their places: systemd's, or else one that
    container runtimes use; None where there are none, or version 2 alone."""
    for name in (b"name=systemd", b"pids", b"memory", b"cpu"):
        if found := _mounted(lambda kind, options, name=name: kind == b"cgroup" and name in options):  # type: ignore[misc]
            return found
    return None


def _mounted(wanted: Callable[[bytes, list[bytes]], bool]) -> tuple[bytes, bytes] | None:
    best: tuple[bytes, bytes] | None = None
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return None
    for line in lines:
        ahead, _, behind = line.partition(b" - ")
        columns, (kind, _, options, *_) = ahead.split(b" "), (*behind.split(b" "), b"", b"", b"")
        if not wanted(kind, options.split(b",")) or len(columns) < 5:
            continue
        folder, root = _unescaped(columns[4]), _unescaped(columns[3])
        root = b"" if root == b"/" or root.startswith(b"/..") else root
        if _is_there(folder, columns[2]) and (best is None or len(root) < len(best[1])):
            best = folder, root
    return best


def _is_there(folder: bytes, device: bytes) -> bool:
    """Whether a mount can be reached: nothing else is mounted over it, and its folders are open to us."""
    try:
        number = os.lstat(folder).st_dev
        return device == b"%d:%d" % (os.major(number), os.minor(number)) and os.access(folder, os.R_OK | os.X_OK)
    except OSError:
        return False


def _unescaped(column: bytes) -> bytes:
    r"""``/my\040folder`` -> ``/my folder``, as mountinfo has blanks, tabs, newlines and backslashes."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), column)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


# -- systemd's units: src/basic/cgroup-util.c and unit-name.c, of systemd 252

_UNIT_TYPES = "service|socket|target|device|mount|automount|swap|timer|path|slice|scope"
_UNIT = re.compile(rf"(?!@)[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]+)?\.({_UNIT_TYPES})")
_UNIT_MAX = 255  # characters


def unit(path: str) -> str:
    r"""Returns the systemd unit of a cgroup, as ``systemctl status PID`` names it; nothing where there is none.

    That is the first folder that is no slice (cg_path_get_unit), or else the last slice. So whatever a user's own
    manager runs is in ``user@1000.service``. A name has ``\x2d`` where systemd shows it so: it is the unit's name.
    """
    slices = ""
    for part in path.split("/")[1:]:
        name = part.removeprefix("_")  # cg_escape: what could be taken for a file of the kernel's
        if not _is_unit(name):
            break
        if not name.endswith(".slice"):
            return name
        slices = name
    return UNKNOWN if path == UNKNOWN else slices


def _is_unit(name: str) -> bool:
    return len(name) <= _UNIT_MAX and _UNIT.fullmatch(name) is not None


# -- containers: how each runtime names the cgroup that it makes

_ID = r"(?P<id>[0-9a-f]{64})"
_SHORT = 12  # characters of an id, as docker ps and crictl ps have it
_CONTAINERS = (
    # docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope, libpod-payload-ID, nerdctl-ID.scope;
    # in kubepods.slice:cri-containerd:ID the runtime was told systemd's names and makes folders itself
    re.compile(rf"(?:[^/]*[-:])?(?<!conmon-){_ID}(?:\.scope)?", re.DOTALL),
    # lxc.payload.NAME: LXC from 4.0 on, LXD, Incus; its lxc.monitor.NAME is outside
    re.compile(r"lxc\.payload\.(?P<name>.+)", re.DOTALL),
    # systemd-machined: systemd-nspawn, libvirt
    re.compile(r"machine-(?P<escaped>.+)\.scope", re.DOTALL),
    re.compile(r"systemd-nspawn@(?P<escaped>.+)\.service", re.DOTALL),
)


# what a user's own manager runs is the user's to make and to name: systemd gives the user this cgroup
_USERS = re.compile(r"(?P<user>user@[0-9]+)\.service")


def container(path: str) -> str:
    """Returns the container of a cgroup: the first 12 digits of its id, or its name where its runtime has names only.

    Nothing where there is none. Of containers within containers it is the outermost: what is below its cgroup it may
    have made itself. One of a user's own has the user ahead of it, as no other has: ``user@1000/4f0a7c1b9e2d``.
    """
    if path == UNKNOWN:
        return UNKNOWN
    groups, _ = _container(path)
    name = groups.get("name", "") or groups.get("id", "")[:_SHORT]
    if "escaped" in groups:
        # systemd-escape: machine-web\x2d1.scope is web-1
        escaped = groups["escaped"].encode()
        name = _text(re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), escaped))
    return f"{groups['user']}/{name}" if "user" in groups and name else name


def container_id(path: str) -> str:
    """Returns the whole id, of 64 digits, of the container of a cgroup; nothing where it has none."""
    return _container(path)[0].get("id", "")


def above_container(path: str) -> str:
    """Returns the cgroup in which the container of a cgroup was made: who owns that may make it."""
    return _container(path)[1]


def _container(path: str) -> tuple[dict[str, str], str]:
    """Returns what the name of a container's cgroup says, and the path of the cgroup above it."""
    owner: dict[str, str] = {}
    above = ""
    for part in path.split("/")[1:]:
        if not owner and (match := _USERS.fullmatch(part)):
            owner = match.groupdict()
        for pattern in _CONTAINERS:
            if match := pattern.fullmatch(part):
                return owner | match.groupdict(), above
        above += f"/{part}"
    return {}, ""
