# SPDX-License-Identifier: Apache-2.0
"""The containers that run here, by their cgroups, as those are made and removed."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from exporter import cgroups
from exporter.containers.inotify import IN_CREATE, IN_DELETE, IN_ISDIR, IN_Q_OVERFLOW, Inotify

_NO_CHILDREN = 2  # links of a folder without folders in it, as in every file system of the kernel's own (kernfs)
# folders with processes, and processes, that are looked at to find where a container's are: they are all alike
_FOLDERS, _PROCESSES = 16, 4

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Group:
    """The cgroups of one container. key is its short id or its name, as the label ``container`` has it without more.

    since is when it was first seen, or got its first process, by the monotonic clock; identifier is its whole id, ""
    where it has none. namespace is the number of its processes' network namespace and started when the first of them
    began, as far as is known.
    """

    key: str
    identifier: str
    since: float
    folders: list[bytes] = field(default_factory=list)
    namespace: int | None = None
    started: int = 0

    def processes(self) -> Iterator[int]:
        """Yields some of its processes, those that are listed first of each cgroup."""
        left = _FOLDERS
        for folder in self.folders:
            if not left:
                return
            try:
                fd = os.open(folder + b"/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # it has just gone
                continue
            try:
                listed = os.read(fd, 512).split(b"\n")[:-1]
            except OSError:  # a threaded cgroup lists no processes (EOPNOTSUPP)
                continue
            finally:
                os.close(fd)
            left -= bool(listed)
            # 0 is a process that this process can't see from where it is
            yield from (int(pid) for pid in listed[:_PROCESSES] if pid != b"0")


class Tree:
    """The cgroups of this host. Readable (``fileno``) when some were made or removed, or a container has begun."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.groups: dict[str, Group] = {}
        self.blind = False  # not all can be watched: ``walk`` has to be called now and then
        self._clock = clock
        self._inotify = Inotify()
        self._folders: dict[int, bytes] = {}  # by watch
        self._watches: dict[bytes, int] = {}  # by folder
        self._filling: dict[int, str] = {}  # by a watch that tells when a container gets its first process, its key
        self._mounts = [one for one in (cgroups.mounted(), cgroups.mounted_v1()) if one]
        self.walk()

    def fileno(self) -> int:
        return self._inotify.fileno()

    def close(self) -> None:
        self._inotify.close()

    def update(self) -> bool:
        """Takes what has happened. Returns whether there are more containers, or processes in those."""
        more = lost = False
        for event in self._inotify.events():
            folder = self._folders.get(event.watch)
            if event.mask & IN_Q_OVERFLOW:
                lost = True
            elif folder is not None and event.mask & IN_ISDIR and event.mask & IN_CREATE:
                more |= self._add(folder + b"/" + event.name)
            elif folder is not None and event.mask & IN_ISDIR and event.mask & IN_DELETE:
                self._removed(folder + b"/" + event.name)
            elif (group := self.groups.get(self._filling.get(event.watch, ""))) is not None:
                more |= group.namespace is None
                group.since = self._clock()
        if lost:
            self.walk()
        return more or lost

    def walk(self) -> None:
        """Looks at all cgroups that are there."""
        known = self._watches.keys() | {folder for group in self.groups.values() for folder in group.folders}
        for folder in known:
            if not os.path.isdir(folder):  # noqa: PTH112 - bytes
                self._removed(folder)
        for mount, _ in self._mounts:
            self._add(mount)

    def _add(self, top: bytes) -> bool:
        before = len(self.groups)
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            key = self._container(folder)
            try:
                watch = self._inotify.folder(folder, IN_CREATE | IN_DELETE)
                self._folders[watch], self._watches[folder] = folder, watch
            except OSError as error:
                if error.errno == errno.ENOENT:  # it has gone since
                    continue
                self._cannot_watch(error)
            if key:
                self._join(folder, key)
            try:
                # after the watch: what is made from now on is told
                if os.lstat(folder).st_nlink != _NO_CHILDREN:
                    with os.scandir(folder) as entries:
                        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:  # it has gone since
                continue
        return len(self.groups) > before

    def _cannot_watch(self, error: OSError) -> None:
        if not self.blind:
            hint = "; raise fs.inotify.max_user_watches" if error.errno == errno.ENOSPC else ""
            reason = f"not all cgroups can be watched: {error.strerror}{hint}"
            log.warning("containers are found seconds late", extra={"reason": reason})
        self.blind = True

    def _mount(self, folder: bytes) -> tuple[bytes, bytes]:
        return next(one for one in self._mounts if folder.startswith(one[0]))

    def _path(self, folder: bytes) -> str:
        mount, root = self._mount(folder)
        return (root + folder[len(mount) :]).decode("utf-8", "backslashreplace")

    def _container(self, folder: bytes) -> str:
        """Returns the container of a cgroup; nothing where somebody else than root could make one that is called so."""
        path = self._path(folder)
        if not (key := cgroups.container(path)):
            return ""
        above = folder.rsplit(b"/", path.count("/") - cgroups.above_container(path).count("/"))[0]
        try:
            # what is above the mount can't be seen
            roots = len(above) < len(self._mount(folder)[0]) or os.lstat(above).st_uid in (0, os.geteuid())
        except OSError:  # it has gone since
            roots = False
        return key if roots else ""

    def _join(self, folder: bytes, key: str) -> None:
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(key, cgroups.container_id(self._path(folder)), self._clock())
            with contextlib.suppress(OSError):  # there is none in version 1: the first process is waited for otherwise
                self._filling[self._inotify.file(folder + b"/cgroup.events")] = key
        if folder not in group.folders:
            group.folders.append(folder)

    def _removed(self, folder: bytes) -> None:
        watch = self._watches.pop(folder, -1)
        if self._folders.pop(watch, None) is not None:
            self._inotify.forget(watch)
        group = self.groups.get(cgroups.container(self._path(folder)))
        if group is None:
            return
        if folder in group.folders:
            group.folders.remove(folder)
        if not group.folders:
            del self.groups[group.key]
            for filling in [filling for filling, key in self._filling.items() if key == group.key]:
                del self._filling[filling]
                self._inotify.forget(filling)
