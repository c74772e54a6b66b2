# SPDX-License-Identifier: Apache-2.0
"""bpftrace scripts as probes: their numbers against a known workload, their bad ends, and what is left of them."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.kernel.daemon import ROOT, Daemon, Samples, count
from tests.kernel.test_daemon import SOON, loaded_programs

pytestmark = pytest.mark.anywhere

# the workload seeks: an event with a number of its own choosing, which most other processes have no need of
SCRIPT = """
tracepoint:syscalls:sys_enter_lseek /comm == "seeker"/
{
    @events = count();
    @steps++;
    @bytes = sum(args->offset);
    @sizes = hist(args->offset);
    @tens = lhist(args->offset, 0, 100, 10);
    @least = min(args->offset);
    @most = max(args->offset);
    @mean = avg(args->offset);
    @all = stats(args->offset);
    @last = args->offset;
    @by[comm, args->whence] = count();
    @per[args->whence] = hist(args->offset);
    @start[tid] = nsecs;
    delete(@start[tid]);
}
"""
SEEKS = {"seeks": {"bpftrace": SCRIPT, "label_names": {"by": ["comm", "whence"]}}}
BASE = "ebpf_bpftrace_seeks"
EVENTS = f"{BASE}_events_total"
VALUES = [-5, -1, 0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 99, 100, 101, 1000, 2**31 - 1]
SEEKER = """
import json, os, sys
comm = os.open("/proc/self/comm", os.O_WRONLY)
zero = os.open("/dev/zero", os.O_RDONLY)
name, values, times = os.fsencode(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
os.write(comm, name)
for _ in range(times):
    for value, whence in values:
        try:
            os.lseek(zero, value, whence)
        except OSError:
            pass
os._exit(0)
"""


def seek(values: list[int], times: int = 1, whence: int = 0, name: bytes = b"seeker") -> None:
    """A process of this name seeks to each of these places, so many times."""
    pairs = json.dumps([(value, whence) for value in values])
    subprocess.run([sys.executable, "-c", SEEKER, os.fsdecode(name), pairs, str(times)], check=True)


def buckets(samples: Samples, name: str, **labels: str) -> dict[float, float]:
    """Returns a histogram's cumulative counts by their bounds."""
    return {
        float(dict(has)["le"]): value
        for (found, has), value in samples.items()
        if found == f"{name}_bucket" and labels.items() <= dict(has).items()
    }


def truth(values: list[int], bounds: Any, times: int = 1) -> dict[float, float]:
    return {bound: times * sum(value <= bound for value in values) for bound in bounds}


def test_each_kind_of_map_shows_the_exact_numbers() -> None:
    """1,003 events: count, ++, sum, stats and every bucket of hist and lhist; min, max, avg and plain numbers too."""
    with Daemon(SEEKS) as daemon:
        seek(VALUES, 59)
        samples = daemon.samples()
        page = daemon.page()
        openmetrics = daemon.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")[1].decode()
    assert len(VALUES) * 59 == 1003
    total = 59 * sum(VALUES)
    assert count(samples, EVENTS) == count(samples, f"{BASE}_steps_total") == 1003
    assert count(samples, f"{BASE}_bytes_total") == total
    assert count(samples, f"{BASE}_all_count") == 1003
    assert count(samples, f"{BASE}_all_sum") == total
    assert count(samples, f"{BASE}_least") == -5
    assert count(samples, f"{BASE}_most") == 2**31 - 1
    assert count(samples, f"{BASE}_mean") == total // 1003
    assert count(samples, f"{BASE}_last") == VALUES[-1]
    assert count(samples, f"{BASE}_by_total", comm="seeker", whence="0") == 1003
    sizes = buckets(samples, f"{BASE}_sizes")
    assert sizes == truth(VALUES, [-1, 0, *(2**n - 1 for n in range(1, 32)), float("inf")], 59)
    tens = buckets(samples, f"{BASE}_tens")
    assert tens == truth(VALUES, [-1, *range(9, 100, 10), float("inf")], 59)
    assert buckets(samples, f"{BASE}_per", key="0") == sizes
    assert not any(name.startswith(f"{BASE}_start") for name, _ in samples)
    promtool = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False)
    assert "error" not in promtool.stderr, promtool.stderr
    assert list(parse_openmetrics(openmetrics))  # type: ignore[no-untyped-call]


