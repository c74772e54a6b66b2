# SPDX-License-Identifier: Apache-2.0
"""``ebpf-exporter doctor``: attaches a config's probes here, makes the events of each happen, and tells which count.

That a probe is attached says little: the kernel may never call the function, or the C may read nothing. So what is
looked at is what ``run`` would serve: the probe's own maps, before and after.
"""

import contextlib
import dataclasses
import json
import os
import platform
import selectors
import textwrap
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from exporter import libbpf, privileges, selftest, symbols
from exporter.bpftrace import trial
from exporter.child import Child
from exporter.containers import Containers
from exporter.errors import ExporterError, ProbeError, StartError
from exporter.holder import Hold
from exporter.loader import load
from exporter.metrics import maps
from exporter.metrics.maps import Barrier, ProbeMaps
from exporter.network.attachments import OnInterfaces
from exporter.places import Place
from exporter.probe import CONTAINERS, Probe
from exporter.rules import tables
from exporter.rules.placing import Placing
from exporter.status import Attempt, Loaded
from exporter.supervisor import host
from exporter.supervisor.compiling import COMPILE_SECONDS
from exporter.supervisor.plan import Plan

MOVED, STILL, FAILED, ABSENT = "moved", "did not move", "failed", "not attached"

SELFTEST_SECONDS = 60.0  # for a command to end
SETTLE_SECONDS = 1.0  # for what the kernel does later than the command that asked for it
POLL_SECONDS = 0.1
MIN_WIDTH, MAX_WIDTH = 60, 100  # columns


@dataclass(frozen=True)
class Finding:
    """What is to be told of a probe.

    counters is one of MOVED, STILL, FAILED and ABSENT; reason says why, in a line. runs and nanoseconds are what the
    kernel counted of its programs while it was watched, None where it counts none. moved are the metrics that did.
    """

    probe: Probe
    counters: str
    reason: str = ""
    details: str = ""
    mechanism: str = ""
    tried: tuple[Attempt, ...] = ()
    attachments: tuple[tuple[str, str], ...] = ()
    runs: int | None = None
    nanoseconds: int = 0
    moved: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Nothing is wrong as far as can be known: where nobody knows what makes events happen, none is no fault."""
        return self.counters == MOVED or (self.counters != FAILED and self.probe.selftest is None)


@dataclass
class _Attached:
    """A probe that is attached, by descriptors that stay open until this process ends. held are its attachments."""

    loaded: Loaded
    maps: dict[str, int]
    programs: list[int]
    held: list[int]
    on_interfaces: OnInterfaces | None
    reasons: list[str]  # why it is not on all its interfaces
    first: tuple[int, int] = (0, 0)  # runs and nanoseconds when it began,
    last: tuple[int, int] = (0, 0)  # and before its maps were last read
    complaint: str = ""  # of its selftest
    deadline: float = 0.0
    now: ProbeMaps = field(init=False)
    before: list[bytes] = field(init=False)

    def begin(self, barrier: Barrier, seconds: float) -> None:
        """What was counted up to now does not count. Waits for movement end so many seconds from now."""
        maps.read(barrier, [ProbeMaps(self.loaded.probe, self.maps)])
        self.now = ProbeMaps(self.loaded.probe, self.maps)
        self.before = self._lines()
        self.first = self.last = self._counted()  # after the maps: what ran since then is in none that was read
        self.deadline = time.monotonic() + seconds

    def count(self) -> None:
        """Takes what the kernel has counted of its programs up to now."""
        self.last = self._counted()

    def _counted(self) -> tuple[int, int]:
        counted = [libbpf.program_statistics(fd) for fd in self.programs]
        return sum(program.runs for program in counted), sum(program.run_ns for program in counted)

    def _lines(self) -> list[bytes]:
        return [lines for table in self.now.tables for _, lines in table.render()]

    def moved(self) -> tuple[str, ...]:
        """Returns the metrics that have other lines than when this began."""
        names = [metric.name for table in self.now.tables for metric, _ in table.render()]
        changed = zip(names, self._lines(), self.before, strict=True)
        return tuple(name for name, lines, before in changed if lines != before)

    @property
    def attachments(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a program and a hook; on interfaces as it stands."""
        return self.loaded.attachments + (self.on_interfaces.attachments if self.on_interfaces else ())


