# SPDX-License-Identifier: Apache-2.0
"""Compile children: as many at once as there are processors, none for longer than its time."""

import logging
import math
import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from exporter import systemd
from exporter.child import Child, Crashed
from exporter.errors import ExporterError

# A compile takes one second; on a small machine that has much else to do, minutes.
COMPILE_SECONDS = 300.0
_START_USEC = int((COMPILE_SECONDS + 60) * 1e6)  # for a job that begins: systemd is not to end a start that goes on

log = logging.getLogger(__name__)


# a function's arguments, and the descriptors that its process has as well, under the same numbers
Given = tuple[tuple[Any, ...], tuple[int, ...]]


@dataclass(eq=False)
class Job:
    """Work for a child: what it runs, and who is told of the result and its descriptors, or of the error.

    given is asked when the child starts: a descriptor that is known before may be closed while the job waits.
    """

    name: str
    function: Callable[..., tuple[Any, list[int]]]
    given: Callable[[], Given]
    done: Callable[[Any, list[int]], None]
    failed: Callable[[ExporterError], None]
    child: Child[Any] | None = None
    deadline: float = math.inf
    late: bool = False


class Compilers:
    """The children that run, and the work that waits for one."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._waiting: list[Job] = []
        self._running: list[Job] = []

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock."""
        return min((job.deadline for job in self._running), default=math.inf)

    def add(self, job: Job) -> None:
        """Does a job as soon as there is room."""
        self._waiting.append(job)
        self._start()

    def has(self, job: Job) -> bool:
        """Whether a job waits or runs."""
        return job in self._waiting or job in self._running

    def cancel(self, job: Job) -> None:
        """Forgets a job: nobody is told of it any more."""
        if job in self._waiting:
            self._waiting.remove(job)
        elif job.child is not None and job in self._running:
            self._running.remove(job)
            self._selector.unregister(job.child)
            job.child.abandon()
            self._start()

    def tick(self) -> None:
        """Ends the children that had their time."""
        for job in self._running:
            if job.child is not None and time.monotonic() > job.deadline:
                job.child.kill()
                job.deadline, job.late = math.inf, True  # its end comes by the selector

    def kill(self) -> None:
        """Ends all children."""
        for job in self._running:
            if job.child is not None:
                job.child.kill()

    def _start(self) -> None:
        while self._waiting and len(self._running) < len(os.sched_getaffinity(0)):
            job = self._waiting.pop(0)
            arguments, keep = job.given()
            job.child = Child(job.function, *arguments, keep=keep)
            job.deadline, job.late = time.monotonic() + COMPILE_SECONDS, False
            self._running.append(job)
            systemd.notify(f"EXTEND_TIMEOUT_USEC={_START_USEC}")
            self._selector.register(job.child, selectors.EVENT_READ, lambda job=job: self._readable(job))

    def _readable(self, job: Job) -> None:
        assert job.child is not None
        self._running.remove(job)
        self._selector.unregister(job.child)
        try:
            result, fds, _ = job.child.result()
        except ExporterError as error:
            job.failed(_late(error) if job.late else error)
        else:
            job.done(result, fds)
        self._start()


def _late(error: ExporterError) -> ExporterError:
    """Returns what to say of a child that was ended: not by which signal, but why; with all that it had said."""
    late = Crashed(f"it was not compiled and attached within {COMPILE_SECONDS:.0f} s")
    for words in getattr(error, "__notes__", []):
        late.add_note(words)
    return late
