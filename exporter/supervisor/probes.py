# SPDX-License-Identifier: Apache-2.0
"""The probes that a config asks for, and those that run: the one become the other, each by itself."""

import dataclasses
import logging
import math
import os
import selectors
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exporter import symbols, worker
from exporter.bpftrace.runner import Runner
from exporter.network import clsact
from exporter.probe import AUTO, Probe, differ_in_rules_alone, numbered
from exporter.status import ProbeStatus
from exporter.supervisor.compiling import Compilers
from exporter.supervisor.interfaces import Watch
from exporter.supervisor.life import Life
from exporter.supervisor.naming import Naming
from exporter.supervisor.worker import Send

ATTACH_SECONDS = 0.25  # at once: TCX waits 15 ms for each program, and there may be hundreds of interfaces

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Changes:
    """What another config changes, by the names of probes."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(eq=False)
class _Slot:
    """A probe's place: what is there now, and what is to take its place as soon as it is up."""

    now: Life | Runner
    next: Life | Runner | None = None

    @property
    def lives(self) -> list[Life | Runner]:
        return [self.now, *([self.next] if self.next else [])]

    @property
    def settled(self) -> bool:
        return self.now.status.state != "starting" and (self.next is None or self.next.status.state == "failed")

    @property
    def status(self) -> ProbeStatus:
        if self.next is None or self.next.status.state != "failed":
            return self.now.status
        failed = self.next.status
        reason = f"it failed as the config has it now, and goes on as it was before: {failed.reason}"
        return dataclasses.replace(
            self.now.status, state="degraded", reason=reason, details=failed.details, tried=failed.tried
        )


