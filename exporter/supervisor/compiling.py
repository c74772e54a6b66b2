# SPDX-License-Identifier: Apache-2.0
"""Compile children: as many at once as there are processors, none for longer than its time."""

import logging
import math
import os
import selectors
import time
from collections.abc import Callable

from exporter.child import Child
from exporter.loader import load
from exporter.probe import Probe

COMPILE_SECONDS = 120.0  # a compile takes one second; on an emulated machine, a quarter of a minute

log = logging.getLogger(__name__)


class Compilers:
    """The children that run, and the probes that wait for one."""

    def __init__(self, selector: selectors.BaseSelector, ended: Callable[[Probe, Child], None]) -> None:
        """ended is called with each child that has its result or has died."""
        self._selector = selector
        self._ended = ended
        self._waiting: list[Probe] = []
        self._running: dict[str, tuple[Child, float]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock."""
        return min((deadline for _, deadline in self._running.values()), default=math.inf)

    def add(self, probe: Probe) -> None:
        self._waiting.append(probe)

    def start(self) -> None:
        """Starts children for what waits, as far as there is room."""
        while self._waiting and len(self._running) < len(os.sched_getaffinity(0)):
            probe = self._waiting.pop(0)
            child = Child(load.start, probe)
            self._running[probe.name] = child, time.monotonic() + COMPILE_SECONDS
            self._selector.register(child, selectors.EVENT_READ, lambda probe=probe: self._readable(probe))

    def tick(self) -> None:
        """Ends the children that had their time."""
        for name, (child, deadline) in self._running.items():
            if time.monotonic() > deadline:
                log.error("probe %s: still not compiled after %.0f s", name, COMPILE_SECONDS)
                child.kill()
                self._running[name] = child, math.inf  # its end comes by the selector

    def kill(self) -> None:
        """Ends all children."""
        for child, _ in self._running.values():
            child.kill()

    def _readable(self, probe: Probe) -> None:
        child, _ = self._running.pop(probe.name)
        self._selector.unregister(child)
        self._ended(probe, child)
        self.start()
