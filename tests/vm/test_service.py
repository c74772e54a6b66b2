# SPDX-License-Identifier: Apache-2.0
"""The service under systemd, on a machine that is made for it: install, start, use, stop, nothing left."""

import json
import re
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def page() -> str:
    with urllib.request.urlopen("http://localhost:9435/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def shown(name: str) -> str:
    """Returns what systemd has of the service."""
    return run("systemctl", "show", "-P", name, "ebpf-exporter").strip()


def bpf_ids(kind: str) -> set[int]:
    return {int(found["id"]) for found in json.loads(run("bpftool", kind, "list", "--json"))}


def value(text: str, start: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))


def test_install_start_use_stop() -> None:
    """systemctl start makes the page appear, with counts that move; systemctl stop leaves nothing behind."""
    # systemd has programs of its own (device filters), which come and go with its units: those are not ours
    before = {kind: bpf_ids(kind) for kind in ("prog", "link")}
    run(str(ROOT / "deploy" / "install"))
    assert (Path("/etc/ebpf-exporter/config.yaml")).read_text() == (ROOT / "config.yaml").read_text()
    run("systemctl", "start", "ebpf-exporter")
    try:
        assert run("systemctl", "is-active", "ebpf-exporter").strip() == "active"
        for probe in ("file_io", "file_opens", "shell_commands", "process_execs"):
            assert f'ebpf_exporter_probe_up{{probe="{probe}"}} 1.0\n' in page(), run(
                "journalctl", "-u", "ebpf-exporter"
            )
        assert 'state="running"' in page()
        execs = value(page(), 'ebpf_process_execs_total{user="root",comm="true"}')
        for _ in range(13):
            run("true")
        assert value(page(), 'ebpf_process_execs_total{user="root",comm="true"}') == execs + 13
        main = run("systemctl", "show", "-P", "MainPID", "ebpf-exporter").strip()
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        worker = next(pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "ebpf-exp-worker\n")
        status = Path(f"/proc/{worker}/status").read_text()
        uid = run("id", "-u", "ebpf-exporter").strip()
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
        assert "CapEff:\t0000000000000000\n" in status
    finally:
        run("systemctl", "stop", "ebpf-exporter")
    assert run("systemctl", "show", "-P", "Result", "ebpf-exporter").strip() == "success"
    assert run("systemctl", "show", "-P", "TasksCurrent", "ebpf-exporter").strip() in ("[not set]", "0")
    ours = {"leave", "on_exec", "on_readline", "on_packet", "read_done", "write_done", "readv_done", "writev_done"}
    left = [found for found in json.loads(run("bpftool", "prog", "list", "--json")) if found.get("name") in ours]
    assert left == []
    assert bpf_ids("link") <= before["link"]


def test_reload() -> None:
    """systemctl reload returns when what has changed runs; of a bad config it fails, and all goes on as it was; a
    SIGHUP does the same, and systemd knows when it is over."""
    config = Path("/etc/ebpf-exporter/config.yaml")
    run(str(ROOT / "deploy" / "install"))
    whole = config.read_text()
    config.write_text("probes: {process_execs: {}}\n")
    run("systemctl", "start", "ebpf-exporter")
    try:
        main = run("systemctl", "show", "-P", "MainPID", "ebpf-exporter").strip()
        config.write_text("probes: {process_execs: {}, file_opens: {labels: [result]}}\n")
        run("systemctl", "reload", "ebpf-exporter")
        assert 'ebpf_exporter_probe_up{probe="file_opens"} 1.0\n' in page(), run("journalctl", "-u", "ebpf-exporter")
        config.write_text("probes: {no_such: {}}\n")
        with pytest.raises(subprocess.CalledProcessError):
            run("systemctl", "reload", "ebpf-exporter")
        assert run("systemctl", "is-active", "ebpf-exporter").strip() == "active"
        assert value(page(), "ebpf_exporter_config_last_reload_successful") == 0
        assert "probes.no_such: unknown probe" in run("journalctl", "-u", "ebpf-exporter")
        assert 'ebpf_exporter_probe_up{probe="file_opens"} 1.0\n' in page()
        config.write_text("probes: {process_execs: {}}\n")
        run("systemctl", "kill", "--kill-whom=all", "--signal=HUP", "ebpf-exporter")
        for _ in range(600):
            if value(page(), "ebpf_exporter_config_last_reload_successful") == 1:
                break
        assert "file_opens" not in page()
        for _ in range(600):
            if run("systemctl", "show", "-P", "ActiveState", "ebpf-exporter").strip() == "active":
                break
        assert run("systemctl", "show", "-P", "ActiveState", "ebpf-exporter").strip() == "active"
        assert run("systemctl", "show", "-P", "MainPID", "ebpf-exporter").strip() == main
    finally:
        run("systemctl", "stop", "ebpf-exporter")
        config.write_text(whole)
    assert not Path("/run/ebpf-exporter").exists()