class Probes:
    """All probes, through their lives."""

    def __init__(self, selector: selectors.BaseSelector, send: Send, changed: Callable[[], None]) -> None:
        """changed is called when a status is another; descriptors of what runs are sent to the worker by themselves."""
        self._selector = selector
        self._send = send
        self._changed = changed
        self._slots: dict[str, _Slot] = {}
        self._compilers = Compilers(selector)
        self._watch = Watch(selector, self._look_at_interfaces)
        self._naming = Naming(selector, send)
        # on a host where nothing is left of those that were killed before
        for interface in clsact.sweep():
            log.info("took away filters that an exporter had left when it was killed", extra={"interface": interface})

    @property
    def statuses(self) -> dict[str, ProbeStatus]:
        """How each probe stands, by name, in the config's order."""
        return {name: slot.status for name, slot in self._slots.items()}

    @property
    def settled(self) -> bool:
        """Whether each probe is as the config wants it, or has failed."""
        return all(slot.settled for slot in self._slots.values())

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock."""
        lives = (life.deadline for life in self._lives())
        return min(self._compilers.deadline, self._watch.deadline, self._naming.deadline, *lives, math.inf)

    def tick(self) -> None:
        """Does what is due."""
        self._compilers.tick()
        for life in list(self._lives()):
            life.tick()
        if self._naming.tick():
            self._look_at_interfaces()
        self._watch.tick()

    def apply(self, wanted: tuple[Probe, ...]) -> Changes:
        """Makes these probes run, and no others. What is the same goes on; what is not takes the place of what was as
        soon as it is up. What has failed and is the same is tried again."""
        before = self._slots
        self._slots = {probe.name: before.get(probe.name) or _Slot(self._begin(probe)) for probe in wanted}
        for name in before.keys() - self._slots.keys():
            for life in before[name].lives:
                life.retire()
            self._send(worker.Retire(name))
        if any(probe.interfaces for probe in wanted):
            self._watch.begin(routes=any(AUTO in probe.interfaces for probe in wanted))
        changed = [probe.name for probe in wanted if probe.name in before and self._want(before[probe.name], probe)]
        self._changed()
        return Changes(
            added=tuple(name for name in self._slots if name not in before),
            changed=tuple(changed),
            removed=tuple(name for name in before if name not in self._slots),
            kept=tuple(name for name in self._slots if name in before and name not in changed),
        )

    def give_all(self) -> None:
        """Sends the worker all that runs."""
        self._naming.give_all()
        for slot in self._slots.values():
            self._give(slot.now)

    def stop(self) -> None:
        """Ends all processes of probes, and detaches from interfaces. All else is held until this process ends."""
        self._compilers.kill()
        runners = [life for life in self._lives() if isinstance(life, Runner)]
        for runner in runners:
            runner.kill()
        for runner in runners:
            runner.wait()
        for life in self._lives():
            if isinstance(life, Life):
                life.leave_interfaces()

    # -- what a config wants

    def _lives(self) -> Iterator[Life | Runner]:
        return (life for slot in self._slots.values() for life in slot.lives)

    def _begin(self, probe: Probe, before: Life | Runner | None = None) -> Life | Runner:
        if probe.script is not None:
            return Runner(probe, self._selector, self._script_changed)
        changed = self._life_changed
        if isinstance(before, Life) and differ_in_rules_alone(before.probe, after := _after(before.probe, probe)):
            return Life(after, self._compilers, self._attached, changed, before)
        return Life(probe, self._compilers, self._attached, changed)

    def _life_changed(self, _: Life) -> None:
        self._changed()

    def _want(self, slot: _Slot, probe: Probe) -> bool:
        """Wants a probe in a slot. Returns whether it is another than was wanted there before."""
        last = slot.lives[-1]
        if _after(last.probe, probe) == last.probe:
            last.hurry()
            return False
        if slot.next:
            slot.next.retire()
            slot.next = None
        if _after(slot.now.probe, probe) != slot.now.probe:
            begun = self._begin(probe, slot.now)
            if slot.now.up:
                slot.next = begun
            else:
                self._replace(slot, begun)
        return True

    def _replace(self, slot: _Slot, life: Life | Runner) -> None:
        """Puts in a slot what is not up yet: the worker has nothing of it until it is."""
        slot.now.retire()
        self._send(worker.Retire(slot.now.probe.name))
        slot.now, slot.next = life, None

    # -- what comes up

    def _attached(self, life: Life) -> None:
        self._take_place(life)
        self._share_symbols(life)
        self._look_at_interfaces()
        self._changed()

    def _script_changed(self, runner: Runner) -> None:
        if runner.up:
            self._take_place(runner)
        self._changed()

    def _take_place(self, life: Life | Runner) -> None:
        """What is up is read, in place of what was there before it."""
        slot = self._slots[life.probe.name]
        self._make_way(slot, life.probe)
        before, slot.now, slot.next = slot.now, life, None
        if isinstance(before, Life) and isinstance(life, Life) and before is not life:
            life.take_over(before)
        self._give(life, goes_on=isinstance(life, Life) and life.goes_on(before))
        if before is not life:
            before.retire()
            log.info("probe runs as the config has it now", extra={"probe": life.probe.name})

    def _make_way(self, slot: _Slot, probe: Probe) -> None:
        """A metric may have gone from one probe to another: it can't be of both while the one waits to change."""
        names = _metrics(probe)
        for other in self._slots.values():
            if other is not slot and other.next and not names.isdisjoint(_metrics(other.now.probe)):
                self._replace(other, other.next)

    def _give(self, life: Life | Runner, goes_on: bool = False) -> None:
        if isinstance(life, Runner):
            if life.shared:
                self._send(worker.AdoptScript(life.probe, life.marker), life.shared)
        elif life.held:
            self._naming.need(life.held.loaded.probe)
            self._send(worker.Adopt(life.held.loaded, goes_on), life.held.shared)

    def _share_symbols(self, newest: Life) -> None:
        """Keeps one table of the kernel's symbols, the newest, for all probes that have one: it has some megabytes."""
        tables = [
            life.held.shared[life.held.loaded.maps.index(symbols.TABLE)]
            for life in (newest, *self._lives())
            if isinstance(life, Life) and life.held and symbols.TABLE in life.held.loaded.maps
        ]
        for older in tables[1:]:
            if older != tables[0]:
                os.dup2(tables[0], older, inheritable=False)

    # -- on interfaces

    def _look_at_interfaces(self) -> None:
        before = self.statuses
        lives = [slot.now for slot in self._slots.values() if isinstance(slot.now, Life)]
        finished = [life.update_interfaces(self._naming.places(), ATTACH_SECONDS) for life in lives]
        lacking = any(life.status.state == "degraded" for life in lives)
        self._watch.looked(lacking=lacking, unfinished=not all(finished))
        if self.statuses != before:
            self._changed()


def _after(before: Probe, probe: Probe) -> Probe:
    """Returns a probe with the numbers that the names of rules have had before it; as it is, if there are too many."""
    try:
        return numbered(probe, before.rule_names)
    except ValueError:
        return probe


def _metrics(probe: Probe) -> set[str]:
    return {metric.name for metric in probe.metrics if metric.chosen}
