# SPDX-License-Identifier: Apache-2.0
"""The worker as the supervisor sees it: a process that is started, told things, and started again when it ends."""

import contextlib
import logging
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Protocol

from exporter import worker
from exporter.channel import Channel
from exporter.errors import StartError
from exporter.privileges import WorkerRights

STOP_SECONDS = 5.0
SEND_SECONDS = 5.0  # for the worker to take a message
START_PAUSE = 1.0  # before a worker that could not be started is tried again
HUNG_SECONDS = 30.0  # a read takes milliseconds, of a hundred thousand series a tenth of a second
MAX_RESTARTS, RESTARTS_SECONDS = 10, 60.0  # a worker that can't live is no reason to go on for ever

log = logging.getLogger(__name__)


class Send(Protocol):
    """Sends the worker a message, with descriptors."""

    def __call__(self, message: object, fds: list[int] | None = None) -> None: ...


class WorkerProcess:
    """The worker, through all its lives."""

    def __init__(
        self, selector: selectors.BaseSelector, barrier: list[int], rights: WorkerRights, started: Callable[[], None]
    ) -> None:
        """started is called when a worker was started, which has to be told everything."""
        self._selector = selector
        self._barrier = barrier
        self._rights = rights
        self._started = started
        self._configured: worker.Configured | None = None
        self._listening: list[socket.socket] = []
        self._pid = 0
        self._channel: Channel | None = None
        self._start_at = math.inf  # where that was not possible before
        self._restarts = 0
        self._ended_at: list[float] = []
        self._waited_from = self._has_read = time.monotonic()
        self._reads = self._given_up = False

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock: when it is too late for the read that is due, or a worker that
        could not be started is tried again."""
        if not self._pid or self._given_up:
            return self._start_at
        return self._waited_from + HUNG_SECONDS + (0.0 if self._reads else self._interval)

    @property
    def well(self) -> bool:
        """Whether reads succeed: there has been one in time, or a worker that was hung has had the time for one."""
        return time.monotonic() < self._has_read + self._interval + 2 * HUNG_SECONDS

    def tick(self) -> None:
        """Ends a worker that does not read; another one is started in its place. Starts one that could not be."""
        if time.monotonic() < self.deadline:
            return
        if not self._pid:
            self.start()
            return
        seconds = round(time.monotonic() - self._has_read)
        log.error("worker does not read: ending it", extra={"pid": self._pid, "last_read_seconds_ago": seconds})
        self._given_up = True
        os.kill(self._pid, signal.SIGKILL)

    def configure(self, configured: worker.Configured) -> None:
        """How the config stands, for this worker and those to come."""
        self._configured = configured
        if not self._reads:
            self._waited_from = time.monotonic()
        self.send(configured)

    def listen(self, sockets: list[socket.socket]) -> None:
        """Which sockets to serve, for this worker and those to come."""
        self._listening = sockets
        self.send(worker.Listen(), [one.fileno() for one in sockets])

    def start(self) -> None:
        assert self._configured is not None
        self._start_at = math.inf
        start = worker.Start(self._configured, self._restarts)
        parent = os.getpid()
        pair: tuple[Channel, ...] = ()
        try:
            ours, theirs = pair = Channel.pair()
            pid = os.fork()
        except OSError as error:
            for end in pair:
                end.close()
            log.error("worker cannot be started, and is tried again", extra={"reason": error.strerror})
            self._start_at = time.monotonic() + START_PAUSE
            return
        ours.socket.settimeout(SEND_SECONDS)
        if pid == 0:
            signal.set_wakeup_fd(-1)
            worker.main(start, theirs, self._barrier, self._listening, self._rights, parent)
        theirs.close()
        self._pid, self._channel = pid, ours
        self._end = os.pidfd_open(pid)
        self._selector.register(self._end, selectors.EVENT_READ, self._ended)
        self._selector.register(ours, selectors.EVENT_READ, self._marked)
        self._waited_from = time.monotonic()
        self._reads = self._given_up = False
        self._started()

    def send(self, message: object, fds: list[int] | None = None) -> None:
        """Sends a message; one that does not take it is ended, and its successor told everything anew."""
        if self._channel is None:
            return
        try:
            self._channel.send(message, fds)
        except TimeoutError:  # it is stopped or stuck; half a message was sent
            log.error("worker does not listen: ending it", extra={"pid": self._pid})
            os.kill(self._pid, signal.SIGKILL)
        except OSError:  # it has just ended; its successor is told everything anew
            return

    def stop(self) -> None:
        """Has the worker end, and waits for it."""
        if not self._pid:
            return
        if self._channel is not None:
            self._channel.close()  # to the worker this is the end
        with selectors.DefaultSelector() as selector:
            selector.register(self._end, selectors.EVENT_READ)
            if not selector.select(STOP_SECONDS):
                os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    @property
    def _interval(self) -> float:
        return self._configured.interval if self._configured else 0.0

    def _marked(self) -> None:
        """The worker begins to read, or has done so."""
        assert self._channel is not None
        marks = self._channel.marks()
        if not marks:  # it ends
            self._selector.unregister(self._channel)
            return
        self._reads, self._waited_from = marks.endswith(worker.READS), time.monotonic()
        if worker.HAS_READ in marks:
            self._has_read = self._waited_from

    def _ended(self) -> None:
        self._selector.unregister(self._end)
        os.close(self._end)
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        assert self._channel is not None
        with contextlib.suppress(KeyError):  # it has been seen to be closed
            self._selector.unregister(self._channel)
        self._channel.close()
        self._channel = None
        self._restarts += 1
        self._ended_at = [at for at in self._ended_at if time.monotonic() - at < RESTARTS_SECONDS] + [time.monotonic()]
        if len(self._ended_at) > MAX_RESTARTS:
            raise StartError(f"the worker ended {len(self._ended_at)} times in {RESTARTS_SECONDS:.0f} s")
        log.error("worker ended: starting it again", extra={"reason": _ending(status)})
        self.start()


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"code {code}" if code >= 0 else signal.Signals(-code).name
