# SPDX-License-Identifier: Apache-2.0
"""One probe's life: compiled, attached and held; tried again where it failed; let go of when it is not wanted."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping

from exporter.errors import ExporterError, ProbeError
from exporter.hooks import files
from exporter.hooks.files import Identity
from exporter.loader import load
from exporter.loader.load import NothingHolds
from exporter.network.attachments import OnInterfaces
from exporter.places import Place
from exporter.probe import Probe
from exporter.rules import tables
from exporter.rules.placing import Placing
from exporter.status import MAX_DETAILS, Again, Loaded, ProbeStatus
from exporter.supervisor import overhead
from exporter.supervisor.compiling import Compilers, Given, Job
from exporter.supervisor.held import Held
from exporter.supervisor.overhead import Overhead

FIRST_PAUSE, LAST_PAUSE = 10.0, 600.0  # seconds before what failed is tried again; doubled each time
FILES_EVERY = 2.0  # seconds between two looks at the files that programs are attached to

log = logging.getLogger(__name__)


class Life:
    """A probe that is compiled here, as the config wants it at one time. ``held`` is what it has while it is up."""

    def __init__(
        self,
        probe: Probe,
        compilers: Compilers,
        attached: Callable[["Life"], None],
        changed: Callable[["Life"], None],
        before: "Life | None" = None,
    ) -> None:
        """attached is called when it is up, changed when its status is another. before is a life whose maps it is to go
        on with, as it differs in its rules alone."""
        self.probe = probe
        self._before = before
        self._goes_on_from: Held | None = None
        self.status = ProbeStatus(probe.name, probe.purpose, declaration=str(probe.declaration))
        self.held: Held | None = None
        self._compilers = compilers
        self._attached = attached
        self._changed = changed
        self._pause = FIRST_PAUSE
        self._again_at = math.inf
        self._disabled_for = overhead.FIRST_PAUSE
        self._overhead = Overhead(probe.cpu_percent)
        self._look_at = math.inf  # at what it costs
        self._files: dict[str, Identity | None] = {}  # that hooks name, as they were at the last try
        self._stale: set[str] = set()  # of those, the ones that are to be attached to again
        self._look_at_files_at = math.inf
        self._try()

    @property
    def up(self) -> bool:
        return self.held is not None

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock."""
        return min(self._again_at, self._look_at, self._look_at_files_at)

    def tick(self) -> None:
        """Tries again, or looks at what it costs and what it is attached to, if that is due."""
        if time.monotonic() >= self._look_at:
            self._look_at_cost()
        if time.monotonic() >= self._look_at_files_at:
            self._look_at_files()
        if time.monotonic() >= self._again_at:
            self._try()

    def hurry(self) -> None:
        """Tries at once what would be tried again later: its pauses begin anew."""
        self._pause, self._disabled_for = FIRST_PAUSE, overhead.FIRST_PAUSE
        if self._again_at < math.inf:
            self._again_at = time.monotonic()

    def retire(self) -> None:
        """Ends it: nothing of it runs or stays attached, and nobody is told of it any more."""
        self._compilers.cancel(self._job)
        self._again_at = self._look_at_files_at = math.inf
        self._release()

    def _release(self) -> None:
        self._look_at = math.inf
        if self.held:
            self.held.release()
            self.held = None

    def goes_on(self, before: object) -> bool:
        """Whether it counts in the maps that another life has, so that what has been counted is its own as well."""
        return (
            isinstance(before, Life)
            and before is not self
            and before.held is not None
            and (before.held is self._goes_on_from)
        )

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

    def _try(self) -> None:
        """Has it loaded and attached; or, of what is up, attached to those of its files that have changed."""
        self._again_at = math.inf
        if self.held is None:
            hooks = [hook for one in self.probe.mechanisms for program in one.programs for hook in program.hooks]
            self._follow({name: files.identity(name) for name in dict.fromkeys(map(files.named, hooks)) if name})
            self._job = Job(self.probe.name, load.start, self._given_to_start, self._loaded, self._failed)
        else:
            given = self._given_to_attach
            self._job = Job(self.probe.name, load.again, given, self._loaded_again, self._failed_again)
        self._compilers.add(self._job)

    def _given_to_start(self) -> Given:
        self._goes_on_from = self._before.held if self._before else None  # which may have changed while the job waited
        maps = self._goes_on_from.maps if self._goes_on_from else {}
        return (self.probe, maps), tuple(maps.values())

    def _given_to_attach(self) -> Given:
        assert self.held is not None
        programs = self.held.programs
        return (self.probe, self.held.loaded, programs, frozenset(self._stale)), tuple(programs.values())

    def _loaded(self, loaded: Loaded, fds: list[int]) -> None:
        before, self.held = self.held, Held.of(loaded, fds)
        self._follow({file.name: file.identity for file in loaded.files})
        self._stale.clear()
        if loaded.on_interfaces:
            places = self.held.private.get(tables.PLACES)
            placing = None if places is None else Placing(places, self.probe.rules)
            programs = list(self.held.programs.values())
            self.held.on_interfaces = OnInterfaces(loaded, programs, placing)
        self._overhead = Overhead(self.probe.cpu_percent)
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
        self._before = self._goes_on_from = None  # which has been let go of
        if before:
            before.release()

    # -- the files that it is attached to

    def _follow(self, found: dict[str, Identity | None]) -> None:
        """Takes note of files as they are."""
        self._files = found
        self._look_at_files_at = time.monotonic() + FILES_EVERY if found else math.inf

    def _look_at_files(self) -> None:
        """Files come, go, and are replaced: what runs is attached to the new ones, what has failed is tried."""
        if self._compilers.has(self._job):  # what comes of that is of files as they were
            self._look_at_files_at = time.monotonic() + FILES_EVERY
            return
        before = self._files
        self._follow({name: files.identity(name) for name in before})
        changed = {name for name in before if self._files[name] != before[name]}
        if not changed:
            return
        if self.held is None:
            if self.status.state != "disabled":  # what costs too much does so with other files as well
                self.hurry()
            return
        self._stale = {name for name in self._stale | changed if self._files[name]}
        for name in changed & self._stale:
            was, now = before[name], self._files[name]
            if was and now and was[:2] == now[:2]:  # written anew: what is where in it is not as it was
                self.held.detach(name)
        if self._stale:
            self._pause = FIRST_PAUSE
            self._try()
        else:
            self._stand("")

    def _stand(self, reason: str) -> None:
        """Of what is up, says what is lacking: files that are gone, or why others can't be attached to."""
        gone = ", ".join(name for name, identity in self._files.items() if not identity)
        words = [f"there is no {gone} any more" if gone else "", reason]
        self._set(state="degraded" if any(words) else "running", reason="; ".join(filter(None, words)))
        level = logging.WARNING if self.status.reason else logging.INFO
        told = {"probe": self.probe.name, "reason": self.status.reason}
        log.log(level, "probe %s", self.status.state, extra=told)
        self._changed(self)

    def _loaded_again(self, result: Again | Loaded, fds: list[int]) -> None:
        assert self.held is not None
        if isinstance(result, Loaded):
            self._loaded(result, fds)
            return
        self.held.attach(result.files, fds)
        self._follow({**self._files, **{file.name: file.identity for file in result.files}})
        self._stale.clear()
        for file in result.files:
            inode = file.identity.inode if file.identity else None
            told = {"probe": self.probe.name, "file": file.name, "inode": inode}
            log.info("attached to a file that is another", extra=told)
        self._pause = FIRST_PAUSE
        self._stand("")

    def _failed_again(self, error: ExporterError) -> None:
        self._again_at = time.monotonic() + self._pause
        self._pause = min(LAST_PAUSE, 2 * self._pause)
        names = ", ".join(sorted(self._stale))
        self._stand(f"{names} changed, and can't be attached to again: {error}")

    # -- what it costs

    def _look_at_cost(self) -> None:
        """Detaches a probe that takes more of a core than it may, and tries it again later."""
        assert self.held is not None
        now = time.monotonic()
        self._look_at = now + overhead.EVERY if self.probe.cpu_percent else math.inf
        percent = self._overhead.exceeded(now, self.held.run_nanoseconds())
        if percent is None:
            return
        self._compilers.cancel(self._job)  # it would attach what is let go of
        self._stale.clear()
        self._release()
        reason = (
            f"its programs took {percent:.3g} % of a core for {overhead.WINDOW:.0f} s, and may take"
            f" {self.probe.cpu_percent:g} % (max_cpu_percent)"
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