def examine(wanted: Plan, seconds: float) -> list[Finding]:
    """Attaches a config's probes and watches each. Returns what was found, in the config's order.

    A probe that has no selftest is watched for so many seconds. Raises StartError where nothing can be attached at all.
    """
    privileges.require()
    host.raise_limits()
    host.mount_tracefs()
    try:
        barrier = Barrier(*Barrier.create())
    except OSError as error:
        raise StartError(libbpf.refusal(error)) from error
    try:
        libbpf.enable_statistics()  # its descriptor stays open
        statistics = True
    except OSError:
        statistics = False
    outcomes = _load(probe for probe in wanted.probes if not probe.script)
    attached = {name: one for name, one in outcomes.items() if isinstance(one, _Attached)}
    try:
        _watch(attached.values(), barrier, seconds)
        scripts = trial.watch([probe for probe in wanted.probes if probe.script], seconds)
        judged = {
            probe.name: _judge(probe, attached[probe.name], statistics)
            for probe in wanted.probes
            if probe.name in attached
        }
    finally:
        for held in attached.values():
            if held.on_interfaces:
                held.on_interfaces.release()
    Hold([fd for one in attached.values() for fd in one.held])  # so that this process ends at once
    found = []
    for probe in wanted.probes:
        if probe.script:
            found.append(_of_script(probe, scripts[probe.name]))
            continue
        one = outcomes[probe.name]
        found.append(one if isinstance(one, Finding) else judged[probe.name])
    return found


def _of_script(probe: Probe, tried: trial.Trial) -> Finding:
    if tried.status.state == "failed":
        return Finding(probe, FAILED, tried.status.reason, tried.status.details, "bpftrace")
    reason = tried.status.reason or ("" if tried.moved else _still(probe, None))
    return Finding(
        probe,
        MOVED if tried.moved else STILL,
        reason,
        tried.status.details,
        "bpftrace",
        attachments=tried.status.attachments,
        moved=tried.moved,
    )


def _load(probes: Iterable[Probe]) -> dict[str, _Attached | Finding]:
    """Compiles, loads and attaches, as many at once as there are processors, each in a process of its own."""
    waiting = list(probes)
    outcomes: dict[str, _Attached | Finding] = {}
    compiling: dict[Child[Loaded], tuple[Probe, float]] = {}
    with selectors.DefaultSelector() as selector:
        while waiting or compiling:
            while waiting and len(compiling) < len(os.sched_getaffinity(0)):
                probe = waiting.pop(0)
                child = Child(load.start, probe)
                compiling[child] = probe, time.monotonic() + COMPILE_SECONDS
                selector.register(child, selectors.EVENT_READ, child)
            first = min(deadline for _, deadline in compiling.values())
            for key, _ in selector.select(max(0.0, first - time.monotonic())):
                selector.unregister(key.fileobj)
                probe, _ = compiling.pop(key.data)
                outcomes[probe.name] = _outcome(probe, key.data)
            for child, (_, deadline) in compiling.items():
                if time.monotonic() > deadline:
                    child.kill()
    return outcomes


def _outcome(probe: Probe, child: Child[Loaded]) -> _Attached | Finding:
    try:
        loaded, fds, _ = child.result()
    except ExporterError as error:
        words = "\n".join(getattr(error, "__notes__", []))
        details = "\n".join(filter(None, [error.details if isinstance(error, ProbeError) else "", words]))
        tried = error.tried if isinstance(error, load.NothingHolds) else ()
        return Finding(probe, FAILED, load.reason(error, words), details, tried=tried)
    named = dict(zip(loaded.maps, fds, strict=False))
    programs = fds[len(named) : len(named) + len(loaded.programs)]
    held = fds[len(named) + len(programs) :]
    private = dict(zip(loaded.private, held[len(loaded.links) :], strict=False))
    if symbols.TABLE in named:
        symbols.SYMBOLS.use(named.pop(symbols.TABLE))
    placing = Placing(private[tables.PLACES], probe.rules) if tables.PLACES in private else None
    on_interfaces = OnInterfaces(loaded, programs, placing) if loaded.on_interfaces else None
    reasons = on_interfaces.update(_behind_interfaces(probe)) if on_interfaces else []
    return _Attached(loaded, named, programs, held, on_interfaces, reasons)


def _behind_interfaces(probe: Probe) -> dict[int, Place]:
    """Returns who is behind the interfaces that lead into other network namespaces, for a probe that is for them."""
    if CONTAINERS not in probe.interfaces:
        return {}
    with contextlib.closing(Containers()) as containers:
        containers.look()
        return containers.places()


