# SPDX-License-Identifier: Apache-2.0
"""The daemon as a whole: its processes and their rights, its end, bad probes, hostile names, formats."""

import gzip
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.kernel.conftest import Workload
from tests.kernel.daemon import COMMAND, ROOT, WORKERS, Daemon, by, count, free_port

OPENS, EXECS = "ebpf_file_opens_total", "ebpf_process_execs_total"
# an emulated processor knows no seconds
SOON = 60.0 if "EBPF_EXPORTER_TEST_EMULATED" in os.environ else 2.0
ALL = {"file_io": {}, "file_opens": {}, "process_execs": {}, "shell_commands": {}, "xdp": {"interfaces": ["lo"]}}

COUNT_NOTHING = "int on_exec(void *args)\n{\n    return 0;\n}\n"


def pair(folder: Path, name: str, c: str, attach: object = None, label: str = "comm") -> None:
    """Writes a probe of a user's own."""
    folder.mkdir(exist_ok=True)
    declared = {
        "purpose": "A test.",
        "attach": attach or {"on_exec": "tracepoint:sched:sched_process_exec"},
        "metrics": {f"ebpf_{name}_total": {"type": "counter", "help": "A test.", "labels": {label: "comm"}}},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(declared))
    (folder / f"{name}.c").write_text(c)


def loaded_programs() -> set[int]:
    out = subprocess.run(["bpftool", "prog", "list", "--json"], check=True, capture_output=True).stdout
    return {int(program["id"]) for program in json.loads(out)}