def test_a_killed_service_is_started_again() -> None:
    """systemd starts both processes anew when the supervisor is killed, and nothing of the first ones is left."""
    config = Path("/etc/ebpf-exporter/config.yaml")
    run(str(ROOT / "deploy" / "install"))
    whole = config.read_text()
    config.write_text("probes: {process_execs: {}}\n")
    run("systemctl", "start", "ebpf-exporter")
    try:
        main = shown("MainPID")
        first = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "ebpf-exporter")
        for _ in range(600):
            if shown("NRestarts") == "1" and shown("ActiveState") == "active":
                break
            time.sleep(0.5)  # systemd tells nobody
        assert shown("ActiveState") == "active"
        assert 'ebpf_exporter_probe_up{probe="process_execs"} 1.0\n' in page()
        assert shown("MainPID") != main
        assert not any(Path(f"/proc/{pid}").exists() for pid in first)
        left = [found for found in json.loads(run("bpftool", "prog", "list", "--json")) if found["name"] == "on_exec"]
        assert len(left) == 1
    finally:
        run("systemctl", "stop", "ebpf-exporter")
        config.write_text(whole)


def test_the_readmes_way_to_the_network() -> None:
    """The README's commands, letter by letter, open the service by TLS and with a password, to all addresses."""
    folder = Path("/etc/ebpf-exporter")
    run(str(ROOT / "deploy" / "install"))
    whole = (folder / "config.yaml").read_text()
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Open it to the network") : text.index("## bpftrace scripts")]
    (commands,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    commands = commands.replace("--user prometheus ", "--user 'prometheus:correct horse' ")  # it would ask
    try:
        done = subprocess.run(
            ["sh", "-euc", commands], input="correct horse\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + run("journalctl", "-u", "ebpf-exporter")
        assert "ebpf_exporter_build_info" in done.stdout
        assert (folder / "web.key").stat().st_mode & 0o077 == 0
        assert (folder / "web.yml").stat().st_mode & 0o077 == 0
        trusting = ssl.create_default_context(cafile=str(folder / "web.crt"))
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen("https://localhost:9435/metrics", context=trusting, timeout=60)
        assert {"0.0.0.0:9435", "[::]:9435"} <= set(run("ss", "-Hltn").split())
    finally:
        run("systemctl", "stop", "ebpf-exporter")
        (folder / "config.yaml").write_text(whole)
        for name in ("web.yml", "web.key", "web.crt"):
            (folder / name).unlink(missing_ok=True)


def test_socket_activation() -> None:
    """The first scrape starts the service; while it restarts who comes waits, and nobody is refused."""
    run(str(ROOT / "deploy" / "install"))
    config = Path("/etc/ebpf-exporter/config.yaml")
    whole = config.read_text()
    config.write_text("probes: {process_execs: {}}\n")
    run("systemctl", "start", "ebpf-exporter.socket")
    over = threading.Event()
    failures: list[Exception] = []
    scrapes = 0

    def scrape() -> None:
        nonlocal scrapes
        while not over.is_set():
            try:
                with urllib.request.urlopen("http://127.0.0.1:9435/metrics", timeout=300) as answer:
                    answer.read()
                scrapes += 1
            except ConnectionResetError:  # it was being answered by the one that ended
                continue
            except urllib.error.URLError as error:
                if isinstance(error.reason, ConnectionRefusedError):
                    failures.append(error)
            except OSError:
                continue

    try:
        assert run("systemctl", "show", "-P", "ActiveState", "ebpf-exporter").strip() == "inactive"
        with urllib.request.urlopen("http://127.0.0.1:9435/metrics", timeout=300) as answer:
            assert b"ebpf_exporter_build_info" in answer.read()
        assert run("systemctl", "show", "-P", "ActiveState", "ebpf-exporter").strip() in ("activating", "active")
        thread = threading.Thread(target=scrape)
        thread.start()
        run("systemctl", "restart", "ebpf-exporter")
        before = scrapes
        while scrapes < before + 2:
            assert thread.is_alive()
            run("true")
        over.set()
        thread.join()
        assert failures == []
        assert "systemd=metrics" in run("journalctl", "-u", "ebpf-exporter")
    finally:
        over.set()
        run("systemctl", "stop", "ebpf-exporter.socket", "ebpf-exporter.service")
        config.write_text(whole)


def test_a_second_install_keeps_the_config_and_uninstall_keeps_it_too() -> None:
    """What a user wrote into the config survives an upgrade and a removal."""
    config = Path("/etc/ebpf-exporter/config.yaml")
    run(str(ROOT / "deploy" / "install"))
    config.write_text("probes: {file_opens: {}}\n")
    run(str(ROOT / "deploy" / "install"))
    assert config.read_text() == "probes: {file_opens: {}}\n"
    run(str(ROOT / "deploy" / "install"), "--uninstall")
    assert config.read_text() == "probes: {file_opens: {}}\n"
    assert not Path("/usr/local/bin/ebpf-exporter").exists()
    assert not list(Path("/etc/systemd/system").glob("ebpf-exporter*"))
