# SPDX-License-Identifier: Apache-2.0
"""``ebpf-exporter doctor``: that what counts is told from what is attached and counts nothing, and from what fails."""

import ctypes
import json
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from exporter import doctor as doctor_
from exporter.child import isolated
from exporter.supervisor import plan
from tests.kernel.daemon import COMMAND, ROOT, Daemon
from tests.kernel.wires import ipv4, link

pytestmark = pytest.mark.anywhere

SECONDS = 600  # on an emulated machine; a real one takes five

# a system call that nobody makes by chance, and one that /bin/true makes
NEVER, SURE = "tracepoint:syscalls:sys_enter_swapoff", "tracepoint:syscalls:sys_enter_execve"
EXEC, SWITCH = "tracepoint:sched:sched_process_exec", "tracepoint:sched:sched_switch"
TRUE = ["/bin/true"]


def counter(name: str, **more: Any) -> dict[str, Any]:
    return {f"ebpf_{name}_total": {"type": "counter", "help": "Events.", **more}}


def doctor(folder: Path, probes: dict[str, Any], *words: str, **settings: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    """Returns the exit code, and what is found of each probe."""
    config = folder / "config.yaml"
    config.write_text(json.dumps({"probes": probes, **settings}))
    command = [str(COMMAND), "doctor", "--config", str(config), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.stderr == ""
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)["probes"]}


def test_the_shipped_config() -> None:
    """All probes of the shipped config are judged; each that is not at the mercy of the network counts its selftest."""
    command = [str(COMMAND), "doctor", "--config", str(ROOT / "config.yaml"), "--seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = [line.split() for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert head == ["PROBE", "MECHANISM", "NS/RUN", "COUNTERS"]
    assert [row[0] for row in rows] == ["file_io", "file_opens", "shell_commands", "process_execs", "xdp"]
    assert [row[-1] for row in rows[:4]] == ["moved"] * 4
    assert all(int(row[-2].replace(",", "")) > 0 for row in rows[:4])
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_every_metric_of_the_shipped_probes(tmp_path: Path) -> None:
    """The selftests make all metrics move, those too that are left out by default."""
    metrics = ["ebpf_file_io_bytes_total", "ebpf_file_io_operations_total", "ebpf_file_io_latency_seconds"]
    probes = {"file_io": {"metrics": metrics}, "file_opens": {"labels": ["file"]}, "shell_commands": {}}
    code, found = doctor(tmp_path, probes)
    assert code == 0
    assert found["file_io"]["moved"] == metrics
    assert found["shell_commands"]["moved"] == ["ebpf_shell_commands_total"]


def test_a_hook_that_never_fires(tmp_path: Path) -> None:
    """A probe that is attached where nothing comes by, and has a selftest, is a fault; one without selftest is none."""
    tested = {"attach": NEVER, "selftest": TRUE, "metrics": counter("tested")}
    code, found = doctor(tmp_path, {"tested": tested})
    assert (code, found["tested"]["counters"], found["tested"]["runs"]) == (1, "did not move", 0)
    assert found["tested"]["reason"] == "its programs never ran, and /bin/true did"
    untested = {"attach": NEVER, "metrics": counter("untested")}
    code, found = doctor(tmp_path, {"untested": untested}, "--seconds", "0.3")
    assert (code, found["untested"]["counters"]) == (0, "did not move")


def test_a_program_that_runs_and_counts_nothing(tmp_path: Path) -> None:
    """It is told from one that the kernel never runs: the fault is in the C, or in a condition."""
    (tmp_path / "nothing.c").write_text("int on_exec(void *args)\n{\n    return 0;\n}\n")
    probes = {
        "in_c": {
            "attach": {"on_exec": SURE},
            "source": "nothing.c",
            "selftest": TRUE,
            "metrics": counter("in_c"),
        },
        "in_yaml": {"attach": SURE, "where": "pid < 0", "selftest": TRUE, "metrics": counter("in_yaml")},
        "good": {"attach": SURE, "where": "pid > 0", "selftest": TRUE, "metrics": counter("good")},
    }
    code, found = doctor(tmp_path, probes)
    assert code == 1
    assert {name: one["counters"] for name, one in found.items()} == {
        "in_c": "did not move",
        "in_yaml": "did not move",
        "good": "moved",
    }
    for name in ("in_c", "in_yaml"):
        assert found[name]["runs"] >= 1
        assert found[name]["reason"].startswith("its programs ran ")
        assert found[name]["reason"].endswith(" and counted nothing")


@pytest.mark.parametrize("late", [False, True])
def test_runs_are_those_while_it_was_watched(tmp_path: Path, late: bool) -> None:
    """What ran after it was attached and before that, and after its maps were read, did not count nothing."""
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"probes": {"p": {"attach": NEVER, "metrics": counter("p")}}}))
    assert isolated(watched, config, late) == (
        "did not move",
        0,
        "no event came, and it has no selftest that makes one",
    )