@pytest.mark.matrix
def test_the_worker_has_no_privileges_while_counters_move(tmp_path: Path, workload: Workload) -> None:
    """Uid not 0, no capability that reading does not take, no new privileges, a filter of system calls: and the counts
    go on."""
    (tmp_path / "file").touch()
    with Daemon({"file_opens": {}}) as daemon:
        for expected in (16, 32):
            workload("opener-w", "opens", tmp_path, 16, 0)
            assert count(daemon.samples(), OPENS, comm="opener-w") == expected
        text = Path(f"/proc/{daemon.worker_pid()}/status").read_text()
        worker = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert "0" not in worker["Uid"].split()
    assert "0" not in worker["Gid"].split()
    assert worker["Groups"].strip() == ""
    sets = {which: int(worker[which], 16) for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert sets == {"CapInh": 0, "CapPrm": WORKERS, "CapEff": WORKERS, "CapBnd": WORKERS, "CapAmb": 0}
    assert worker["NoNewPrivs"] == "1"
    assert worker["Seccomp"] == "2"  # a filter


@pytest.mark.matrix
def test_bcc_stays_out_of_the_processes_that_stay() -> None:
    """Neither the supervisor nor the worker has BCC, LLVM, the YAML parser or the schema validator in memory."""
    with Daemon({"file_opens": {}}) as daemon:
        assert daemon.process is not None
        for pid in (daemon.process.pid, daemon.worker_pid()):
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert not re.search(r"libbcc|libclang|libLLVM|_yaml|rpds|libyaml", maps)


def test_kill_9_of_the_supervisor_leaves_nothing() -> None:
    """Worker, programs and XDP are gone once the kernel has closed the supervisor's descriptors."""
    before = loaded_programs()
    with Daemon(ALL) as daemon:
        assert daemon.process is not None
        ours = loaded_programs() - before
        assert ours
        processes = [os.pidfd_open(daemon.process.pid), os.pidfd_open(daemon.worker_pid())]
        daemon.process.kill()
        deadline = time.monotonic() + SOON
        for process in processes:
            assert select.select([process], [], [], max(0.0, deadline - time.monotonic()))[0], "a process lives"
            os.close(process)
        # the kernel frees programs a grace period after their last descriptor: bpftool's own time is enough for it
        for _ in range(20):
            if not ours & loaded_programs():
                break
        assert not ours & loaded_programs()
        shown = subprocess.run(["ip", "link", "show", "lo"], check=True, capture_output=True, text=True).stdout
        assert "xdp" not in shown


@pytest.mark.matrix
def test_sigterm_ends_all_and_exits_with_0() -> None:
    """A stop is clean: no error, no process left."""
    with Daemon(ALL) as daemon:
        assert daemon.process is not None
        worker = daemon.worker_pid()
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0
        assert not Path(f"/proc/{worker}").exists()
        assert "ERROR" not in daemon.log()


@pytest.mark.anywhere
def test_a_worker_that_ends_is_started_again_and_nothing_is_lost(tmp_path: Path, workload: Workload) -> None:
    """What the kernel counted while there was no worker is on the next page."""
    (tmp_path / "file").touch()
    with Daemon({"file_opens": {}}, interval="60s") as daemon:
        first = daemon.worker_pid()
        os.kill(first, signal.SIGKILL)
        workload("opener-k", "opens", tmp_path, 16, 7)  # most likely before the next one is there
        samples = daemon.samples()
        assert daemon.worker_pid() != first
    assert count(samples, OPENS, comm="opener-k") == 23
    assert count(samples, "ebpf_exporter_worker_restarts_total") == 1


@pytest.mark.anywhere
def test_a_worker_that_does_not_listen_is_replaced(tmp_path: Path) -> None:
    """A worker that is stopped while there is more to tell it than a socket holds is ended, and another one serves."""
    folder = tmp_path / "probes"
    words = "".join(f'#warning "{"x" * 900} {number}"\n' for number in range(400))
    pair(folder, "wordy", f"{words}int on_exec(void *args)\n{{\n    return nonsense;\n}}\n")
    others: dict[str, object] = {f"bad_{number}": {} for number in range(8)}
    for name in others:
        pair(folder, name, f"{words}int on_exec(void *args)\n{{\n    return nonsense;\n}}\n")
    probes: dict[str, object] = {"wordy": {}, **others, "xdp": {"interfaces": ["ebpf-none0"]}}
    with Daemon(probes, folder=folder) as daemon:
        assert len(daemon.status("wordy")["details"]) == 64 * 1024
        first = daemon.worker_pid()
        ended = os.pidfd_open(first)
        os.kill(first, signal.SIGSTOP)
        subprocess.run(["ip", "link", "add", "ebpf-none0", "type", "veth", "peer", "name", "ebpf-none1"], check=True)
        try:
            assert select.select([ended], [], [], SOON + 10)[0]
            daemon.wait_for(lambda: daemon.status("xdp")["state"] == "running", "a worker that knows")
        finally:
            subprocess.run(["ip", "link", "del", "ebpf-none0"], check=True)
            os.close(ended)


@pytest.mark.anywhere
def test_bad_probes_fail_alone_with_file_line_and_words(tmp_path: Path, workload: Workload) -> None:
    """C that does not compile, a program that the verifier refuses, a hook that is not there: each has its reason."""
    folder = tmp_path / "probes"
    pair(folder, "bad_c", "int on_exec(void *args)\n{\n    return nonsense;\n}\n")
    pair(folder, "bad_memory", "int on_exec(void *args)\n{\n    return *(volatile int *)8;\n}\n")
    pair(folder, "bad_hook", COUNT_NOTHING, attach={"on_exec": "tracepoint:sched:no_such_event"})
    pair(folder, "bad_binary", COUNT_NOTHING, attach={"on_exec": "uprobe:/bin/no-such-binary:main"})
    pair(folder, "bad_symbol", COUNT_NOTHING, attach={"on_exec": "uprobe:/bin/bash:no_such_symbol"})
    (tmp_path / "file").touch()
    probes: dict[str, object] = {
        name: {} for name in ("bad_c", "bad_memory", "file_opens", "bad_hook", "bad_binary", "bad_symbol")
    }
    with Daemon(probes, folder=folder) as daemon:
        workload("opener-f", "opens", tmp_path, 16, 7)
        samples = daemon.samples()
        status = {name: daemon.status(name) for name in probes}
        log = daemon.log()
    assert count(samples, OPENS, comm="opener-f") == 23
    assert {name: count(samples, "ebpf_exporter_probe_up", probe=name) for name in probes} == {
        name: float(name == "file_opens") for name in probes
    }
    assert f"{folder}/bad_c.c:3:12: error: use of undeclared identifier 'nonsense'" in status["bad_c"]["reason"]
    assert "return nonsense;" in status["bad_c"]["details"]
    assert "the kernel refuses the program on_exec" in status["bad_memory"]["reason"]
    assert "invalid mem access" in status["bad_memory"]["details"]
    assert "this kernel has no tracepoint:sched:no_such_event" in status["bad_hook"]["reason"]
    assert "there is no /bin/no-such-binary here" in status["bad_binary"]["reason"]
    assert "there is no symbol no_such_symbol in /bin/bash" in status["bad_symbol"]["reason"]
    assert "Traceback" not in log


HOSTILE = {
    "newline": b"new\nline",
    "quote": b'quo"te',
    "backslash": b"back\\slash\\",
    "invalid": b"inv\xff\xfealid",
    "brace": b'a="b",c{} 1',
    "control": b"\x1b[31m\r\x01\x7f",
    "injected": b'x"} 1\nevil 1',
    "long": b"l" * 255,
}


@pytest.mark.anywhere
def test_hostile_names_leave_the_page_valid(tmp_path: Path) -> None:
    """Names with newlines, quotes, backslashes, invalid UTF-8 or 255 bytes are labels like any others."""
    environment = {**os.environb}
    with Daemon({"file_io": {"labels": ["comm", "file"]}, "process_execs": {}}) as daemon:
        for name in HOSTILE.values():
            program = os.fsencode(tmp_path) + b"/" + name
            Path(os.fsdecode(program)).write_bytes(Path("/bin/true").read_bytes())
            Path(os.fsdecode(program)).chmod(0o755)
            subprocess.run([program], check=True, env=environment)
            data = os.fsencode(tmp_path) + b"/file-" + name[:250]
            Path(os.fsdecode(data)).write_bytes(b"seven b")
            assert Path(os.fsdecode(data)).read_bytes() == b"seven b"
        samples = daemon.samples()
        page = daemon.page()
        openmetrics = daemon.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")[1].decode()
    promtool = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False)
    assert promtool.returncode == 0, promtool.stderr + promtool.stdout
    assert list(parse_openmetrics(openmetrics))  # type: ignore[no-untyped-call]
    counted = by(samples, "comm", EXECS)
    cut = {key: name[:15] for key, name in HOSTILE.items()}
    assert counted["new\nline"] == 1
    assert counted['quo"te'] == 1
    assert counted["back\\slash\\"] == 1
    assert counted["inv\\xff\\xfealid"] == 1
    assert counted[cut["brace"].decode()] == 1
    assert counted["\\x1b[31m\\x0d\\x01\\x7f"] == 1
    assert counted[cut["injected"].decode()] == 1
    assert counted["l" * 15] == 1
    files = by(samples, "file", "ebpf_file_io_bytes_total")
    assert files["file-new\nline"] == files['file-quo"te'] == files["file-inv\\xff\\xfealid"] == 14
    assert files["file-" + "l" * 58] == 14  # 63 bytes and a NUL
    assert not any(name.startswith("evil") for name, _ in samples)


