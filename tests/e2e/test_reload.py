# SPDX-License-Identifier: Apache-2.0
"""Reloads: what has changed is another, all else goes on; what is bad changes nothing."""

import contextlib
import http.client
import itertools
import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.support import attached, decreased
from tests.kernel.conftest import Workload
from tests.kernel.daemon import COMMAND, Daemon, Samples, count, free_port, meanwhile
from tests.kernel.test_daemon import COUNT_NOTHING, pair

OPENS, EXECS = "ebpf_file_opens_total", "ebpf_process_execs_total"
GOOD = "ebpf_exporter_config_last_reload_successful"
GOOD_AT = "ebpf_exporter_config_last_reload_success_timestamp_seconds"
SIGNALS = {
    "attach": "tracepoint:signal:signal_generate",
    "where": "args.sig == 10",  # SIGUSR1
    "metrics": {"ebpf_signals_total": {"type": "counter", "help": "Signals.", "labels": {"comm": "comm"}}},
}


# adds once for each program that is executed
ADDS = "int on_exec(void *args)\n{\n    struct many_key key = {};\n    many_add(&key, 1);\n    return 0;\n}\n"


def signals(**changes: Any) -> dict[str, Any]:
    return {**SIGNALS, **changes}


def send_signals(times: int) -> None:
    """Sends this process SIGUSR1, which it ignores."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def executes(times: int) -> None:
    for _ in range(times):
        subprocess.run(["/bin/true"], check=True)


def reloaded(daemon: Daemon, *lines: str) -> None:
    """Reloads a config that is good. lines is what is told of it."""
    done = daemon.reload()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"reloaded {daemon.config}: {line}\n" for line in lines)


def test_what_did_not_change_goes_on_under_load(tmp_path: Path, workload: Workload) -> None:
    """While other probes come, go and change, a probe that is the same keeps its attachments, no counter of it ever
    goes back, and at the end it has counted every event."""
    (tmp_path / "file").touch()
    done = {"files": 0, "reloads": 0}
    pages: list[Samples] = []

    def load() -> None:
        workload("opener-l", "opens", tmp_path, 997, 0)
        done["files"] += 997

    with Daemon({"file_opens": {}, "process_execs": {}}) as daemon:
        before = attached(daemon)
        with meanwhile(load), meanwhile(lambda: pages.append(daemon.samples())):
            configs: list[dict[str, Any]] = [
                {"file_opens": {}, "process_execs": {"labels": ["comm"]}},
                {"file_opens": {}},
                {"file_opens": {}, "signals": SIGNALS},
                {"file_opens": {}, "signals": signals(where="args.sig == 12"), "process_execs": {}},
            ]
            for probes in configs:
                daemon.configure(probes)
                assert daemon.reload().returncode == 0
        after = attached(daemon)
        pages.append(daemon.samples())
    opens = [page for page in pages if count(page, OPENS)]
    assert count(pages[-1], OPENS, comm="opener-l") == done["files"] > 0
    mine = [{key: value for key, value in page.items() if key[0] == OPENS} for page in opens]
    assert [decreased(one, other) for one, other in itertools.pairwise(mine)] == [{}] * (len(mine) - 1)
    assert after["leave"] == before["leave"]
    assert after["on_exec"].isdisjoint(before["on_exec"])


def test_sighup_reloads_and_systemd_is_told() -> None:
    """SIGHUP reads the config again; systemd is told when that begins, with the time, and when it has ended."""
    with Daemon({"process_execs": {}}) as daemon:
        assert daemon.process is not None
        daemon.configure({"process_execs": {}, "signals": SIGNALS})
        began = time.monotonic_ns() // 1000
        daemon.process.send_signal(signal.SIGHUP)
        told = daemon.wait_for_notification("READY=1")
        words = [line.split("=")[0] for one in told for line in one.splitlines()]
        # between, that a compile may take its time
        assert [word for word in words if word != "EXTEND_TIMEOUT_USEC"] == ["RELOADING", "MONOTONIC_USEC", "READY"]
        assert began <= int(told[0].rpartition("=")[2]) <= time.monotonic_ns() // 1000
        send_signals(13)
        assert count(daemon.samples(), "ebpf_signals_total") == 13
        assert f"INFO config reloaded config={daemon.config} added=signals as_before=1 reload=1\n" in daemon.log()


def test_a_bad_config_keeps_the_old_one() -> None:
    """Every problem is in the log and told to who asked; the page says that it failed; the probes and their counters
    go on. The next good one is taken, and the page has when."""
    with Daemon({"process_execs": {}}) as daemon:
        executes(7)
        first = daemon.samples()
        assert (first[GOOD, frozenset()], count(first, EXECS, comm="true")) == (1, 7)
        for number, (text, problems) in enumerate(
            (
                (
                    "probes: {no_such: {}, process_execs: {labels: [commm]}}\nlisten: [nonsense]\n",
                    ["1: probes.no_such: unknown probe", "1: probes.process_execs.labels.0: 'commm'", "2: listen.0: "],
                ),
                ("probes: [", ["1: not YAML"]),
            ),
            1,
        ):
            daemon.config.write_text(text)
            done = daemon.reload()
            assert (done.returncode, done.stdout) == (1, "")
            told = done.stderr.splitlines()
            assert told[-1] == "nothing was changed: what was read before goes on"
            assert len(told) == len(problems) + 1
            for line, problem in zip(told, problems, strict=False):
                assert line.startswith(f"{daemon.config}:{problem}")
                place, reason = line.split(": ", 1)
                logged = f"ERROR config not reloaded at={place} reason={json.dumps(reason)} reload={number}\n"
                assert logged in daemon.log()
            executes(3)
            samples = daemon.samples()
            assert (samples[GOOD, frozenset()], samples[GOOD_AT, frozenset()]) == (0, first[GOOD_AT, frozenset()])
        assert count(samples, EXECS, comm="true") == 13
        daemon.configure({"process_execs": {}})
        reloaded(daemon, "nothing has changed")
        last = daemon.samples()
        assert last[GOOD, frozenset()] == 1
        assert first[GOOD_AT, frozenset()] < last[GOOD_AT, frozenset()] <= time.time()
        assert count(last, EXECS, comm="true") == 13


def test_a_listen_address_that_is_taken_keeps_the_old_config() -> None:
    """What can't be listened on is told like any other fault of the config, and no part of it is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken, Daemon({"process_execs": {}}) as daemon:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon.configure({"process_execs": {}, "signals": SIGNALS}, listen=[f"127.0.0.1:{daemon.port}", address])
        done = daemon.reload()
        assert done.returncode == 1
        reason = f"cannot listen on {address}: Address already in use; is another exporter running?"
        assert done.stderr.splitlines()[0] == f"{daemon.config}: {reason}"
        assert count(daemon.samples(), "ebpf_exporter_probe_up") == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {"labels": ["comm"]}, id="labels"),
        pytest.param({}, {"max_series": 7}, id="budget"),
        pytest.param({"metrics": [EXECS]}, {"metrics": [EXECS], "max_series": 1000}, id="nothing"),
    ],
)
def test_new_settings_restart_one_probe(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Of the probe whose labels or budget are others the counters begin anew; the other's go on. Without a change, all
    do."""
    with Daemon({"process_execs": before, "signals": SIGNALS}) as daemon:
        executes(5)
        send_signals(3)
        samples = daemon.samples()
        assert (count(samples, EXECS, comm="true"), count(samples, "ebpf_signals_total")) == (5, 3)
        daemon.configure({"process_execs": after, "signals": SIGNALS})
        same = "metrics" in after
        reloaded(daemon, "nothing has changed" if same else "changed process_execs; as before 1")
        executes(4)
        send_signals(2)
        samples = daemon.samples()
        assert count(samples, EXECS, comm="true") == (9 if same else 4)
        assert count(samples, "ebpf_signals_total") == 5
        if "labels" in after:
            assert {tuple(dict(labels)) for name, labels in samples if name == EXECS} == {("comm",)}


def test_new_options_restart_one_probe(tmp_path: Path) -> None:
    """An option is the C's: its probe is compiled anew."""
    folder = tmp_path / "probes"
    pair(folder, "many", ADDS)
    declared = yaml.safe_load((folder / "many.yaml").read_text())
    (folder / "many.yaml").write_text(yaml.safe_dump({**declared, "options": {"times": {"default": 2, "help": "T."}}}))
    (folder / "many.c").write_text(ADDS.replace("1)", "OPTION_times)"))
    with Daemon({"many": {}}, folder) as daemon:
        executes(3)
        assert count(daemon.samples(), "ebpf_many_total", comm="true") == 6
        daemon.configure({"many": {"options": {"times": 5}}})
        reloaded(daemon, "changed many")
        executes(3)
        assert count(daemon.samples(), "ebpf_many_total", comm="true") == 15


def test_a_removed_probe_is_detached_and_its_series_go() -> None:
    """Nothing of it stays: no program in the kernel, no line on the page."""
    with Daemon({"process_execs": {}, "signals": SIGNALS}) as daemon:
        executes(1)
        send_signals(1)
        assert set(attached(daemon)) == {"on_exec", "on_event"}
        assert "signals" in daemon.page()
        daemon.configure({"process_execs": {}})
        reloaded(daemon, "removed signals; as before 1")
        daemon.wait_for(lambda: set(attached(daemon)) == {"on_exec"}, "the end of what attached it")
        assert "signals" not in daemon.page()
        assert "signals" not in daemon.get("/probes")[1].decode()


def test_what_is_in_a_probes_files_is_a_change(tmp_path: Path) -> None:
    """The C of a probe, or its YAML, is another while the config is the same: that probe is reloaded."""
    folder = tmp_path / "probes"
    pair(folder, "many", ADDS)
    with Daemon({"many": {}, "process_execs": {}}, folder) as daemon:
        executes(3)
        (folder / "many.c").write_text(ADDS.replace("1)", "10)"))
        reloaded(daemon, "changed many; as before 1")
        executes(2)
        samples = daemon.samples()
        assert (count(samples, "ebpf_many_total", comm="true"), count(samples, EXECS, comm="true")) == (20, 5)
        text = (folder / "many.yaml").read_text()
        (folder / "many.yaml").write_text(text.replace("A test.", "Another."))
        reloaded(daemon, "changed many; as before 1")
        assert "# HELP ebpf_many_total Another.\n" in daemon.page()
        reloaded(daemon, "nothing has changed")


def test_a_probe_that_fails_in_its_new_form_goes_on_in_its_old_one(tmp_path: Path) -> None:
    """It is said who fails and why; the old form counts on, until the new one is good or is no longer wanted."""
    folder = tmp_path / "probes"
    pair(folder, "many", ADDS)
    with Daemon({"many": {}}, folder) as daemon:
        executes(3)
        before = attached(daemon)
        (folder / "many.c").write_text(ADDS.replace("0;", "nonsense;"))
        done = daemon.reload()
        assert (done.returncode, done.stdout) == (0, f"reloaded {daemon.config}: changed many\n")
        words = "it failed as the config has it now, and goes on as it was before: cannot compile: "
        said = rf"warning: probe many: degraded: {words}{folder}/many.c:5:.* error: .*nonsense.*\n"
        assert re.fullmatch(said, done.stderr), done.stderr
        executes(4)
        samples = daemon.samples()
        assert count(samples, "ebpf_many_total", comm="true") == 7
        assert (samples[GOOD, frozenset()], count(samples, "ebpf_exporter_probe_up", probe="many")) == (1, 0)
        assert daemon.status("many")["state"] == "degraded"
        assert attached(daemon) == before
        (folder / "many.c").write_text(ADDS)
        reloaded(daemon, "changed many")
        executes(2)
        assert count(daemon.samples(), "ebpf_many_total", comm="true") == 9
        assert daemon.status("many")["state"] == "running"
        assert attached(daemon) == before


def test_a_probe_that_failed_and_is_mended() -> None:
    """What never ran has no old form: it is failed, and runs as soon as it is good."""
    with Daemon({"process_execs": {}, "signals": signals(attach="tracepoint:signal:no_such")}) as daemon:
        assert daemon.status("signals")["state"] == "failed"
        daemon.configure({"process_execs": {}, "signals": SIGNALS})
        reloaded(daemon, "changed signals; as before 1")
        send_signals(3)
        assert count(daemon.samples(), "ebpf_signals_total") == 3


def test_a_metric_that_goes_from_one_probe_to_another() -> None:
    """It is never on the page twice, though the probe that had it fails in its new form."""
    others = {"ebpf_others_total": {"type": "counter", "help": "Others."}}
    with Daemon({"a": signals(), "b": signals(metrics=others)}) as daemon:
        send_signals(2)
        daemon.configure({"a": signals(attach="tracepoint:signal:no_such", metrics=others), "b": signals()})
        assert daemon.reload().returncode == 0
        send_signals(3)
        samples = daemon.samples()  # fails where a series is there twice
        assert count(samples, "ebpf_signals_total") == 3
        assert [daemon.status(name)["state"] for name in ("a", "b")] == ["failed", "running"]


def test_listen_addresses_change_while_clients_come() -> None:
    """A new address answers, one that is left out refuses; on one that is kept no request fails, and the connections
    that there are go on."""
    other, third = free_port(), free_port()
    failures: list[object] = []
    answers = 0

    with Daemon({"process_execs": {}}) as daemon:

        def ask() -> None:
            nonlocal answers
            try:
                assert daemon.get("/-/healthy")[0].status == 200
                answers += 1
            except OSError as error:
                failures.append(error)

        kept = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
        with meanwhile(ask), contextlib.closing(kept):
            for ports in ([daemon.port, other], [third, daemon.port], [daemon.port]) * 3:
                daemon.configure({"process_execs": {}}, listen=[f"127.0.0.1:{port}" for port in ports])
                pages = " ".join(f"http://127.0.0.1:{port}/metrics" for port in ports)
                reloaded(daemon, f"listens on {pages}")
                for port in (other, third):
                    one = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                    with contextlib.closing(one), refused(port not in ports):
                        one.request("GET", "/-/healthy")
                        assert one.getresponse().status == 200
                kept.request("GET", "/-/healthy")
                assert kept.getresponse().read() == b"ok\n"
            # the one socket goes and the other comes: who waits at that which goes is taken in
            for host in ["", "127.0.0.1"] * 10:
                daemon.configure({"process_execs": {}}, listen=[f"{host}:{daemon.port}"])
                reloaded(daemon, f"listens on http://{host or 'localhost'}:{daemon.port}/metrics")
            kept.request("GET", "/-/healthy")
            assert kept.getresponse().read() == b"ok\n"
    assert answers > 0
    assert failures == []


def refused(so: bool) -> contextlib.AbstractContextManager[object]:
    return pytest.raises(ConnectionRefusedError) if so else contextlib.nullcontext()


def test_a_worker_that_is_started_later_has_the_config_of_now() -> None:
    """Addresses, interval and what the page says of the config are the last ones, though the worker is another."""
    with Daemon({"process_execs": {}}) as daemon:
        port = daemon.port
        daemon.port = free_port()
        daemon.configure({"process_execs": {}}, listen=[f"127.0.0.1:{daemon.port}"])
        reloaded_at_new = daemon.reload()
        assert reloaded_at_new.returncode == 0
        daemon.config.write_text("nonsense")
        assert daemon.reload().returncode == 1
        os.kill(daemon.worker_pid(), signal.SIGKILL)
        assert daemon.samples()[GOOD, frozenset()] == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_the_interval_changes() -> None:
    """The worker, which slept for a minute between reads, reads many times a second, with no scrape."""
    with Daemon({"process_execs": {}}, interval="60s") as daemon:
        daemon.configure({"process_execs": {}}, interval="50ms")
        reloaded(daemon, "reads every 0.05 s")
        status = Path(f"/proc/{daemon.worker_pid()}/status")

        def switches() -> int:
            found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.M)
            assert found
            return int(found[1])

        first = switches()
        for _ in range(600):
            if switches() >= first + 100:
                return
            time.sleep(0.1)  # nothing tells of a read that no one asked for
        raise AssertionError("the worker does not read")


