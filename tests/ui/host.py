# SPDX-License-Identifier: Apache-2.0
"""The worker's own server and site over a probe whose every number is known: no kernel runs it."""

import asyncio
import socket
import threading
from collections.abc import Callable, Hashable
from typing import Self
from unittest import mock

from exporter import libbpf
from exporter.libbpf import ProgramStatistics
from exporter.metrics.health import Health, Running
from exporter.metrics.maps import ProbeMaps
from exporter.metrics.series import Series
from exporter.probe import Probe
from exporter.status import ProbeStatus
from exporter.web.server import Server
from exporter.web.settings import Settings
from exporter.web.site import Site
from tests.kernel.daemon import free_port
from tests.unit.support import key, numbers

STEP = 2.0  # seconds from read to read, by the clock that this host has
RUNS, NANOSECONDS = 100, 400  # of each read, and of each run


def add(series: Series, amounts: tuple[int, ...], **labels: str | int) -> None:
    """A probe has counted."""
    series.add(key(series.table, **labels), numbers(*amounts))


class Host:
    """Serves ``p``, and statuses besides. Each read, at what each asks for has one made, takes a step."""

    def __init__(self, probe: Probe, step: Callable[[int, list[Series]], None], *others: ProbeStatus) -> None:
        """step is called at each read with its number, from 0 on, and the probe's series."""
        self.port = free_port()
        self.reads = 0
        self._step = step
        self._kernel = mock.patch.multiple(libbpf, map_lookup=lambda *_: bytes(4), program_statistics=self._statistics)
        with self._kernel:
            maps = ProbeMaps(probe, {"writing": -1})
        self.health = Health(config_loaded=1.0, interval=5.0)
        self.health.statuses = {"p": ProbeStatus("p", "Counts.", "running", "kprobe"), **{o.name: o for o in others}}
        self.health.running["p"] = Running(maps, {"f": 1})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def _statistics(self, _: int) -> ProgramStatistics:
        return ProgramStatistics(RUNS * self.reads, NANOSECONDS * RUNS * self.reads, 0)

    async def _page(self, _: Hashable, make: Callable[[], list[bytes]]) -> list[bytes]:
        self._step(self.reads, self.health.running["p"].maps.tables)
        self.health.has_read(0.0, 1_700_000_000.0 + STEP * self.reads)
        self.reads += 1
        return make()

    def __enter__(self) -> Self:
        self._kernel.start()
        self.answer()
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()
        self._kernel.stop()

    def answer(self) -> None:
        """Begins to answer."""
        listening = socket.create_server(("127.0.0.1", self.port))
        self._loop, self._end = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(listening,))
        self._thread.start()

    def vanish(self) -> None:
        """Answers no more, and ends all connections."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _run(self, listening: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner, listening:
            runner.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        server = Server(Site(self.health, self._page))
        server.use(Settings())
        await server.serve([listening])
        await self._end.wait()