@pytest.mark.anywhere
def test_the_page_in_both_formats_and_compressed() -> None:
    """Text 0.0.4 and OpenMetrics 1.0 by what is asked for; gzip where it is taken."""
    with Daemon({"file_opens": {}}) as daemon:
        text, body = daemon.get("/metrics")
        open_, open_body = daemon.get("/metrics", Accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1")
        packed, packed_body = daemon.get("/metrics", Accept_Encoding="gzip")
        plain, _ = daemon.get("/metrics", Accept_Encoding="gzip;q=0")
        other, _ = daemon.get("/favicon.ico")
        healthy, ready = daemon.get("/-/healthy")[0], daemon.get("/-/ready")[0]
        index = daemon.get("/")[1].decode()
    assert text.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE ebpf_file_opens_total counter\n" in body
    assert open_.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert b"# TYPE ebpf_file_opens counter\n" in open_body
    assert open_body.endswith(b"# EOF\n")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert b"ebpf_file_opens_total" in gzip.decompress(packed_body)
    assert plain.headers["Content-Encoding"] is None
    assert (other.status, healthy.status, ready.status) == (404, 200, 200)
    assert "<title>ebpf-exporter</title>" in index


OWN = {
    "ebpf_exporter_build_info",
    "ebpf_exporter_probe_up",
    "ebpf_exporter_probe_info",
    "ebpf_exporter_program_runs_total",
    "ebpf_exporter_program_run_seconds_total",
    "ebpf_exporter_events_overflowed_total",
    "ebpf_exporter_events_missed_total",
    "ebpf_exporter_series",
    "ebpf_exporter_series_folded_total",
    "ebpf_exporter_last_read_seconds",
    "ebpf_exporter_last_read_timestamp_seconds",
    "ebpf_exporter_config_last_reload_successful",
    "ebpf_exporter_config_last_reload_success_timestamp_seconds",
}


@pytest.mark.anywhere
def test_the_exporters_own_metrics(tmp_path: Path, workload: Workload) -> None:
    """All that are promised are there, and the kernel's statistics say as many runs as there were events."""
    (tmp_path / "file").touch()
    # XDP, as of what a tracepoint's program missed not every kernel tells
    with Daemon({"file_opens": {}, "xdp": {"interfaces": ["lo"]}}) as daemon:
        workload("opener-o", "opens", tmp_path, 16, 7)
        samples = daemon.samples()
    assert {name for name, _ in samples} >= OWN
    events = count(samples, OPENS)
    runs = count(samples, "ebpf_exporter_program_runs_total", probe="file_opens", program="leave")
    assert runs >= events >= 23
    assert count(samples, "ebpf_exporter_program_run_seconds_total", probe="file_opens") > 0


@pytest.mark.anywhere
def test_the_readmes_probe_of_ones_own() -> None:
    """The example in the README, copied from it letter by letter, counts 19 signals."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## A probe of your own") : text.index("## When something is missing")]
    (config,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    with Daemon(yaml.safe_load(config)["probes"]) as daemon:
        script = "import os, signal; open('/proc/self/comm', 'w').write('signaller')\n"
        script += "for _ in range(19): os.kill(os.getpid(), signal.SIGWINCH)"
        subprocess.run(["/usr/bin/python3", "-c", script], check=True)
        samples = daemon.samples()
    assert count(samples, "ebpf_signals_total", comm="signaller", signal=str(int(signal.SIGWINCH))) == 19


@pytest.mark.anywhere
def test_a_port_that_is_taken_is_said() -> None:
    """One line, exit 1, and nothing was loaded."""
    before = loaded_programs()
    with Daemon({"file_opens": {}}) as daemon:
        second = subprocess.run(
            [str(COMMAND), "run", "--config", str(daemon.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert second.returncode == 1
    assert second.stderr.strip() == (
        f"ebpf-exporter: cannot listen on 127.0.0.1:{daemon.port}: Address already in use; is another exporter running?"
    )
    assert loaded_programs() <= before


@pytest.mark.matrix
def test_a_missing_capability_is_named(tmp_path: Path) -> None:
    """Not root: one line that names what is missing, exit 1."""
    # a copy that everybody may read, wherever the checkout is
    for name in ("exporter", "bpf"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "deploy").mkdir()
    command = shutil.copy(COMMAND, tmp_path / "deploy")
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"listen": [f"127.0.0.1:{free_port()}"], "probes": {"xdp": {"interfaces": ["lo"]}}}))
    subprocess.run(["chmod", "-R", "a+rX", str(tmp_path)], check=True)
    for parent in tmp_path.parents:
        if str(parent) != "/":
            parent.chmod(parent.stat().st_mode | 0o011)
    run = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", str(command), "run", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 1
    assert len(run.stderr.strip().splitlines()) == 1
    assert "CAP_BPF" in run.stderr