def test_scripts_are_reloaded_like_probes() -> None:
    """A bpftrace script that is the same runs on, in the same process; one that is another takes the old one's place;
    one that is removed ends."""
    count_execs = "tracepoint:sched:sched_process_exec { @runs = count(); }"
    absent = "tracepoint:sched:no_such_event { @runs = count(); }"
    with Daemon({"one": {"bpftrace": count_execs}, "two": {"bpftrace": count_execs}}) as daemon:
        executes(3)
        samples = daemon.samples()
        first = children(daemon)
        assert len(first) == 2
        assert min(count(samples, f"ebpf_bpftrace_{name}_runs_total") for name in ("one", "two")) >= 3
        daemon.configure({"one": {"bpftrace": count_execs}, "two": {"bpftrace": count_execs.replace("runs", "execs")}})
        reloaded(daemon, "changed two; as before 1")
        executes(3)
        second = daemon.samples()
        assert decreased({k: v for k, v in samples.items() if "one" in k[0]}, second) == {}
        assert count(second, "ebpf_bpftrace_two_runs_total") == 0
        assert count(second, "ebpf_bpftrace_two_execs_total") >= 3
        daemon.wait_for(lambda: len(children(daemon)) == 2, "the end of the old one")
        assert len(first & children(daemon)) == 1
        daemon.configure({"one": {"bpftrace": count_execs}, "two": {"bpftrace": absent}})
        done = daemon.reload()
        assert "warning: probe two: degraded: it failed as the config has it now, and goes on" in done.stderr
        executes(3)
        assert count(daemon.samples(), "ebpf_bpftrace_two_execs_total") >= count(
            second, "ebpf_bpftrace_two_execs_total") + 3  # fmt: skip
        daemon.configure({"process_execs": {}})
        reloaded(daemon, "added process_execs; removed one, two")
        daemon.wait_for(lambda: not children(daemon), "the end of all")
        assert "bpftrace_" not in daemon.page()


