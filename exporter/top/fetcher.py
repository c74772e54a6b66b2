# SPDX-License-Identifier: Apache-2.0
"""Asks an exporter again and again, in a thread: a screen does not wait for the network."""

import queue
import threading
import time
from collections.abc import Callable

from exporter.top.answers import Probes, Series
from exporter.top.client import Client, Unanswered

Answer = Probes | Series | BaseException


class Fetcher:
    """Asks for what is wanted at that time: a probe's series, or all probes ("")."""

    def __init__(self, client: Client, interval: float, told: Callable[[], object]) -> None:
        """told is called, in the thread, when there is an answer more; interval in seconds."""
        self._client = client
        self._interval = interval
        self._told = told
        self._wanted: str | None = None
        self._changed = threading.Condition()
        self._answers: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()
        # not waited for at the end: it may be waiting for the network
        threading.Thread(target=self._run, daemon=True).start()

    def want(self, probe: str | None) -> None:
        """Asks for this from now on, at once if it is something else; None: for nothing."""
        with self._changed:
            if probe != self._wanted:
                self._wanted = probe
                self._changed.notify()

    def answers(self) -> list[tuple[str, Answer]]:
        """Returns what has come since the last call: for which probe, and what, or what failed."""
        found = []
        while not self._answers.empty():
            found.append(self._answers.get())
        return found

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._wanted is not None)
                    wanted = self._wanted or ""
                due = time.monotonic() + self._interval  # from asking to asking
                self._answer(wanted)
                self._wait(wanted, due)
        except BaseException as error:  # noqa: BLE001 - the boundary: the screen's thread raises it
            self._put("", error)

    def _wait(self, wanted: str, due: float) -> None:
        """Returns when it is time, or something else is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted != wanted, max(0.0, due - time.monotonic()))

    def _answer(self, wanted: str) -> None:
        try:
            self._put(wanted, self._client.series(wanted) if wanted else self._client.probes())
        except Unanswered as error:
            self._put(wanted, error)

    def _put(self, wanted: str, answer: Answer) -> None:
        self._answers.put((wanted, answer))
        self._told()
