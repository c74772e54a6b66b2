# SPDX-License-Identifier: Apache-2.0
"""Has names of interfaces and containers found out, and tells the worker, once a probe has labels that need them."""

import logging
import math
import selectors
import time

from exporter import kinds, worker
from exporter.child import Crashed
from exporter.containers import Containers
from exporter.places import Place
from exporter.probe import Probe
from exporter.supervisor.worker import Send

log = logging.getLogger(__name__)


class Naming:
    """What the worker is told of names."""

    def __init__(self, selector: selectors.BaseSelector, send: Send) -> None:
        self._selector = selector
        self._send = send
        self._containers: Containers | None = None

    def need(self, probe: Probe) -> None:
        """A probe is about to be given to the worker: tells first what its labels may need."""
        if self._containers or not (probe.interfaces or probe.chosen_kinds & kinds.TOLD):
            return
        try:
            self._containers = Containers()
        except OSError as error:
            log.warning("containers are not found", extra={"reason": error.strerror})
            return
        except Crashed as error:
            log.warning("containers are not found", extra={"reason": str(error)})
            return
        for fd, changed in self._containers.handlers():
            self._selector.register(fd, selectors.EVENT_READ, changed)
        self.tick()

    def places(self) -> dict[int, Place]:
        """Returns the interfaces that lead into other network namespaces, by index."""
        return self._containers.places() if self._containers else {}

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock."""
        return self._containers.deadline if self._containers else math.inf

    def tick(self) -> bool:
        """Finds out and tells what is due. Returns whether there was anything new."""
        if not self._containers or time.monotonic() < self.deadline or not self._containers.look():
            return False
        self._send(worker.Told(*self._containers.news()))
        return True

    def give_all(self) -> None:
        """Tells a new worker all that is known."""
        if self._containers:
            self._send(worker.Told(*self._containers.told()))
