# SPDX-License-Identifier: Apache-2.0
"""The probes that a config asks for: compiled, attached and held, and how each stands."""

import dataclasses
import logging
import math
import os
import selectors
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from exporter import symbols, worker
from exporter.bpftrace.runner import Runner
from exporter.child import Child
from exporter.errors import ExporterError, ProbeError
from exporter.holder import hold
from exporter.loader import load
from exporter.loader.load import NothingHolds
from exporter.network import XdpAttachments
from exporter.probe import Probe
from exporter.status import MAX_DETAILS, Loaded, ProbeStatus
from exporter.supervisor.compiling import Compilers
from exporter.supervisor.interfaces import Watch

log = logging.getLogger(__name__)


class Send(Protocol):
    """Sends the worker a message, with descriptors."""

    def __call__(self, message: object, fds: list[int] | None = None) -> None: ...


@dataclass
class _Held:
    """A probe that runs: what the worker is to be told and given, and what holds XDP on interfaces."""

    probe: Probe
    loaded: Loaded
    shared: list[int]  # maps, programs and links that tell what they missed
    xdp: list[XdpAttachments] = field(default_factory=list)


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

    def start(self) -> None:
        """Starts all that is wanted."""
        if any(probe.interfaces for probe in self._wanted):
            self._watch.begin()
        self._compilers.start()

    @property
    def settled(self) -> bool:
        """Whether each probe has started or failed."""
        return not self._compilers.busy and not any(runner.status.state == "starting" for runner in self._runners)

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock."""
        runners = (runner.deadline for runner in self._runners)
        return min(self._compilers.deadline, self._watch.deadline, *runners, math.inf)

    def tick(self) -> None:
        """Does what is due."""
        self._compilers.tick()
        for runner in self._runners:
            runner.tick()
        self._watch.tick()

    def give_all(self) -> None:
        """Sends the worker all that runs."""
        for held in self._held.values():
            self._give(held)
        for runner in self._runners:
            self._give_script(runner)

    def stop(self) -> None:
        """Ends all processes of probes. What is attached is held until this process ends."""
        self._compilers.kill()
        for runner in self._runners:
            runner.kill()
        for runner in self._runners:
            runner.wait()

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
        if probe.interfaces:
            programs = fds[len(loaded.maps) : len(loaded.maps) + len(loaded.programs)]
            held.xdp = [XdpAttachments(program, probe.interfaces, probe.mode) for program in programs]
        self._share_symbols(held)
        self._held[probe.name] = held
        self._set(
            probe.name,
            state="running",
            mechanism=loaded.mechanism,
            tried=loaded.tried,
            attachments=loaded.attachments,
            misses_unknown=loaded.misses_unknown,
        )
        for attempt in loaded.tried:
            log.info("probe %s: %s; using %s", probe.name, attempt.reason, loaded.mechanism)
        self._update_interfaces(held)
        self._watch.looked(lacking=self._degraded())
        self._give(held)

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

    def _degraded(self) -> bool:
        return any(status.state == "degraded" for status in self.statuses.values())

    def _look_at_interfaces(self) -> None:
        before = dict(self.statuses)
        for held in self._held.values():
            self._update_interfaces(held)
        self._watch.looked(lacking=self._degraded())
        if self.statuses != before:
            self._changed()

    def _update_interfaces(self, held: _Held) -> None:
        if not held.xdp:
            return
        reasons = [reason for attachments in held.xdp for reason in attachments.update()]
        links = [
            (program, link)
            for program, attachments in zip(held.loaded.programs, held.xdp, strict=True)
            for link in attachments.links
        ]
        modes = sorted({link.mode for _, link in links})
        state, reason = "degraded" if reasons else "running", "; ".join(reasons)
        if (state, reason) != (self.statuses[held.probe.name].state, self.statuses[held.probe.name].reason):
            log.warning("probe %s: %s", held.probe.name, f"{state}: {reason}" if reason else state)
        self._set(
            held.probe.name,
            state=state,
            reason=reason,
            mechanism=f"xdp {'+'.join(modes)}" if modes else "xdp",
            attachments=tuple((program, f"xdp:{link.interface} ({link.mode})") for program, link in links),
        )