def children(daemon: Daemon) -> set[int]:
    """The processes of bpftrace."""
    assert daemon.process is not None
    pids = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "bpftrace\n" and Path(f"/proc/{pid}/exe").exists():
                found.add(int(pid))
    return found


def test_many_reloads_at_once_end_with_the_last_config(tmp_path: Path) -> None:
    """However they come, what runs at the end is what the config says then, and nothing is left of all before."""
    folder = tmp_path / "probes"
    pair(folder, "many", COUNT_NOTHING)
    with Daemon({"process_execs": {}, "many": {}}, folder) as daemon:
        assert daemon.process is not None
        reloaded(daemon, "nothing has changed")
        before = numbers(daemon)
        for number in range(40):
            (folder / "many.c").write_text(f"{COUNT_NOTHING}/* {number} */\n")
            labels = [["comm"], ["user"], ["comm", "user"]][number % 3]
            daemon.configure({"process_execs": {"labels": labels}, "many": {}} if number % 2 else {"signals": SIGNALS})
            daemon.process.send_signal(signal.SIGHUP)
        daemon.configure({"process_execs": {}, "many": {}})
        assert daemon.reload().returncode == 0
        executes(3)
        samples = daemon.samples()
        assert count(samples, EXECS, comm="true", user="root") == 3
        assert {dict(labels)["probe"] for name, labels in samples if name == "ebpf_exporter_probe_up"} == {
            "process_execs", "many",
        }  # fmt: skip
        daemon.wait_for(lambda: numbers(daemon) == before, f"as many descriptors, threads and links as {before}")


