# SPDX-License-Identifier: Apache-2.0
"""What counting costs each event, beside peers that look at the same events."""

import statistics
from collections.abc import Sequence
from functools import partial

from exporter import catalog
from tests.bench.loops import Cost, cost, statistics_on
from tests.bench.measure import Aim, Bench, CannotRun, Peer, Result, processes, programs, running, table
from tests.kernel.daemon import ROOT, Daemon

PROBES = {"opens": "file_opens", "reads": "file_io", "execs": "process_execs"}
LINES = ("stdbuf", "-oL")  # libbpf-tools keep back what they write to a pipe
# bpftrace doing what our probes do
COUNT_OPENS = """
tracepoint:syscalls:sys_exit_open, tracepoint:syscalls:sys_exit_creat,
tracepoint:syscalls:sys_exit_openat, tracepoint:syscalls:sys_exit_openat2
{ @[comm, args->ret < 0 ? args->ret : 0] = count(); }
"""
SUM_READS = "tracepoint:syscalls:sys_exit_pread64 /args->ret >= 0/ { @[comm] = sum(args->ret); }"
COUNT_EXECS = "tracepoint:sched:sched_process_exec { @[uid, comm] = count(); }"
RESULT = "t:syscalls:sys_exit_openat():int:args->ret"
PEERS = {
    "opens": (
        Peer("bpftrace, counting by comm and result", ("bpftrace", "-e", COUNT_OPENS)),
        Peer("bcc's argdist, counting by result", ("argdist-bpfcc", "-C", RESULT), less=True),
        Peer("bcc's opensnoop", ("opensnoop-bpfcc",)),
        Peer("libbpf-tools' opensnoop", (*LINES, "/usr/sbin/opensnoop")),
        Peer("bpftrace's opensnoop.bt", ("opensnoop.bt",)),
    ),
    "reads": (
        Peer("bpftrace, adding up one system call by comm", ("bpftrace", "-e", SUM_READS), less=True),
        Peer("bcc's filetop", ("filetop-bpfcc", "-C")),
        Peer("libbpf-tools' filetop", (*LINES, "/usr/sbin/filetop", "-C")),
    ),
    "execs": (
        Peer("bpftrace, counting by user and comm", ("bpftrace", "-e", COUNT_EXECS)),
        Peer("bcc's execsnoop", ("execsnoop-bpfcc",)),
        Peer("libbpf-tools' execsnoop", (*LINES, "/usr/sbin/execsnoop")),
        Peer("bpftrace's execsnoop.bt", ("execsnoop.bt",)),
    ),
}


def section(bench: Bench) -> Result:
    rows: list[Sequence[str]] = []
    aims: list[Aim] = []
    with statistics_on():
        for what, probe in PROBES.items():
            alone = cost(bench, what, frozenset(programs()))
            rows.append([what, "nothing", *alone.row(alone)])
            ours = {
                name: partial(our_cost, bench, what, probe, mechanism)
                for mechanism, name in enumerate(our_names(probe))
            }
            theirs = {peer.name: partial(peers_cost, bench, what, peer) for peer in PEERS[what]}
            found: dict[str, Cost] = {}
            for name, measure in (ours | theirs).items():
                try:
                    found[name] = measure()
                    rows.append([what, name, *found[name].row(alone)])
                except CannotRun as error:
                    rows.append([what, name, f"cannot run here: {error}", "", "", ""])
            aims += _aim(what, found, set(ours))
    head = ["loop of", "with", "ns in BPF for each", "ns in its processes", "ns of the loop", "times alone"]
    return Result(table(head, rows), tuple(aims))


def our_cost(bench: Bench, what: str, probe: str, mechanism: int) -> Cost:
    """Measures a probe of ours, attached in one of its ways. Raises CannotRun."""
    before = frozenset(programs())
    with Daemon({probe: {}}, folder=bench.only(probe, mechanism)) as daemon:
        status = daemon.status(probe)
        if status["state"] == "running":
            return cost(bench, what, before, tuple(processes(daemon)))
    raise CannotRun(status["reason"])


def peers_cost(bench: Bench, what: str, peer: Peer) -> Cost:
    """Measures a peer. Raises CannotRun."""
    before = frozenset(programs())
    with running(peer, bench) as pid:
        return cost(bench, what, before, (pid,))


def our_names(probe: str) -> list[str]:
    """Returns what to call each way to attach a probe, by its hooks: `file_io` (tracepoint)"""
    declared = catalog.read(ROOT / "bpf" / f"{probe}.yaml")
    families = [declared.mechanism_name(mechanism) for mechanism in declared.mechanisms]
    return [f"`{probe}` ({name}{', second way' * (name in families[:at])})" for at, name in enumerate(families)]


def _aim(what: str, found: dict[str, Cost], ours: set[str]) -> list[Aim]:
    """The first way that holds is the one that a probe takes; peers that do less are no measure."""
    took = {name: statistics.median(cost.in_bpf) for name, cost in found.items()}
    our = next(name for name in took if name in ours)
    alike = [peer.name for peer in PEERS[what] if peer.name in took and not peer.less]
    if not alike:
        return []
    best = min(alike, key=took.__getitem__)
    return [
        Aim(
            f"{what} cost less time in BPF than with any peer that does the same",
            f"{took[our]:,.0f} ns with {our}; {took[best]:,.0f} ns with {best}",
            took[our] < took[best],
        )
    ]