def test_keys_of_two_parts_and_hostile_names() -> None:
    """A name with commas, quotes, newlines, markup or bytes that are no UTF-8 is a label like any other."""
    script = "tracepoint:syscalls:sys_enter_lseek /args->offset == 77711/ { @by[comm, args->whence] = count(); }"
    probes = {"hostile": {"bpftrace": script, "label_names": {"by": ["comm", "whence"]}}}
    names = {
        b"a,b,0": "a,b,0",
        b'quo"te\\': 'quo"te\\',
        b"new\nline": "new\nline",
        b"<script>": "<script>",
        b"inv\xff\xfealid": "inv\\xff\\xfealid",
        "né€".encode(): "né€",
        b"\x1b[31m\x01": "\\x1b[31m\\x01",
    }
    with Daemon(probes) as daemon:
        for name in names:
            seek([77711], 13, 0, name)
            seek([77711], 17, 1, name)
        samples = daemon.samples()
    expected = {(label, whence): times for label in names.values() for whence, times in (("0", 13), ("1", 17))}
    metric = "ebpf_bpftrace_hostile_by_total"
    found = {
        (dict(has)["comm"], dict(has)["whence"]): value for (name, has), value in samples.items() if name == metric
    }
    assert found == expected


def test_counters_go_on_when_bpftrace_is_killed() -> None:
    """It is started again, and what it counts then is added to what it had counted."""
    with Daemon(SEEKS) as daemon:
        seek([5], 101)
        before = daemon.samples()
        first = daemon.child_pid("bpftrace")
        os.kill(first, signal.SIGKILL)
        daemon.wait_for(lambda: daemon.status("seeks")["state"] == "failed", "the end")
        assert daemon.status("seeks")["reason"] == "bpftrace ended (SIGKILL)"
        between = daemon.samples()
        daemon.wait_for(lambda: daemon.status("seeks")["state"] == "running", "another bpftrace")
        again = daemon.samples()
        seek([5], 7)
        after = daemon.samples()
        assert daemon.child_pid("bpftrace") != first
    for page, events in ((before, 101), (between, 101), (again, 101), (after, 108)):
        assert count(page, EVENTS) == events
        assert count(page, f"{BASE}_all_count") == events
        assert count(page, f"{BASE}_bytes_total") == 5 * events
        assert buckets(page, f"{BASE}_sizes")[7] == events


def test_counters_go_on_when_the_script_clears_its_maps() -> None:
    """clear() and delete() make a map begin anew; what was read before stays counted."""
    script = """
    tracepoint:syscalls:sys_enter_lseek /args->offset == 77713/ { @events[comm] = count(); }
    tracepoint:syscalls:sys_enter_lseek /args->offset == 77717/ { clear(@events); }
    """
    with Daemon({"cleared": {"bpftrace": script}}) as daemon:
        metric, seen = "ebpf_bpftrace_cleared_events_total", []
        for times in (11, 5, 23):
            seek([77713], times)
            seen.append(count(daemon.samples(), metric, key="seeker"))
            seek([77717])
            seen.append(count(daemon.samples(), metric, key="seeker"))
        seek([77713], 31)
        seen.append(count(daemon.samples(), metric, key="seeker"))
        seek([77717])
        seek([77713], 2)  # with no read since it was cleared
        seen.append(count(daemon.samples(), metric, key="seeker"))
    assert seen == [11, 11, 16, 16, 39, 39, 70, 72]


def test_a_worker_that_ends_loses_nothing_of_a_running_script() -> None:
    """bpftrace goes on; the next worker shows what its maps hold."""
    with Daemon(SEEKS) as daemon:
        seek([5], 31)
        daemon.samples()
        os.kill(daemon.worker_pid(), signal.SIGKILL)
        seek([5], 6)
        daemon.wait_for(lambda: count(daemon.samples(), EVENTS) == 37, "all events")


def test_a_script_with_an_error_says_it_while_others_run() -> None:
    """bpftrace's own words, with the script's name and line."""
    bad = {"bpftrace": "tracepoint:no:such\n{\n  @x = count();\n}\n"}
    with Daemon({"bad": bad, **SEEKS, "file_opens": {}}) as daemon:
        seek([5], 3)
        samples = daemon.samples()
        status = daemon.status("bad")
        assert daemon.status("file_opens")["state"] == "running"
    assert count(samples, EVENTS) == 3
    assert status["state"] == "failed"
    assert status["reason"].startswith("bad.bt:1")
    assert "no:such" in status["reason"]
    assert "no:such" in status["details"]
    assert count(samples, "ebpf_exporter_probe_up", probe="bad") == 0
    assert count(samples, "ebpf_exporter_probe_up", probe="seeks") == 1


