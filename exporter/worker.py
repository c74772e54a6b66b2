# SPDX-License-Identifier: Apache-2.0
"""The unprivileged process: reads maps by their descriptors, adds up, answers on the network.

It has no capability and can't load a program. All that it is told comes down the channel from the supervisor; when that
ends, so does it.
"""

import asyncio
import os
import signal
import socket
import time
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

from exporter import child, privileges, symbols
from exporter.bpftrace.reader import Reader
from exporter.channel import Channel
from exporter.metrics import exposition, maps
from exporter.metrics.exposition import Format
from exporter.metrics.health import Health, Running
from exporter.metrics.maps import Barrier, ProbeMaps
from exporter.places import PLACES, Place
from exporter.probe import Probe
from exporter.status import Loaded, ProbeStatus
from exporter.web.server import Server
from exporter.web.site import Site

MAX_PAUSE = 0.5  # seconds; between two reads that scrapes ask for
PAUSE_PER_READ = (
    9  # so many times as long as a read took is waited at the least: reading takes a tenth of a core at most
)


@dataclass(frozen=True)
class Statuses:
    """From the supervisor: how all probes stand. settled: each has started or failed."""

    statuses: tuple[ProbeStatus, ...]
    settled: bool


@dataclass(frozen=True)
class Adopt:
    """From the supervisor, with descriptors of maps, programs and links: a probe runs, read it from now on."""

    loaded: Loaded


@dataclass(frozen=True)
class AdoptScript:
    """From the supervisor, with the output of a bpftrace and a pipe to have it asked: read this one from now on."""

    probe: Probe
    marker: str


@dataclass(frozen=True)
class Told:
    """From the supervisor: what interfaces are called, by index, and containers, by short id; what is new of it."""

    places: dict[int, Place]
    names: dict[str, str]


@dataclass(frozen=True)
class Start:
    """What a worker begins with. interval in seconds; config_loaded is a Unix time."""

    interval: float
    config_loaded: float
    restarts: int


class Worker:
    """The unprivileged process's state and its loop."""

    def __init__(self, start: Start, channel: Channel, barrier: Barrier, listening: list[socket.socket]) -> None:
        self._start = start
        self._channel = channel
        self._barrier = barrier
        self._listening = listening
        self._health = Health(config_loaded=start.config_loaded, worker_restarts=start.restarts)
        self._registry = self._health.registry()
        self._next_read: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._may_read_at = 0.0
        self._pages: dict[Format, list[bytes]] = {}  # of the last read

    async def run(self) -> None:
        """Serves until the supervisor ends or says so."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_reader(self._channel.fileno(), self._told, ended)
        loop.add_signal_handler(signal.SIGTERM, _finish, ended)
        await Server(Site(self._health, self._page)).serve(self._listening)
        timer = asyncio.create_task(self._read_by_timer())
        timer.add_done_callback(lambda task: _finish(ended, task))
        await ended

    def _told(self, ended: "asyncio.Future[None]") -> None:
        try:
            message, fds = self._channel.receive()
        except (EOFError, OSError):
            _finish(ended)
            return
        self._take(message, fds)

    def _take(self, message: Any, fds: list[int]) -> None:
        if isinstance(message, Statuses):
            self._health.statuses = {status.name: status for status in message.statuses}
            self._health.settled = message.settled
        elif isinstance(message, Adopt):
            loaded, rest = message.loaded, iter(fds)
            by_name = {name: next(rest) for name in loaded.maps}
            if (table := by_name.pop(symbols.TABLE, None)) is not None:
                symbols.SYMBOLS.use(table)
                os.close(table)
            self._health.running[loaded.probe.name] = Running(
                maps=ProbeMaps(loaded.probe, by_name),
                programs={name: next(rest) for name in loaded.programs},
                links=list(zip(loaded.links, rest, strict=True)),
                misses_unknown=loaded.misses_unknown,
                starts_missed=by_name.get("missed"),
            )
            self._health.compiler = loaded.compiler
        elif isinstance(message, AdoptScript):
            reader = self._health.scripts.setdefault(message.probe.name, Reader(message.probe))
            reader.adopt(message.marker, *fds)
        elif isinstance(message, Told):
            PLACES.learn(message.places, message.names)

    def _read(self) -> None:
        began = time.monotonic()
        maps.read(self._barrier, [running.maps for running in self._health.running.values()])
        self._health.last_read_duration = time.monotonic() - began
        self._health.last_read = time.time()
        self._pages.clear()
        self._may_read_at = time.monotonic() + min(MAX_PAUSE, PAUSE_PER_READ * self._health.last_read_duration)

    async def _read_by_timer(self) -> None:
        while True:
            await asyncio.sleep(self._start.interval)
            await self._fresh()

    async def _fresh(self) -> None:
        """Returns after a read that began after this was called; those who wait together share one."""
        if self._next_read is None:
            self._next_read = asyncio.create_task(self._read_when_due())
        await asyncio.shield(self._next_read)

    async def _read_when_due(self) -> None:
        async with self._reading:
            await asyncio.sleep(max(0.0, self._may_read_at - time.monotonic()))
            self._next_read = None
            await asyncio.gather(*(reader.read() for reader in self._health.scripts.values()))
            self._read()

    async def _page(self, wanted: Format) -> list[bytes]:
        await self._fresh()
        if wanted not in self._pages:
            metrics = [rendered for _, series in self._health.tables() for rendered in series.render()]
            self._pages[wanted] = exposition.page(metrics, self._registry, wanted)
        return self._pages[wanted]


def _finish(future: "asyncio.Future[None]", task: "asyncio.Task[None] | None" = None) -> None:
    """Ends the loop; with the task's exception, if it ended with one."""
    if future.done():
        return
    if task is not None and not task.cancelled() and (error := task.exception()):
        future.set_exception(error)
    else:
        future.set_result(None)


def main(
    start: Start, channel: Channel, barrier_fds: list[int], listening: list[socket.socket], keep_bpf: bool, parent: int
) -> NoReturn:
    """Runs the worker in a process that was forked for it by the process parent; never returns."""
    code = 1
    try:
        child.set_name("ebpf-exp-worker")
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all processes; the supervisor decides
        kept = {channel.fileno(), *barrier_fds, *(one.fileno() for one in listening)}
        child.close_all_but(kept)
        privileges.drop(keep_bpf)
        child.die_with(parent)  # after the drop: a change of user takes it back
        asyncio.run(Worker(start, channel, Barrier(*barrier_fds), listening).run())
        code = 0
    except BaseException:  # noqa: BLE001 - the boundary: the process ends here, and says why
        traceback.print_exc()
    finally:
        os._exit(code)
