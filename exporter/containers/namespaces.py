# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that have names: ip-netns(8), by their files in /run/netns."""

import os
import re
from pathlib import Path

from exporter.containers.inotify import IN_CREATE, IN_MOVED_TO, Inotify
from exporter.containers.links import Links

FOLDER = Path("/run/netns")

# how podman (netns-), CNI plugins (cni-), CRI-O and others call those that they make for containers
_MADE_UP = re.compile(r"(?:netns-|cni-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,64}")


def made_up(name: str) -> bool:
    """Whether a name is a runtime's, for want of a better one: ``cni-`` and a UUID."""
    return _MADE_UP.fullmatch(name) is not None


class Namespaces:
    """Readable (``fileno``) when there are more."""

    def __init__(self, links: Links, folder: Path = FOLDER) -> None:
        self._links = links
        self._folder = folder
        self._inotify = Inotify()
        self._watched = -1
        self._numbers: dict[str, int] = {}
        self.names: dict[int, str] = {}  # by number
        self.changed = True  # since the last ``find``
        self._watch()

    def fileno(self) -> int:
        return self._inotify.fileno()

    def close(self) -> None:
        self._inotify.close()

    def _watch(self) -> None:
        try:
            self._watched = self._inotify.folder(os.fsencode(self._folder), IN_CREATE | IN_MOVED_TO)
        except OSError:  # it is made with the first namespace
            try:
                self._inotify.folder(os.fsencode(self._folder.parent))
            except OSError:
                return

    def update(self) -> bool:
        """Takes what has happened. Returns whether there may be new names."""
        for event in self._inotify.events():
            if event.watch != self._watched and event.name == os.fsencode(self._folder.name):
                self._watch()
                self.changed = True
            self.changed |= event.watch in (self._watched, -1)
        return self.changed

    def find(self) -> None:
        """Learns the numbers of those that have got one."""
        self.changed = False
        present = set(self._listed())
        self._numbers = {name: number for name, number in self._numbers.items() if name in present}
        for name in present - self._numbers.keys():
            try:
                fd = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:  # it has gone since
                continue
            try:
                number = self._links.namespace_of_file(fd)
            finally:
                os.close(fd)
            if number is not None:
                self._numbers[name] = number
        self._name()

    def _listed(self) -> list[str]:
        try:
            return os.listdir(self._folder)  # noqa: PTH208 - names, of which no Path is made
        except OSError:
            return []

    def ended(self, number: int) -> None:
        """The number is no longer that of the namespace that had it."""
        self._numbers = {name: one for name, one in self._numbers.items() if one != number}
        self._name()

    def _name(self) -> None:
        """Of several names for one namespace, one that is not made up is better."""
        best_last = sorted(self._numbers.items(), key=lambda one: (not made_up(one[0]), one[0]))
        self.names = {number: os.fsencode(name).decode("utf-8", "backslashreplace") for name, number in best_last}