def test_without_bpftrace_the_probe_says_what_to_install() -> None:
    """All other probes run."""
    hidden = "for at in /usr/bin /usr/local/bin /usr/sbin; do [ ! -e $at/bpftrace ] || "
    hidden += 'mount --bind /dev/null $at/bpftrace; done; exec "$@"'
    with Daemon({**SEEKS, "file_opens": {}}, prefix=["unshare", "--mount", "sh", "-c", hidden, "sh"]) as daemon:
        status = daemon.status("seeks")
        assert daemon.status("file_opens")["state"] == "running"
        assert daemon.samples()
    assert status["state"] == "failed"
    assert status["reason"].endswith("install the package bpftrace")


def test_a_script_that_ends_by_itself_has_ended() -> None:
    """Its last numbers stay on the page; it is not started again."""
    script = """
    tracepoint:syscalls:sys_enter_lseek /args->offset == 77719/ { @events = count(); }
    tracepoint:syscalls:sys_enter_lseek /args->offset == 77723/ { exit(); }
    """
    with Daemon({"short": {"bpftrace": script}}, interval="60s") as daemon:
        seek([77719], 19)
        seek([77723])
        daemon.wait_for(lambda: daemon.status("short")["state"] == "ended", "the end")
        daemon.wait_for(lambda: count(daemon.samples(), "ebpf_bpftrace_short_events_total") == 19, "the last numbers")


def test_a_bpftrace_that_hangs_holds_up_nobody() -> None:
    """The last known values are served, and the probe's state says so; then it is as before."""
    with Daemon({**SEEKS, "file_opens": {}}) as daemon:
        seek([5], 3)
        assert count(daemon.samples(), EVENTS) == 3
        hung = daemon.child_pid("bpftrace")
        os.kill(hung, signal.SIGSTOP)
        try:
            seek([5], 4)
            samples = daemon.samples()
            status = daemon.status("seeks")
        finally:
            os.kill(hung, signal.SIGCONT)
        assert count(samples, EVENTS) == 3
        assert count(samples, "ebpf_exporter_probe_up", probe="file_opens") == 1
        assert (status["state"], status["reason"]) == ("degraded", "bpftrace does not answer in time: values are older")
        daemon.wait_for(lambda: daemon.status("seeks")["state"] == "running", "an answer")
        assert count(daemon.samples(), EVENTS) == 7


def test_series_beyond_the_budget_are_counted_under_other() -> None:
    """The sum over all series is the number of events."""
    script = 'tracepoint:syscalls:sys_enter_lseek /comm == "seeker"/ { @by[args->offset] = count(); }'
    with Daemon({"many": {"bpftrace": script, "max_series": 10}}) as daemon:
        seek(list(range(101)), 3)
        samples = daemon.samples()
    metric = "ebpf_bpftrace_many_by_total"
    assert count(samples, metric) == 303
    assert count(samples, metric, key="(other)") == 273
    assert sum(name == metric for name, _ in samples) == 11


def test_kill_9_of_the_supervisor_ends_bpftrace() -> None:
    """Neither the process nor a program of the script's is left."""
    with Daemon(SEEKS) as daemon:
        assert daemon.process is not None
        pid = daemon.child_pid("bpftrace")
        texts = [path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir()]
        ours = {int(found) for text in texts for found in re.findall(r"^prog_id:\s*(\d+)", text, re.MULTILINE)}
        assert len(ours) == 2  # the script's and that which prints
        assert ours <= loaded_programs()
        process = os.pidfd_open(pid)
        daemon.process.kill()
        assert select.select([process], [], [], SOON)[0], "bpftrace lives"
        os.close(process)
        deadline = time.monotonic() + SOON
        while ours & loaded_programs() and time.monotonic() < deadline:
            pass
        assert not ours & loaded_programs()


def test_sigterm_ends_bpftrace_too() -> None:
    """A stop is clean."""
    with Daemon(SEEKS) as daemon:
        assert daemon.process is not None
        pid = daemon.child_pid("bpftrace")
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0
        assert not Path(f"/proc/{pid}").exists()


def test_the_example_counts_opens(tmp_path: Path) -> None:
    """bpf/examples/opensnoop.bt as its head says to use it."""
    config = {"bpftrace": str(ROOT / "bpf/examples/opensnoop.bt"), "label_names": {"opens": ["comm", "result"]}}
    with Daemon({"opens": config}) as daemon:
        code = "import os\nos.write(os.open('/proc/self/comm', 1), b'opener')\n"
        code += f"for n in range(29):\n try: os.open({str(tmp_path / 'none')!r}, 0)\n except OSError: pass\nos._exit(0)"
        subprocess.run([sys.executable, "-c", code], check=True)
        samples = daemon.samples()
    assert count(samples, "ebpf_bpftrace_opens_opens_total", comm="opener", result="2") == 29
    assert buckets(samples, "ebpf_bpftrace_opens_latency_us")[float("inf")] >= 29