def watched(config: Path, late: bool) -> tuple[str, int | None, str]:
    """Returns what doctor finds of a probe whose event comes when nobody looks."""
    watch = doctor_._watch

    def beside(*arguments: Any) -> None:
        if late:
            watch(*arguments)
        ctypes.CDLL(None).swapoff(b"/absent")
        if not late:
            watch(*arguments)

    with mock.patch.object(doctor_, "_watch", beside):
        [found] = doctor_.examine(plan.read(config), 0.3)
    return found.counters, found.runs, found.reason


def test_a_probe_that_fails_hides_no_other(tmp_path: Path) -> None:
    """Of one that can't be compiled and one that can't be attached the reason is told; the others are judged."""
    (tmp_path / "bad.c").write_text("int on_exec(void *args)\n{\n    return nonsense;\n}\n")
    probes = {
        "bad": {"attach": {"on_exec": SURE}, "source": "bad.c", "metrics": counter("bad")},
        "absent": {"attach": "tracepoint:sched:no_such_event", "metrics": counter("absent")},
        "file_opens": {},
    }
    code, found = doctor(tmp_path, probes)
    assert code == 1
    assert {name: one["counters"] for name, one in found.items()} == {
        "bad": "failed",
        "absent": "failed",
        "file_opens": "moved",
    }
    assert f"{tmp_path}/bad.c:3:12: error: use of undeclared identifier 'nonsense'" in found["bad"]["reason"]
    assert "return nonsense;" in found["bad"]["details"]
    assert "tracepoint:sched:no_such_event" in found["absent"]["reason"]


def test_what_was_tried_before(tmp_path: Path) -> None:
    """An alternative that does not hold is told with its reason, and the next one is judged."""
    probe = {
        "attach": ["tracepoint:sched:no_such_event", SURE],
        "selftest": TRUE,
        "metrics": counter("second"),
    }
    code, found = doctor(tmp_path, {"second": probe})
    assert (code, found["second"]["counters"]) == (0, "moved")
    [tried] = found["second"]["tried"]
    assert "this kernel has no tracepoint:sched:no_such_event" in tried["reason"]
    assert [hook for _, hook in found["second"]["attachments"]] == [SURE]


def test_gauges_and_histograms_move_too(tmp_path: Path) -> None:
    """A gauge that is given the value that it had, and a histogram, count as well as a counter."""
    metrics = {
        "ebpf_gauge": {"type": "gauge", "help": "One.", "value": 1},
        "ebpf_zero": {"type": "gauge", "help": "None.", "value": 0, "labels": {"comm": "comm"}},
        "ebpf_histogram": {"type": "histogram", "help": "Pids.", "value": "pid"},
    }
    code, found = doctor(tmp_path, {"some": {"attach": SURE, "selftest": TRUE, "metrics": metrics}})
    assert (code, found["some"]["moved"]) == (0, list(metrics))


