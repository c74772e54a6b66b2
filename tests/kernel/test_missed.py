# SPDX-License-Identifier: Apache-2.0
"""Events for which the kernel did not run a program: told to the last one, or said to be unknown."""

import json
import os
import platform
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import yaml

from exporter.loader import headers
from tests.kernel.conftest import Workload, lacks
from tests.kernel.daemon import Daemon, by, count
from tests.kernel.test_daemon import SOON

MISSED = "ebpf_exporter_events_missed_total"
WAITING = 97  # more than a kretprobe has room for: 10, or twice the processors


def pair(folder: Path, name: str, declared: dict[str, Any], c: str) -> Path:
    """Writes a probe of a user's own. Returns its folder."""
    folder.mkdir()
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(declared))
    (folder / f"{name}.c").write_text(c)
    return folder


def test_events_that_the_kernel_did_not_show_are_counted(tmp_path: Path) -> None:
    """A program whose own work causes its event again is not run again by the kernel: each such event is missed."""
    declared = {
        "purpose": "Page faults in kernel mode; each causes another one.",
        "attach": {"on_fault": "rawtracepoint:page_fault_kernel"},
        "metrics": {"ebpf_faults_total": {"type": "counter", "help": "A test.", "labels": {"comm": "comm"}}},
    }
    c = """
int on_fault(void *ctx)
{
    struct faults_key key = {};
    u64 nothing;

    faults_add(&key, 1);
    bpf_probe_read_user(&nothing, sizeof(nothing), (void *)0x10);
    return 0;
}
"""
    with Daemon({"faults": {}}, folder=pair(tmp_path / "probes", "faults", declared, c)) as daemon:
        status = daemon.status("faults")
        if status["state"] == "failed":
            assert "brings a kernel before 6.1 down" in status["reason"]
            lacks("rawtracepoint-misses", status["reason"])
        # a read into memory that was never touched faults in the kernel
        script = "import mmap, os\nbuffer = mmap.mmap(-1, 4096 * 53)\nzero = open('/dev/zero', 'rb', buffering=0)\n"
        script += "for page in range(53): zero.readinto(memoryview(buffer)[page * 4096:page * 4096 + 16])"
        subprocess.run(["/usr/bin/python3", "-c", script], check=True)
        before, samples, after = kernels_own(), daemon.samples(), kernels_own()
    assert count(samples, "ebpf_faults_total") >= 53
    told = count(samples, MISSED, probe="faults", program="on_fault")
    assert 53 <= before <= told <= after


def kernels_own() -> int:
    """Returns how often the kernel did not run our program, as bpftool tells it."""
    out = subprocess.run(
        ["bpftool", "prog", "show", "name", "on_fault", "--json"], check=True, capture_output=True
    ).stdout
    found = json.loads(out)
    return int((found[0] if isinstance(found, list) else found)["recursion_misses"])


LOCKS_C = """
int on_call(struct pt_regs *ctx)
{
    struct lock_calls_key key = {};

    lock_calls_add(&key, 1, 0);
    return 0;
}

int on_return(struct pt_regs *ctx)
{
    struct lock_calls_key key = {};

    lock_calls_add(&key, 0, 1);
    return 0;
}
"""


def locks(folder: Path) -> Path:
    """Writes a probe that counts calls of fcntl(F_SETLK) and its kin by a kprobe, their returns by a kretprobe."""
    metric = {"type": "counter", "help": "A test.", "labels": {"comm": "comm"}}
    declared = {
        "purpose": "Calls that lock files, and their returns.",
        "attach": {"on_call": "kprobe:fcntl_setlk", "on_return": "kretprobe:fcntl_setlk"},
        "metrics": {"ebpf_lock_calls_total": metric, "ebpf_lock_returns_total": metric},
    }
    return pair(folder, "locks", declared, LOCKS_C)


def test_calls_whose_return_was_missed_are_counted(tmp_path: Path, workload: Workload) -> None:
    """97 processes wait for a lock, too many for most kretprobes: returns seen and missed add up to the calls.

    Then the kernel has room again and misses no more; and what was missed outlives the worker that told it.
    """
    with Daemon({"locks": {}}, folder=locks(tmp_path / "probes")) as daemon:
        status = daemon.status("locks")
        if status["state"] == "failed":
            assert "this kernel has no kprobes" in status["reason"]
            lacks("kprobe-misses", status["reason"])
        if status["misses_unknown"]:
            assert status["misses_unknown"] == ["on_call", "on_return"]
            lacks("kprobe-misses", "this kernel does not tell what its kprobes missed (before 6.7)")
        assert by(daemon.samples(), "program", MISSED, probe="locks") == {"on_call": 0, "on_return": 0}
        truth = workload("locker", "locks", tmp_path / "file", WAITING)["calls"]
        samples = daemon.samples()
        missed = by(samples, "program", MISSED, probe="locks")
        assert truth == WAITING + 2
        assert count(samples, "ebpf_lock_calls_total", comm="locker") == truth
        # a kretprobe does not tell whose calls it missed: of all processes
        calls, returns = (count(samples, f"ebpf_lock_{what}_total") for what in ("calls", "returns"))
        assert returns + missed["on_return"] == calls
        assert missed["on_call"] == 0
        assert missed["on_return"] < truth
        # a link has room for all of them
        assert (missed["on_return"] == 0) == (headers.version(platform.release()) >= (6, 14, 0))
        workload("again", "locks", tmp_path / "file", 3)
        os.kill(daemon.worker_pid(), signal.SIGKILL)
        samples = daemon.samples()
        assert count(samples, "ebpf_lock_returns_total", comm="again") == 5
        assert by(samples, "program", MISSED, probe="locks") == missed


def test_kill_9_lets_go_of_links_that_the_worker_has_too(tmp_path: Path) -> None:
    """The links of kprobes, with which the worker asks what they missed, do not outlive the supervisor."""
    before = links()
    with Daemon({"locks": {}}, folder=locks(tmp_path / "probes")) as daemon:
        if daemon.status("locks")["state"] == "failed":
            lacks("kprobe+kretprobe", daemon.status("locks")["reason"])
        assert daemon.process is not None
        ours = links() - before
        if not ours:
            lacks("kprobe-links", "this kernel has no links of kprobes (before 5.15)")
        worker = os.pidfd_open(daemon.worker_pid())
        daemon.process.kill()
        assert select.select([worker], [], [], SOON)[0], "the worker lives"
        os.close(worker)
        for _ in range(20):  # before 6.5 the kernel lets go of a link when it has time: bpftool's own will do
            if not ours & links():
                break
        assert not ours & links()


def links() -> set[int]:
    out = subprocess.run(["bpftool", "link", "list", "--json"], check=True, capture_output=True).stdout
    return {int(link["id"]) for link in json.loads(out)}


def test_misses_are_told_or_said_to_be_unknown() -> None:
    """Each program has a series of what it missed, unless /probes names it as one of which the kernel tells nothing."""
    probes = ("file_io", "file_opens")
    with Daemon({name: {} for name in probes}) as daemon:
        samples = daemon.samples()
        unknown = {name: set(daemon.status(name)["misses_unknown"]) for name in probes}
    for name in probes:
        programs = set(by(samples, "program", "ebpf_exporter_program_runs_total", probe=name))
        told = set(by(samples, "program", MISSED, probe=name))
        assert programs
        assert (told | unknown[name], told & unknown[name]) == (programs, set())
    if "kprobe-misses" in os.environ.get("EBPF_EXPORTER_TEST_MECHANISMS", "").split():
        assert not any(unknown.values())
