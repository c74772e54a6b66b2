# SPDX-License-Identifier: Apache-2.0
"""The probes that a config asks for: compiled, attached and held, and how each stands."""

import dataclasses
import logging
import math
import os
import selectors
from collections.abc import Callable
from dataclasses import dataclass

from exporter import symbols, worker
from exporter.bpftrace.runner import Runner
from exporter.child import Child
from exporter.errors import ExporterError, ProbeError
from exporter.holder import hold
from exporter.loader import load
from exporter.loader.load import NothingHolds
from exporter.network import clsact
from exporter.network.attachments import OnInterfaces
from exporter.probe import Probe
from exporter.status import MAX_DETAILS, Loaded, ProbeStatus
from exporter.supervisor.compiling import Compilers
from exporter.supervisor.interfaces import Watch
from exporter.supervisor.naming import Naming
from exporter.supervisor.worker import Send

ATTACH_SECONDS = 0.25  # at once: TCX waits 15 ms for each program, and there may be hundreds of interfaces

log = logging.getLogger(__name__)


@dataclass
class _Held:
    """A probe that runs: what the worker is to be told and given, and what is on interfaces."""

    probe: Probe
    loaded: Loaded
    shared: list[int]  # maps, programs and links that tell what they missed
    on_interfaces: OnInterfaces | None = None


