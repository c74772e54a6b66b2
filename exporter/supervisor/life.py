# SPDX-License-Identifier: Apache-2.0
"""One probe's life: compiled, attached and held; tried again where it failed; let go of when it is not wanted."""

import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exporter import libbpf
from exporter.errors import ExporterError, ProbeError
from exporter.holder import Hold
from exporter.loader import load
from exporter.loader.load import NothingHolds
from exporter.network.attachments import OnInterfaces
from exporter.places import Place
from exporter.probe import Probe
from exporter.rules import tables
from exporter.rules.placing import Placing
from exporter.status import MAX_DETAILS, Loaded, ProbeStatus
from exporter.supervisor import overhead
from exporter.supervisor.compiling import Compilers, Job
from exporter.supervisor.overhead import Overhead

FIRST_PAUSE, LAST_PAUSE = 10.0, 600.0  # seconds before what failed is tried again; doubled each time

log = logging.getLogger(__name__)


@dataclass
class Held:
    """What a running probe has: what the worker is to be told and given, and what attaches it, also to interfaces."""

    loaded: Loaded
    shared: list[int]  # maps, programs and links that tell what they missed
    private: dict[str, int]  # maps that are not for the worker, by name
    attachments: list[Hold]
    on_interfaces: OnInterfaces | None = None

    def run_nanoseconds(self) -> int:
        """Returns how long its programs have run in all; 0 where the kernel does not tell."""
        programs = self.shared[len(self.loaded.maps) :][: len(self.loaded.programs)]
        return sum(libbpf.program_statistics(fd).run_ns for fd in programs)

    def release(self) -> None:
        """Lets go of all: nothing of the probe stays attached."""
        for hold in self.attachments:
            hold.release()
        if self.on_interfaces:
            self.on_interfaces.release()
        for fd in [*self.shared, *self.private.values()]:
            os.close(fd)