def _watch(attached: Iterable[_Attached], barrier: Barrier, seconds: float) -> None:
    """Makes happen what can be made to, and reads maps until each has moved or had its time."""
    watched = [one for one in attached if one.attachments]
    for one in watched:
        if not one.loaded.probe.selftest:
            one.begin(barrier, seconds)
    for one in watched:
        if test := one.loaded.probe.selftest:
            one.begin(barrier, 0)
            one.complaint = selftest.run(test, SELFTEST_SECONDS)
            one.deadline = time.monotonic() + SETTLE_SECONDS
    while watched:
        began = time.monotonic()
        for one in watched:
            one.count()  # before the maps are read: what has run by now and counts is in them
        maps.read(barrier, [one.now for one in watched])
        watched = [one for one in watched if not one.moved() and began < one.deadline]
        if watched:
            time.sleep(POLL_SECONDS)


def _judge(probe: Probe, one: _Attached, statistics: bool) -> Finding:
    moved = one.moved() if one.attachments else ()
    if moved:
        one.count()  # what made it move may have run after the last count
    runs, nanoseconds = (last - first for first, last in zip(one.first, one.last, strict=True))
    found = Finding(
        probe,
        ABSENT,
        "; ".join(one.reasons),
        mechanism=one.on_interfaces.mechanism if one.on_interfaces else one.loaded.mechanism,
        tried=one.on_interfaces.tried if one.on_interfaces else one.loaded.tried,
        attachments=one.attachments,
        runs=runs if statistics else None,
        nanoseconds=nanoseconds,
    )
    if not one.attachments:
        absent = "interfaces" if one.on_interfaces else "hooks"
        return dataclasses.replace(found, reason=found.reason or f"none of its {absent} is here")
    if moved:
        return dataclasses.replace(found, counters=MOVED, moved=moved)
    reasons = filter(
        None, (_still(probe, found.runs), one.complaint and f"its selftest: {one.complaint}", found.reason)
    )
    return dataclasses.replace(found, counters=STILL, reason="; ".join(reasons))


def _still(probe: Probe, runs: int | None) -> str:
    """Whether the kernel did not call the programs, or they count nothing, is where to look for the fault."""
    if runs:
        return f"its programs ran {'once' if runs == 1 else f'{runs} times'} and counted nothing"
    if probe.selftest:
        return f"its programs never ran, and {probe.selftest.command[0]} did" if runs == 0 else ""
    return "no event came, and it has no selftest that makes one"


def table(findings: list[Finding], width: int) -> str:
    """Returns what was found as text for people, so many columns wide."""
    width = max(MIN_WIDTH, min(MAX_WIDTH, width))
    rows = [("PROBE", "MECHANISM", "NS/RUN", "COUNTERS")]
    rows += [(one.probe.name, one.mechanism or "-", _per_run(one), one.counters) for one in findings]
    name, mechanism, cost = (max(len(row[at]) for row in rows) for at in range(3))
    lines = [f"{row[0]:{name}}  {row[1]:{mechanism}}  {row[2]:>{cost}}  {row[3]}" for row in rows]
    text = [lines[0]]
    for line, one in zip(lines[1:], findings, strict=True):
        text.append(line)
        for words in _remarks(one):
            indent, hanging = " " * 4, " " * 6
            text += textwrap.wrap(_plain(words), width, initial_indent=indent, subsequent_indent=hanging) or [indent]
    return "\n".join(text)


def _per_run(one: Finding) -> str:
    return f"{one.nanoseconds / one.runs:,.0f}" if one.runs else "-"


def _remarks(one: Finding) -> list[str]:
    tried = [f"{attempt.mechanism}: {attempt.reason}" for attempt in one.tried]
    # the reason of what failed is made of those of all that was tried
    return tried if tried and one.counters == FAILED else [*tried, *([one.reason] if one.reason else [])]


def _plain(words: str) -> str:
    """What the kernel or a compiler said may have anything in it; a terminal obeys some of it."""
    return "".join(sign if sign.isprintable() or sign.isspace() else repr(sign)[1:-1] for sign in words)


def as_json(findings: list[Finding]) -> str:
    """Returns what was found as JSON."""
    return json.dumps({"kernel": platform.release(), "probes": list(map(_object, findings))}, indent=2)


def _object(one: Finding) -> dict[str, Any]:
    test = one.probe.selftest
    return {
        "name": one.probe.name,
        "counters": one.counters,
        "good": one.good,
        "reason": one.reason,
        "mechanism": one.mechanism,
        "tried": [dataclasses.asdict(attempt) for attempt in one.tried],
        "attachments": [list(pair) for pair in one.attachments],
        "runs": one.runs,
        "ns_per_run": round(one.nanoseconds / one.runs, 1) if one.runs else None,
        "moved": list(one.moved),
        "selftest": list(test.command) if test else None,
        "details": one.details,
    }