class Probes:
    """All probes, through their lives."""

    def __init__(
        self,
        wanted: tuple[Probe, ...],
        selector: selectors.BaseSelector,
        send: Send,
        changed: Callable[[], None],
    ) -> None:
        """changed is called when a status is another; descriptors of what runs are sent to the worker by themselves."""
        self._wanted = wanted
        self._send = send
        self._changed = changed
        self.statuses = {
            probe.name: ProbeStatus(probe.name, probe.purpose, declaration=str(probe.declaration)) for probe in wanted
        }
        self._held: dict[str, _Held] = {}
        self._runners = [Runner(probe, selector, self._script_changed) for probe in wanted if probe.script is not None]
        self._compilers = Compilers(selector, self._compiled)
        for probe in wanted:
            if probe.script is None:
                self._compilers.add(probe)
        self._watch = Watch(selector, self._look_at_interfaces)
        self._naming = Naming(selector, send)

    def start(self) -> None:
        """Starts all that is wanted, on a host where nothing is left of those that were killed before."""
        for interface in clsact.sweep():
            log.info("took away the filters on %s that an exporter had left when it was killed", interface)
        if any(probe.interfaces for probe in self._wanted):
            self._watch.begin()
        self._compilers.start()

    @property
    def settled(self) -> bool:
        """Whether each probe has started or failed."""
        return not self._compilers.busy and all(status.state != "starting" for status in self.statuses.values())

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock."""
        runners = (runner.deadline for runner in self._runners)
        return min(self._compilers.deadline, self._watch.deadline, self._naming.deadline, *runners, math.inf)

    def tick(self) -> None:
        """Does what is due."""
        self._compilers.tick()
        for runner in self._runners:
            runner.tick()
        if self._naming.tick():
            self._look_at_interfaces()
        self._watch.tick()

    def give_all(self) -> None:
        """Sends the worker all that runs."""
        self._naming.give_all()
        for held in self._held.values():
            self._give(held)
        for runner in self._runners:
            self._give_script(runner)

    def stop(self) -> None:
        """Ends all processes of probes, and detaches from interfaces. All else is held until this process ends."""
        self._compilers.kill()
        for runner in self._runners:
            runner.kill()
        for runner in self._runners:
            runner.wait()
        for held in self._held.values():
            if held.on_interfaces:
                held.on_interfaces.release()

    # -- from compiled to attached

    def _compiled(self, probe: Probe, child: Child) -> None:
        try:
            loaded, fds, _ = child.result()
        except ExporterError as error:
            self._failed(probe, error)
        else:
            self._adopt(probe, loaded, fds)
        self._changed()

    def _failed(self, probe: Probe, error: ExporterError) -> None:
        words = "\n".join(getattr(error, "__notes__", []))
        details = "\n".join(filter(None, [error.details if isinstance(error, ProbeError) else "", words]))
        reason = load.reason(error, words)
        tried = error.tried if isinstance(error, NothingHolds) else ()
        self._set(probe.name, state="failed", reason=reason[:2000], details=details[-MAX_DETAILS:], tried=tried)
        log.error("probe %s: failed: %s", probe.name, reason)

    def _adopt(self, probe: Probe, loaded: Loaded, fds: list[int]) -> None:
        shared = len(loaded.maps) + len(loaded.programs) + len(loaded.links)
        held = _Held(probe, loaded, fds[:shared])
        last = len(fds) - loaded.on_each_cpu
        hold(fds[shared:last])
        hold(fds[last:], share=loaded.on_each_cpu)  # of these the kernel lets go at once
        if loaded.on_interfaces:
            held.on_interfaces = OnInterfaces(loaded, fds[len(loaded.maps) :][: len(loaded.programs)])
        self._share_symbols(held)
        self._naming.need(loaded.probe)
        self._held[probe.name] = held
        self._set(
            probe.name,
            state="starting" if held.on_interfaces else "running",
            mechanism=loaded.mechanism,
            tried=loaded.tried,
            attachments=loaded.attachments,
            misses_unknown=loaded.misses_unknown,
        )
        for attempt in loaded.tried:
            log.info("probe %s: %s; using %s", probe.name, attempt.reason, loaded.mechanism)
        self._give(held)
        self._look_at_interfaces()

    def _share_symbols(self, newest: _Held) -> None:
        """Keeps one table of the kernel's symbols, the newest, for all probes that have one: it has some megabytes."""
        tables = [
            held.shared[held.loaded.maps.index(symbols.TABLE)]
            for held in (newest, *self._held.values())
            if symbols.TABLE in held.loaded.maps
        ]
        for older in tables[1:]:
            os.dup2(tables[0], older, inheritable=False)

    def _script_changed(self, runner: Runner) -> None:
        self.statuses[runner.probe.name] = runner.status
        self._give_script(runner)
        self._changed()

    def _set(self, name: str, **changes: object) -> None:
        self.statuses[name] = dataclasses.replace(self.statuses[name], **changes)  # type: ignore[arg-type]  # by name

    def _give(self, held: _Held) -> None:
        self._send(worker.Adopt(held.loaded), held.shared)

    def _give_script(self, runner: Runner) -> None:
        if runner.shared:
            self._send(worker.AdoptScript(runner.probe, runner.marker), runner.shared)

    # -- on interfaces

    def _look_at_interfaces(self) -> None:
        before = dict(self.statuses)
        for held in self._held.values():
            self._update_interfaces(held)
        unfinished = any(held.on_interfaces and not held.on_interfaces.finished for held in self._held.values())
        degraded = any(status.state == "degraded" for status in self.statuses.values())
        self._watch.looked(lacking=degraded, unfinished=unfinished)
        if self.statuses != before:
            self._changed()

    def _update_interfaces(self, held: _Held) -> None:
        if not held.on_interfaces:
            return
        before = self.statuses[held.probe.name]
        reasons = held.on_interfaces.update(self._naming.places(), ATTACH_SECONDS)
        state, reason = "degraded" if reasons else "running", "; ".join(reasons)
        if not held.on_interfaces.finished:
            state, reason = before.state, before.reason
        elif reason != before.reason:
            log.warning("probe %s: %s", held.probe.name, f"{state}: {reason}" if reason else state)
        for attempt in held.on_interfaces.tried:
            if attempt not in before.tried:
                log.info("probe %s: %s: %s", held.probe.name, attempt.mechanism, attempt.reason)
        self._set(
            held.probe.name,
            state=state,
            reason=reason,
            mechanism=held.on_interfaces.mechanism,
            tried=held.on_interfaces.tried,
            attachments=held.loaded.attachments + held.on_interfaces.attachments,
        )
