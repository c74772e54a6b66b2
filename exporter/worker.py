# SPDX-License-Identifier: Apache-2.0
"""The unprivileged process: reads maps by their descriptors, adds up, answers on the network.

It has no capability, and can't load a program, write a file or execute one (``sandbox``). All that it is told comes
down the channel from the supervisor; when that ends, so does it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NoReturn

from exporter import child, privileges, sandbox, symbols
from exporter.bpftrace.reader import Reader
from exporter.channel import Channel
from exporter.metrics import maps
from exporter.metrics.health import Health, Running
from exporter.metrics.maps import Barrier, ProbeMaps
from exporter.places import PLACES, Place
from exporter.privileges import WorkerRights
from exporter.probe import Probe
from exporter.status import Loaded, ProbeStatus
from exporter.web.server import Server
from exporter.web.settings import Settings
from exporter.web.site import Site

log = logging.getLogger(__name__)

READS, HAS_READ = b"(", b")"  # marks for the supervisor: a read begins, and has succeeded

MAX_PAUSE = 0.5  # seconds; between two reads that scrapes ask for
PAUSE_PER_READ = 9  # so many times as long as a read took is waited, up to that: reads take about a tenth of a core


@dataclass(frozen=True)
class Statuses:
    """From the supervisor: how all probes stand. settled: each has started or failed."""

    statuses: tuple[ProbeStatus, ...]
    settled: bool


@dataclass(frozen=True)
class Adopt:
    """From the supervisor, with descriptors of maps, programs and links: a probe runs, read it from now on.

    What was read for a probe of this name is not any more, and its series are gone; but where it goes on, which is what
    it does if it has the same maps and only other rules.
    """

    loaded: Loaded
    goes_on: bool = False


@dataclass(frozen=True)
class AdoptScript:
    """From the supervisor, with the output of a bpftrace and a pipe to have it asked: read this one from now on.

    Series go on if it is the same script.
    """

    probe: Probe
    marker: str


@dataclass(frozen=True)
class Retire:
    """From the supervisor: a probe is no more, nor are its series."""

    name: str


@dataclass(frozen=True)
class Told:
    """From the supervisor: what interfaces are called, by index, and containers, by short id; what is new of it."""

    places: dict[int, Place]
    names: dict[str, str]


@dataclass(frozen=True)
class Configured:
    """From the supervisor: how the config stands. interval in seconds; loaded, a Unix time, is when it was last read
    with success, and good says whether it was the last time."""

    interval: float
    loaded: float
    good: bool = True


@dataclass(frozen=True)
class Listen:
    """From the supervisor, with sockets that listen: these alone are served from now on."""


@dataclass(frozen=True)
class Web:
    """From the supervisor: what clients find. Until the first of these nobody is answered.

    Where there is a web config, read_at is when it was last read with success, as a Unix time; successful says whether
    that was the last time that it was read.
    """

    settings: Settings
    successful: bool = True
    read_at: float | None = None


@dataclass(frozen=True)
class Start:
    """What a worker begins with."""

    configured: Configured
    restarts: int


class Worker:
    """The unprivileged process's state and its loop."""

    def __init__(self, start: Start, channel: Channel, barrier: Barrier, listening: list[socket.socket]) -> None:
        self._configured = start.configured
        self._channel = channel
        self._barrier = barrier
        self._listening = listening
        configured = start.configured
        self._health = Health(configured.loaded, configured.good, configured.interval, worker_restarts=start.restarts)
        self._next_read: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._may_read_at = 0.0
        self._pages: dict[Hashable, list[bytes]] = {}  # of the last read
        self._server = Server(Site(self._health, self._page))
        self._other_interval = asyncio.Event()
        self._changes: asyncio.Queue[Web | list[socket.socket]] = asyncio.Queue()  # of what clients find, and where

    async def run(self) -> None:
        """Serves until the supervisor ends or says so."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_reader(self._channel.fileno(), self._told, ended)
        loop.add_signal_handler(signal.SIGTERM, _finish, ended)
        tasks = [asyncio.create_task(endless) for endless in (self._read_by_timer(), self._serve())]
        for task in tasks:
            task.add_done_callback(lambda task: _finish(ended, task))
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
            self._adopt(message, fds)
        elif isinstance(message, AdoptScript):
            self._adopt_script(message, fds)
        elif isinstance(message, Retire):
            self._retire(message.name)
        elif isinstance(message, Configured):
            self._health.config_loaded, self._health.config_good = message.loaded, message.good
            self._health.interval = message.interval
            if message.interval != self._configured.interval:
                self._other_interval.set()
            self._configured = message
        elif isinstance(message, Web):
            self._changes.put_nowait(message)
        elif isinstance(message, Listen):
            self._changes.put_nowait([socket.socket(fileno=fd) for fd in fds])
        elif isinstance(message, Told):
            PLACES.learn(message.places, message.names)

    def _adopt(self, message: Adopt, fds: list[int]) -> None:
        loaded, rest = message.loaded, iter(fds)
        by_name = {name: next(rest) for name in loaded.maps}
        running = self._health.running.get(loaded.probe.name)
        if message.goes_on and running:
            for fd in by_name.values():  # it has them
                os.close(fd)
            running.go_on(loaded.probe, dict(zip(loaded.programs, rest, strict=True)), loaded.misses_unknown)
            return
        self._retire(loaded.probe.name)
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

    def _adopt_script(self, message: AdoptScript, fds: list[int]) -> None:
        reader = self._health.scripts.get(message.probe.name)
        if reader is None or reader.probe != message.probe:
            self._retire(message.probe.name)
            reader = self._health.scripts[message.probe.name] = Reader(message.probe)
        reader.adopt(message.marker, *fds)

    def _retire(self, name: str) -> None:
        if running := self._health.running.pop(name, None):
            running.close()
        if reader := self._health.scripts.pop(name, None):
            reader.close()

    async def _serve(self) -> None:
        """Serves clients: where and how, as the supervisor's messages come, one after the other. Raises OSError where
        they can't be served as is wanted: the worker ends then, rather than serve a new address in the former way."""
        admitting = False
        while True:
            change = await self._changes.get()
            if isinstance(change, Web):
                self._server.use(change.settings)
                self._health.web_successful, self._health.web_read_at = change.successful, change.read_at
                if admitting:
                    continue
                admitting = True
            else:
                self._listening = change
            if admitting:
                await self._server.serve(self._listening)

    def _read(self) -> None:
        began = time.monotonic()
        maps.read(self._barrier, [running.maps for running in self._health.running.values()])
        self._health.has_read(began, time.time())
        self._pages.clear()
        self._may_read_at = time.monotonic() + min(MAX_PAUSE, PAUSE_PER_READ * self._health.last_read_duration)

    async def _read_by_timer(self) -> None:
        while True:
            await self._fresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._configured.interval):
                    await self._other_interval.wait()
            self._other_interval.clear()

    async def _fresh(self) -> None:
        """Returns after a read that began after this was called; those who wait together share one."""
        if self._next_read is None:
            self._next_read = asyncio.create_task(self._read_when_due())
        await asyncio.shield(self._next_read)

    async def _read_when_due(self) -> None:
        async with self._reading:
            await asyncio.sleep(max(0.0, self._may_read_at - time.monotonic()))
            self._next_read = None
            self._channel.mark(READS)
            await asyncio.gather(*(reader.read() for reader in self._health.scripts.values()))
            self._read()
            self._channel.mark(HAS_READ)

    async def _page(self, wanted: Hashable, make: Callable[[], list[bytes]]) -> list[bytes]:
        """Returns what is made of a read that begins now; all who want the same of that read share it."""
        await self._fresh()
        if wanted not in self._pages:
            self._pages[wanted] = make()
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
    start: Start,
    channel: Channel,
    barrier_fds: list[int],
    listening: list[socket.socket],
    rights: WorkerRights,
    parent: int,
) -> NoReturn:
    """Runs the worker in a process that was forked for it by the process parent; never returns."""
    code = 1
    try:
        child.set_name("ebpf-exp-worker")
        for number in (signal.SIGINT, signal.SIGHUP):  # a Ctrl-C reaches all processes; the supervisor decides
            signal.signal(number, signal.SIG_IGN)
        kept = {channel.fileno(), *barrier_fds, *(one.fileno() for one in listening)}
        child.close_all_but(kept)
        privileges.drop(rights.keep_bpf)
        child.die_with(parent)  # after the drop: a change of user takes it back
        sandbox.enter(rights.filter)
        asyncio.run(Worker(start, channel, Barrier(*barrier_fds), listening).run())
        code = 0
    except BaseException:
        log.exception("worker failed: a fault of ebpf-exporter's own")
    finally:
        os._exit(code)
