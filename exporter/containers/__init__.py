# SPDX-License-Identifier: Apache-2.0
"""Who is behind the host's interfaces, and what containers are called. In the privileged process.

``Containers`` is kept up to date by events alone: of links (netlink), of cgroups and of network namespaces (inotify).
Runtimes make a container's link, its cgroup and its first process in an order of their own: what is new is looked at
again, less and less often, until it is known or has had its time.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from exporter.containers.links import Gone, Link, Links
from exporter.containers.names import Name, Names
from exporter.containers.namespaces import Namespaces
from exporter.containers.tree import Group, Tree
from exporter.places import LONG_PATIENCE, PATIENCE, Place

LAST_WORD = PATIENCE / 2  # seconds; so long is looked for what is new,
LATE_LAST_WORD = LONG_PATIENCE / 2  # and so long where a runtime has made the network: a container is about to begin
SETTLE = 0.1  # seconds; things come in crowds: they are looked at once
FIRST_PAUSE, LAST_PAUSE = 0.05, 0.4  # seconds between looks at what is not known yet; each pause is twice the last
BLIND_PAUSE = 5.0  # seconds between walks through cgroups that can't be watched
REMEMBERED = 4096  # interfaces and containers that have gone, for a worker that is started anew

# how well the other end of a link is known
_UNKNOWN, _UNSURE, _KNOWN, _NAMED = range(4)


@dataclass(eq=False)
class _Seen:
    """A link that is here: since when, by the monotonic clock; how well its place is known, and the place."""

    link: Link
    since: float
    rank: int
    place: Place


class Containers:
    """The links of this host's network namespace that lead into others, and its containers."""

    def __init__(self, names: Names | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._names = names or Names()
        self._links = Links()
        self._tree = Tree(clock)
        self._namespaces = Namespaces(self._links)
        self._seen: dict[int, _Seen] = {}
        self._groups: dict[int, Group] = {}  # by the network namespace that each is in
        self._named: dict[str, Name] = {}  # containers that have had their last word, by short id
        self._places: dict[int, Place] = {}  # that were ever told, the latest last
        self._new: tuple[dict[int, Place], dict[str, str]] = ({}, {})
        self._pause = FIRST_PAUSE
        self.deadline = clock()  # of the monotonic clock: when ``look`` has something to do

    def handlers(self) -> list[tuple[int, Callable[[], None]]]:
        """Returns descriptors, each with what is to be called when it is readable: it sets ``deadline``."""
        return [
            (self._links.fileno(), self._links_changed),
            (self._tree.fileno(), self._tree_changed),
            (self._namespaces.fileno(), self._namespaces_changed),
        ]

    def close(self) -> None:
        for one in (self._links, self._tree, self._namespaces):
            one.close()

    def _links_changed(self) -> None:
        if self._take_links():
            self._look_soon(0.0)  # a container may be short-lived: it is known only while it runs

    def _tree_changed(self) -> None:
        if self._tree.update():
            self._look_soon(0.0)

    def _namespaces_changed(self) -> None:
        if self._namespaces.update():
            self._look_soon(SETTLE)

    def _look_soon(self, pause: float) -> None:
        self._pause = FIRST_PAUSE
        self.deadline = min(self.deadline, self._clock() + pause)

    def look(self) -> bool:
        """Finds out what can be found out now; to be called at ``deadline``. Returns whether there is ``news``."""
        self._take_links()
        if self._tree.blind:
            self._tree.walk()
        now = self._clock()
        self._name(now)
        self._find_namespaces(now)
        for seen in self._seen.values():
            self._place(seen, now)
        waiting = any(not seen.place.container for seen in self._seen.values())
        waiting |= any(self._is_new(group, now) for group in self._tree.groups.values())
        self.deadline = now + self._pause if waiting else now + BLIND_PAUSE if self._tree.blind else math.inf
        self._pause = min(self._pause * 2, LAST_PAUSE)
        return any(self._new)

    # -- what is here

    def _take_links(self) -> bool:
        """Takes what the kernel told of links. Returns whether any came, or changed what it leads to or its name."""
        changed = False
        for change in self._links.changes():
            if isinstance(change, Link):
                before = self._seen.get(change.index)
                if before is None or before.link != change:
                    changed = True
                    self._see(change, before)
            elif isinstance(change, Gone):
                if (gone := self._seen.pop(change.index, None)) is not None:
                    self._place(gone, math.inf)
            else:
                self._ended(change.namespace)
        return changed

    def _see(self, link: Link, before: _Seen | None) -> None:
        if before is not None and link.peer is None:  # the other end is being removed: what it was stays true
            link = dataclasses.replace(link, peer=before.link.peer)
        if before is not None and before.link.peer == link.peer:
            container = before.place.container
            place = Place(link.name, link.name if container == before.link.name else container)
            seen = _Seen(link, before.since, before.rank, place)
        else:
            place = Place(link.name, link.name if link.peer is None else "")
            seen = _Seen(link, self._clock(), _UNKNOWN, place)
        self._seen[link.index] = seen
        self._tell(link.index, seen.place)

    def _ended(self, namespace: int) -> None:
        """A namespace has ended: its number may be another's from now on."""
        for seen in self._seen.values():
            if seen.link.peer == namespace:
                self._place(seen, math.inf)
                seen.rank = _NAMED  # for good
        self._namespaces.ended(namespace)
        self._groups.pop(namespace, None)
        for group in self._tree.groups.values():
            if group.namespace == namespace:
                group.namespace = None

    def _is_new(self, group: Group, now: float) -> bool:
        """Whether something of a container may yet come to be known."""
        if now - group.since >= LAST_WORD:
            return False
        return group.namespace is None or (bool(group.identifier) and group.key not in self._named)

    # -- names

    def _name(self, now: float) -> None:
        unnamed = [group for group in self._tree.groups.values() if group.identifier and group.key not in self._named]
        if not unnamed:
            return
        hopeless = not self._names.any
        for group in unnamed:
            found = self._names.find(group.identifier)
            if found or hopeless or now - group.since >= LAST_WORD:
                name = self._named[group.key] = found or Name(group.key, group.key)
                self._new[1][group.key] = name.container
        if len(self._named) > REMEMBERED + len(self._tree.groups):
            _forget(self._named, self._tree.groups)

    # -- places

    def _find_namespaces(self, now: float) -> None:
        """Learns in which network namespaces containers are, and what those are called that have names."""
        pending = any(not seen.place.container for seen in self._seen.values())
        for group in self._tree.groups.values():
            if group.namespace is None and (pending or now - group.since < LAST_WORD):
                for pid in group.processes():
                    group.namespace = self._links.namespace_of_process(pid)
                    if group.namespace is not None:
                        group.started = _started(pid)
                        break
        # of the containers of a pod the oldest has made the namespace that all are in
        self._groups = {}
        for group in sorted(self._tree.groups.values(), key=lambda group: group.started, reverse=True):
            if group.namespace is not None:
                self._groups[group.namespace] = group
        if pending or self._namespaces.changed:
            self._namespaces.find()

    def _place(self, seen: _Seen, now: float) -> None:
        """Says who is behind a link, where that is known better than it was."""
        if seen.link.peer is None or seen.rank == _NAMED:
            return
        rank, name = self._who(seen.link.peer)
        pending = not seen.place.container
        if pending and rank < _KNOWN and now - seen.since < (LATE_LAST_WORD if rank == _UNSURE else LAST_WORD):
            return
        if pending or rank > seen.rank:
            seen.rank, seen.place = rank, Place(seen.link.name, name or seen.link.name)
            self._tell(seen.link.index, seen.place)

    def _who(self, namespace: int) -> tuple[int, str]:
        """Returns who is in a network namespace, and how well that is known."""
        if group := self._groups.get(namespace):
            if not group.identifier:
                return _NAMED, group.key
            if (found := self._named.get(group.key)) is None:
                return _UNSURE, group.key
            return (_NAMED if found.container != group.key else _KNOWN), found.network
        if called := self._namespaces.names.get(namespace):
            name, made_up = called
            return (_UNSURE if made_up else _KNOWN), name
        return _UNKNOWN, ""

    # -- what is told

    def _tell(self, index: int, place: Place) -> None:
        self._new[0][index] = place
        self._places.pop(index, None)
        self._places[index] = place
        if len(self._places) > REMEMBERED + len(self._seen):
            _forget(self._places, self._seen)

    def news(self) -> tuple[dict[int, Place], dict[str, str]]:
        """Returns what the worker is to know of interfaces and containers and was not told by the last call."""
        news, self._new = self._new, ({}, {})
        return news

    def told(self) -> tuple[dict[int, Place], dict[str, str]]:
        """Returns all that the worker is to know: of interfaces and containers, those gone of late too."""
        self._new = {}, {}
        return dict(self._places), {key: name.container for key, name in self._named.items()}

    def places(self) -> dict[int, Place]:
        """Returns the interfaces that lead into other network namespaces, by index: the host's ends of veth pairs.

        One whose container is "" is new: it will have another, at the latest after LATE_LAST_WORD.
        """
        return {index: seen.place for index, seen in self._seen.items() if seen.link.peer is not None}


def _forget(table: dict[Any, Any], kept: Collection[Any]) -> None:
    """Forgets half of what is not to be kept, the oldest."""
    for key in [key for key in islice(table, len(table) // 2) if key not in kept]:
        del table[key]


def _started(pid: int) -> int:
    """Returns when a process began, in ticks since the host did; 0 where it has ended (proc_pid_stat(5), field 22)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0
