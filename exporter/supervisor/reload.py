# SPDX-License-Identifier: Apache-2.0
"""Reading the config again: what is good takes the place of what was, and what is bad changes nothing."""

import logging
import math
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporter.child import Child, Crashed
from exporter.errors import ConfigError, ExporterError, Problem
from exporter.supervisor import plan
from exporter.supervisor.control import Answer
from exporter.supervisor.plan import Plan
from exporter.supervisor.probes import Changes, Probes

READ_SECONDS = 60.0  # reading takes a third of a second
MOST_LINES = 100  # of problems, and of warnings, that who asked is told

log = logging.getLogger(__name__)

Told = Callable[[Answer], None]


@dataclass
class _Round:
    """One reading: who is to be told of it, and what it has changed."""

    asked: list[Told]
    lines: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # of probes that were started
    warnings: tuple[str, ...] = ()


class Reloads:
    """Reads a config whenever it is asked to, one reading after the other."""

    def __init__(
        self,
        config: Path,
        selector: selectors.BaseSelector,
        probes: Probes,
        apply: Callable[[Plan], tuple[Changes, dict[str, str]]],
        read: Callable[[bool], None],
        notify: Callable[[bool], None],
    ) -> None:
        """apply makes a plan what runs, and returns what changes besides probes; it raises ExporterError and changes
        nothing where it can't be. read is told whether the config was good, notify when a reload begins and ends."""
        self._config = config
        self._selector = selector
        self._probes = probes
        self._apply = apply
        self._read = read
        self._notify = notify
        self._asked: list[Told] | None = None  # of the next reading; None: none is wanted
        self._reading: tuple[Child[Plan], _Round] | None = None
        self._settling: list[_Round] = []
        self._number = 0
        self.deadline = math.inf  # by the monotonic clock

    def ask(self, told: Told | None = None) -> None:
        """Reads the config, after the reading that there is: it may have changed since that began."""
        self._asked = [*(self._asked or []), *([told] if told else [])]
        if self._reading is None:
            self._begin()

    def tick(self) -> None:
        """Ends a reading that had its time."""
        if self._reading and time.monotonic() >= self.deadline:
            self.deadline = math.inf
            self._reading[0].kill()

    def settle(self) -> None:
        """Tells those who wait for it, if all probes are what the config wants, or have failed."""
        if not self._settling or not self._probes.settled:
            return
        rounds, self._settling = self._settling, []
        for one in rounds:
            bad = [status for status in self._probes.statuses.values() if status.name in one.names and status.reason]
            warnings = (
                *one.warnings,
                *(f"probe {status.name}: {status.state}: {status.reason}" for status in bad),
            )
            for told in one.asked:
                told(Answer(True, one.lines, _first(warnings)))
        self._end()

    def kill(self) -> None:
        if self._reading:
            self._reading[0].kill()

    def _begin(self) -> None:
        self._number += 1
        log.info("reading the config again", extra={"config": self._config, "reload": self._number})
        self._notify(True)
        child = plan.begin(self._config)
        self._reading = child, _Round(self._asked or [])
        self._asked = None
        self.deadline = time.monotonic() + READ_SECONDS
        self._selector.register(child, selectors.EVENT_READ, self._readable)

    def _readable(self) -> None:
        assert self._reading is not None
        child, this = self._reading
        late = self.deadline == math.inf
        self._reading, self.deadline = None, math.inf
        self._selector.unregister(child)
        try:
            wanted, _, _ = child.result()
            changes, others = self._apply(wanted)
        except ExporterError as error:
            self._refuse(this, Crashed(f"not read within {READ_SECONDS:.0f} s") if late else error)
        else:
            done = {**_named(changes), **others}
            words = "; ".join(f"{what} {which}" for what, which in done.items())
            this.lines = (f"reloaded {self._config}: {words or 'nothing has changed'}",)
            this.names = changes.added + changes.changed
            this.warnings = tuple(map(str, wanted.dangers))
            told = {what.replace(" ", "_"): which for what, which in done.items()}
            log.info("config reloaded", extra={"config": self._config, **told, "reload": self._number})
            self._read(True)
            self._settling.append(this)
            self.settle()
        if self._asked is not None:
            self._begin()

    def _refuse(self, this: _Round, error: ExporterError) -> None:
        problems = error.problems if isinstance(error, ConfigError) else [Problem(self._config, 0, str(error))]
        for one in problems:
            place = f"{one.path}:{one.line}" if one.line else str(one.path)
            log.error("config not reloaded", extra={"at": place, "reason": one.message, "reload": self._number})
        self._read(False)
        for told in this.asked:
            told(
                Answer(False, (*_first(tuple(map(str, problems))), "nothing was changed: what was read before goes on"))
            )
        self._end()

    def _end(self) -> None:
        if not self._reading and not self._settling:
            self._notify(False)


def _first(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Returns as many lines as one may want to see at once, and how many more there are."""
    more = len(lines) - MOST_LINES
    return (*lines[:MOST_LINES], f"… and {more:,} more, in the exporter's log") if more > 0 else lines


def _named(changes: Changes) -> dict[str, str]:
    """Returns ``{"changed": "file_opens, xdp", "as before": "3"}`` and the like, for what there is."""
    names = {"added": changes.added, "changed": changes.changed, "removed": changes.removed}
    found = {what: ", ".join(which) for what, which in names.items() if which}
    return {**found, "as before": str(len(changes.kept))} if found and changes.kept else found
