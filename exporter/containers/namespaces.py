# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that have names: ip-netns(8), by their files."""

import os
import re
from pathlib import Path

from exporter.containers.inotify import IN_CREATE, IN_MOVED_TO, Inotify
from exporter.containers.links import Links

FOLDER = Path("/run/netns")
DOCKERS = Path("/run/docker/netns")  # where docker has those of its containers, and calls them by numbers

# how podman (netns-), CNI plugins (cni-), CRI-O and others call those that they make for containers
_MADE_UP = re.compile(r"(?:netns-|cni-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,64}")


class Namespaces:
    """Readable (``fileno``) when there are more."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._inotify = Inotify()
        self._watched = -1
        self._numbers: dict[tuple[Path, int, int], int] = {}  # by path, and the file that is there: device and inode
        self.names: dict[int, tuple[str, bool]] = {}  # by number; and whether a runtime made it up
        self.changed = True  # since the last ``find``
        self._watch()

    def fileno(self) -> int:
        return self._inotify.fileno()

    def close(self) -> None:
        self._inotify.close()

    def _watch(self) -> None:
        try:
            self._watched = self._inotify.folder(os.fsencode(FOLDER), IN_CREATE | IN_MOVED_TO)
        except OSError:  # it is made with the first namespace
            try:
                self._inotify.folder(os.fsencode(FOLDER.parent))
            except OSError:
                return

    def update(self) -> bool:
        """Takes what has happened. Returns whether there may be new names."""
        for event in self._inotify.events():
            if event.watch != self._watched and event.name == os.fsencode(FOLDER.name):
                self._watch()
                self.changed = True
            self.changed |= event.watch in (self._watched, -1)
        return self.changed

    def find(self) -> None:
        """Learns the numbers of those that have got one."""
        self.changed = False
        present = {file for folder in (FOLDER, DOCKERS) for path in _listed(folder) if (file := _file(path))}
        self._numbers = {file: number for file, number in self._numbers.items() if file in present}
        for file in present - self._numbers.keys():
            path = file[0]
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:  # it has gone since
                continue
            try:
                number = self._links.namespace_of_file(fd)
            finally:
                os.close(fd)
            if number is not None:
                self._numbers[file] = number
        self._name()

    def ended(self, number: int) -> None:
        """The number is no longer that of the namespace that had it."""
        self._numbers = {file: one for file, one in self._numbers.items() if one != number}
        self._name()

    def _name(self) -> None:
        found = [(_made_up(path), path.name, number) for (path, _, _), number in self._numbers.items()]
        self.names = {
            number: (os.fsencode(name).decode("utf-8", "backslashreplace"), made_up)
            for made_up, name, number in sorted(found, reverse=True)  # the best comes last
        }


def _made_up(path: Path) -> bool:
    """Whether a name is a runtime's, for want of a better one: ``cni-`` and a UUID."""
    return path.parent == DOCKERS or _MADE_UP.fullmatch(path.name) is not None


def _file(path: Path) -> tuple[Path, int, int] | None:
    """Returns what is at a path: a namespace that was made anew there has the name of the one before it."""
    try:
        status = path.stat()
    except OSError:  # it has gone since
        return None
    return path, status.st_dev, status.st_ino


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