class Life:
    """A probe that is compiled here, as the config wants it at one time. ``held`` is what it has while it is up."""

    def __init__(
        self,
        probe: Probe,
        compilers: Compilers,
        attached: Callable[["Life"], None],
        changed: Callable[["Life"], None],
    ) -> None:
        """attached is called when it is up, changed when its status is another."""
        self.probe = probe
        self.status = ProbeStatus(probe.name, probe.purpose, declaration=str(probe.declaration))
        self.held: Held | None = None
        self._compilers = compilers
        self._attached = attached
        self._changed = changed
        self._pause = FIRST_PAUSE
        self._again_at = math.inf
        self._disabled_for = overhead.FIRST_PAUSE
        self._overhead = Overhead(probe.max_cpu_percent)
        self._look_at = math.inf  # at what it costs
        self._job = Job(probe.name, load.start, (probe,), self._loaded, self._failed)
        compilers.add(self._job)

    @property
    def up(self) -> bool:
        return self.held is not None

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock."""
        return min(self._again_at, self._look_at)

    def tick(self) -> None:
        """Tries again, or looks at what it costs, if that is due."""
        if time.monotonic() >= self._look_at:
            self._look_at_cost()
        if time.monotonic() >= self._again_at:
            self._again_at = math.inf
            self._compilers.add(self._job)

    def hurry(self) -> None:
        """Tries at once what would be tried again later: its pauses begin anew."""
        self._pause, self._disabled_for = FIRST_PAUSE, overhead.FIRST_PAUSE
        if self._again_at < math.inf:
            self._again_at = time.monotonic()

    def retire(self) -> None:
        """Ends it: nothing of it runs or stays attached, and nobody is told of it any more."""
        self._compilers.cancel(self._job)
        self._again_at = math.inf
        self._release()

    def _release(self) -> None:
        self._look_at = math.inf
        if self.held:
            self.held.release()
            self.held = None

    def take_over(self, before: "Life") -> None:
        """Puts its programs where another life of the same probe has its own, on each interface at once."""
        if self.held and before.held and self.held.on_interfaces and before.held.on_interfaces:
            self.held.on_interfaces.take_over(before.held.on_interfaces)

    def leave_interfaces(self) -> None:
        """Detaches from interfaces: what is there without a link would stay."""
        if self.held and self.held.on_interfaces:
            self.held.on_interfaces.release()

    def update_interfaces(self, containers: Mapping[int, Place], seconds: float) -> bool:
        """Attaches to interfaces that are new, lets go of those gone; for about so many seconds.

        containers are behind interfaces, by their indexes. Returns whether it has finished.
        """
        if not self.held or not self.held.on_interfaces:
            return True
        before, on_interfaces = self.status, self.held.on_interfaces
        reasons = on_interfaces.update(containers, seconds)
        state, reason = "degraded" if reasons else "running", "; ".join(reasons)
        if not on_interfaces.finished:
            state, reason = before.state, before.reason
        elif reason != before.reason:
            log.warning("probe %s", state, extra={"probe": self.probe.name, "reason": reason})
        for attempt in on_interfaces.tried:
            if attempt not in before.tried:
                told = {"probe": self.probe.name, "mechanism": on_interfaces.mechanism, "instead_of": attempt.mechanism}
                log.info("probe takes another way", extra={**told, "reason": attempt.reason})
        self._set(
            state=state,
            reason=reason,
            mechanism=on_interfaces.mechanism,
            tried=on_interfaces.tried,
            attachments=self.held.loaded.attachments + on_interfaces.attachments,
        )
        return on_interfaces.finished

    def _loaded(self, loaded: Loaded, fds: list[int]) -> None:
        shared = len(loaded.maps) + len(loaded.programs) + len(loaded.links)
        private = shared + len(loaded.private)
        last = len(fds) - loaded.on_each_cpu
        # of those on each processor the kernel lets go at once
        attachments = [Hold(fds[private:last]), Hold(fds[last:], share=loaded.on_each_cpu)]
        self.held = Held(loaded, fds[:shared], dict(zip(loaded.private, fds[shared:private], strict=True)), attachments)
        if loaded.on_interfaces:
            places = self.held.private.get(tables.PLACES)
            placing = None if places is None else Placing(places, self.probe.rules)
            self.held.on_interfaces = OnInterfaces(loaded, fds[len(loaded.maps) :][: len(loaded.programs)], placing)
        self._overhead = Overhead(self.probe.max_cpu_percent)
        self._look_at_cost()
        self._set(
            state="starting" if self.held.on_interfaces else "running",
            reason="",
            details="",
            mechanism=loaded.mechanism,
            tried=loaded.tried,
            attachments=loaded.attachments,
            misses_unknown=loaded.misses_unknown,
        )
        for attempt in loaded.tried:
            told = {"probe": self.probe.name, "mechanism": loaded.mechanism, "instead_of": attempt.mechanism}
            log.info("probe takes another way", extra={**told, "reason": attempt.reason})
        self._attached(self)

    def _look_at_cost(self) -> None:
        """Detaches a probe that takes more of a core than it may, and tries it again later."""
        assert self.held is not None
        now = time.monotonic()
        self._look_at = now + overhead.EVERY if self.probe.max_cpu_percent else math.inf
        percent = self._overhead.exceeded(now, self.held.run_nanoseconds())
        if percent is None:
            return
        self._release()
        reason = (
            f"its programs took {percent:.3g} % of a core for {overhead.WINDOW:.0f} s, and may take"
            f" {self.probe.max_cpu_percent:g} % (max_cpu_percent)"
        )
        self._set(state="disabled", reason=reason, attachments=())
        told = {"probe": self.probe.name, "reason": reason, "again_in": f"{self._disabled_for:g}s"}
        log.error("probe disabled", extra=told)
        self._again_at = now + self._disabled_for
        self._disabled_for = min(overhead.LAST_PAUSE, 2 * self._disabled_for)
        self._changed(self)

    def _failed(self, error: ExporterError) -> None:
        words = "\n".join(getattr(error, "__notes__", []))
        details = "\n".join(filter(None, [error.details if isinstance(error, ProbeError) else "", words]))
        reason = load.reason(error, words)
        tried = error.tried if isinstance(error, NothingHolds) else ()
        self._set(state="failed", reason=reason[:2000], details=details[-MAX_DETAILS:], tried=tried)
        log.error("probe failed", extra={"probe": self.probe.name, "reason": reason, "again_in": f"{self._pause:g}s"})
        self._again_at = time.monotonic() + self._pause
        self._pause = min(LAST_PAUSE, 2 * self._pause)
        self._changed(self)

    def _set(self, **changes: object) -> None:
        self.status = dataclasses.replace(self.status, **changes)  # type: ignore[arg-type]  # by name
