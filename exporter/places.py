# SPDX-License-Identifier: Apache-2.0
"""Names that the privileged process finds out and tells: of interfaces, of who is behind them, of containers.

A BPF program has the number of an interface or of a cgroup. What those are called is to be learnt while they live, some
of it from files that are root's: so the supervisor does (``containers``), and tells the worker. That may be a little
after the worker has read what was counted: what has a number of which nothing is told yet waits for it (``settled``),
but not for ever.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

MOST = 32_768  # interfaces, and containers, that are remembered: those that were told of last
PATIENCE = 4.0  # seconds; of what it has found the supervisor has told within half of that
LONG_PATIENCE = 20.0  # seconds; of what it said that it was finding out it has had its last word within half of that

_SHORT_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Place:
    """An interface of this host: its name, and who is behind it.

    container is that of the network namespace at the other end: its container's name or short id, or the namespace's
    own name; the interface's where nobody is known to be there. "" while that is being found out.
    """

    interface: str
    container: str


class Places:
    """What was told, of interfaces by their indexes and of containers by their short ids.

    Where nobody tells anything, nothing waits, and an interface has the name that it has now.
    """

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._places: dict[int, Place] = {}
        self._names: dict[str, str] = {}
        self._asked: dict[int | str, float] = {}  # since when something waits for what was not told
        self._told = False
        self.version = 0  # how often something was told that makes what was asked before read differently

    def learn(self, places: Mapping[int, Place], names: Mapping[str, str]) -> None:
        """Adds what is told to what was told before."""
        self._told = True
        differs = any(self._differs(index, place) for index, place in places.items())
        differs |= any(self._names.get(short, name) != name or self._gave_up(short) for short, name in names.items())
        self.version += differs
        for index, place in places.items():
            self._places.pop(index, None)
            self._places[index] = place
            if place.container:
                self._asked.pop(index, None)
        for short, name in names.items():
            self._names.pop(short, None)
            self._names[short] = name
            self._asked.pop(short, None)
        for table in (self._places, self._names):
            _forget(table, self._most)

    def _differs(self, index: int, place: Place) -> bool:
        before = self._places.get(index)
        if before is None:
            return self._gave_up(index)
        if before.interface != place.interface:
            return True
        return before.container != place.container and (bool(before.container) or self._gave_up(index))

    def _gave_up(self, number: int | str) -> bool:
        asked = self._asked.get(number)
        return asked is not None and self._clock() - asked >= self._patience(number)

    def _patience(self, number: int | str) -> float:
        return LONG_PATIENCE if number in self._places else PATIENCE

    def interface(self, index: int) -> str:
        """Returns an interface's name; the index, where that is not known."""
        if place := self._places.get(index):
            return place.interface
        try:
            return os.fsencode(socket.if_indextoname(index)).decode("utf-8", "backslashreplace")
        except OSError:  # it has gone since, or is in another network namespace
            return str(index)

    def container(self, index: int) -> str:
        """Returns who is behind an interface; the interface, where nobody is known to be."""
        place = self._places.get(index)
        return place.container if place and place.container else self.interface(index)

    def name(self, container: str) -> str:
        """Returns a container's name, by its short id; the id, where no runtime has told it."""
        return self._names.get(container, container)

    def settled(self, number: int | str, whole: bool = True) -> bool:
        """Whether an interface or a container reads as it always will, as far as can be known.

        whole: with who is behind the interface.
        """
        if not self._told:
            return True
        if isinstance(number, str):
            if number in self._names or not _SHORT_ID.fullmatch(number):
                return True
        elif (place := self._places.get(number)) and (place.container or not whole):
            return True
        if len(self._asked) >= self._most:
            self._asked = {key: since for key, since in self._asked.items() if not self._gave_up(key)}
            if len(self._asked) >= self._most:
                return True
        self._asked.setdefault(number, self._clock())
        return self._gave_up(number)


def _forget(table: dict[int, Place] | dict[str, str], most: int) -> None:
    if len(table) > most:
        for oldest in list(islice(table, max(1, most // 16))):
            del table[oldest]  # type: ignore[arg-type]  # of whichever of the two it is


PLACES = Places()  # of this process