@pytest.mark.skipif(not Path("/usr/bin/bpftrace").exists(), reason="needs bpftrace")
def test_bpftrace_scripts(tmp_path: Path) -> None:
    """A script whose maps change, one whose do not, and one that bpftrace refuses."""
    probes = {
        "moving": {"bpftrace": f"{SWITCH} {{ @switches = count(); }}"},
        "still": {"bpftrace": f"{NEVER} {{ @calls = count(); }}"},
        "bad": {"bpftrace": "tracepoint:sched:no_such_event { @events = count(); }"},
        "file_opens": {},
    }
    code, found = doctor(tmp_path, probes, "--seconds", "2")
    assert code == 1
    assert {name: one["counters"] for name, one in found.items()} == {
        "moving": "moved",
        "still": "did not move",
        "bad": "failed",
        "file_opens": "moved",
    }
    assert found["moving"]["moved"] == ["ebpf_bpftrace_moving_switches_total"]
    assert "no_such_event" in found["bad"]["reason"]


def test_labels_that_need_tables(tmp_path: Path) -> None:
    """Functions and cgroups by their names are counted as by numbers."""
    metrics = counter("execs", labels={"unit": "unit", "cgroup": "cgroup", "function": "ksym(args.old_pid)"})
    code, found = doctor(tmp_path, {"execs": {"attach": EXEC, "selftest": TRUE, "metrics": metrics}})
    assert (code, found["execs"]["counters"]) == (0, "moved")


def test_a_selftest_that_goes_wrong(tmp_path: Path) -> None:
    """A command that is not here, or fails, is told with the probe that it does not move."""
    probes = {
        "absent": {"attach": NEVER, "selftest": ["/bin/absent"], "metrics": counter("absent")},
        "wrong": {"attach": NEVER, "selftest": ["/bin/ls", "/absent"], "metrics": counter("wrong")},
    }
    code, found = doctor(tmp_path, probes)
    assert code == 1
    assert "its selftest: cannot run /bin/absent: No such file or directory" in found["absent"]["reason"]
    assert "its selftest: /bin/ls ended with code 2: " in found["wrong"]["reason"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_selftest_ends_with_doctor(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """However doctor is ended, its command does not go on as root."""
    written, config = tmp_path / "pid", tmp_path / "config.yaml"
    test = ["/bin/sh", "-c", f"echo $$ >{written}; exec sleep 1000"]
    config.write_text(json.dumps({"probes": {"p": {"attach": NEVER, "selftest": test, "metrics": counter("p")}}}))
    with subprocess.Popen([str(COMMAND), "doctor", "--config", str(config)], stdout=subprocess.DEVNULL) as process:
        while not (written.exists() and written.read_text().endswith("\n")):
            assert process.poll() is None
            time.sleep(0.1)
        command = os.pidfd_open(int(written.read_text()))
        process.send_signal(number)
        assert select.select([command], [], [], 30.0)[0], "it lives"
        os.close(command)
        assert process.wait(30.0) == code


def test_beside_a_running_exporter(tmp_path: Path) -> None:
    """Both count; the interface that the one's XDP is on is busy to the other, which says so and does not touch it."""
    xdp = {"xdp": {"interfaces": ["ebpf-t8"]}}
    with link("ebpf-t8") as pair, Daemon({"file_opens": {}, **xdp}) as daemon:
        code, found = doctor(tmp_path, {"file_opens": {}, **xdp})
        pair.send([ipv4(17)] * 7)
        counted = daemon.page()
    assert (code, found["file_opens"]["counters"], found["xdp"]["counters"]) == (0, "moved", "not attached")
    assert "ebpf-t8: another XDP program is on it" in found["xdp"]["reason"]
    assert 'ebpf_xdp_packets_total{interface="ebpf-t8",action="pass",protocol="udp"} 7' in counted


def test_a_probe_without_selftest_is_waited_for(tmp_path: Path) -> None:
    """Packets that come while it waits move it, and it waits no longer."""
    ended = threading.Event()
    with link("ebpf-t9") as pair:

        def send() -> None:
            while not ended.wait(0.1):
                pair.send([ipv4(6)])

        sender = threading.Thread(target=send)
        sender.start()
        try:
            code, found = doctor(tmp_path, {"xdp": {"interfaces": ["ebpf-t9"]}}, "--seconds", str(SECONDS * 2))
        finally:
            ended.set()
            sender.join()
    assert (code, found["xdp"]["counters"]) == (0, "moved")
    assert found["xdp"]["attachments"] in ([["on_packet", f"xdp:ebpf-t9 ({mode})"]] for mode in ("native", "generic"))