def numbers(daemon: Daemon) -> tuple[int, int, int, int]:
    """Descriptors of both processes that stay, threads, and links."""
    assert daemon.process is not None
    pid, worker = daemon.process.pid, daemon.worker_pid()
    descriptors, workers = (len(list(Path(f"/proc/{one}/fd").iterdir())) for one in (pid, worker))
    threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    return descriptors, workers, threads, sum(map(len, attached(daemon).values()))


def test_reload_without_an_exporter(tmp_path: Path) -> None:
    """Who asks is told that none runs with this config; what a killed one has left behind is no exporter."""
    config = tmp_path / "config.yaml"
    reload = [str(COMMAND), "reload", "--config", str(config)]
    done = subprocess.run(reload, capture_output=True, text=True)
    message = f"ebpf-exporter: no exporter runs with {config}; --config names the config of one that does\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
    with Daemon({"process_execs": {}}) as daemon:
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        done = daemon.reload()
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("ebpf-exporter: no exporter runs with ")


def test_reload_is_for_root_alone() -> None:
    """Another user can't have the config read, and is told what to do."""
    with Daemon({"process_execs": {}}) as daemon:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(COMMAND), "reload"]
        done = subprocess.run([*command, "--config", str(daemon.config)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, "ebpf-exporter: cannot reach an exporter: run it as root\n")
        assert "reading" not in daemon.log()


def test_a_terminal_that_is_closed_ends_it(tmp_path: Path) -> None:
    """SIGHUP is no reload where it says that the terminal is gone on which the exporter was started."""
    config = tmp_path / "config.yaml"
    config.write_text(f"listen: ['127.0.0.1:{free_port()}']\nprobes: {{process_execs: {{}}}}\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(str(COMMAND), [str(COMMAND), "run", "--config", str(config)])
    said = b""
    while b"INFO serving" not in said:
        said += os.read(terminal, 4096)
    os.kill(pid, signal.SIGHUP)
    while b"config reloaded" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
