# SPDX-License-Identifier: Apache-2.0
"""The package and its service on a machine that is made for it: install, use, upgrade, remove, nothing left."""

import json
import re
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import package
from tests.vm.package import ROOT, run

UNIT = ROOT / "deploy" / "systemd" / "ebpf-exporter.service"
CONFIG = Path("/etc/ebpf-exporter/config.yaml")
DROP_IN = Path("/etc/systemd/system/ebpf-exporter.service.d")
CACHE = Path("/var/cache/ebpf-exporter")

EVERY_KIND = """
probes:
  opens: {bpftrace: /usr/share/ebpf-exporter/bpf/examples/opensnoop.bt, label_names: {opens: [comm, result]}}
  symbols:
    attach: tracepoint:workqueue:workqueue_execute_start
    metrics:
      ebpf_work_total: {type: counter, help: Work done., labels: {function: ksym(args.function)}}
  profile:
    attach: "profile:hz:9"
    metrics:
      ebpf_profile_total: {type: counter, help: Samples., labels: {unit: unit, user: user}}
"""
GOOD = "probes: {process_execs: {}}\n"
HALF_WRITTEN = "probes:\n  process_execs: {lab"


def shown(key: str) -> str:
    """Returns what systemd knows of the service."""
    return run("systemctl", "show", "-P", key, "ebpf-exporter").strip()


def journal() -> str:
    return run("journalctl", "-u", "ebpf-exporter", "--no-pager", "-o", "cat")


def page() -> str:
    with urllib.request.urlopen("http://localhost:9435/metrics", timeout=300) as answer:
        return str(answer.read().decode())


def value(text: str, start: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))


def up(*probes: str) -> set[str]:
    """Returns which of the probes run; waits for all of them, as what was too slow to compile is tried again."""
    for _ in range(600):
        text = page()
        running = {name for name in probes if value(text, f'ebpf_exporter_probe_up{{probe="{name}"}}')}
        if running == set(probes):
            break
    return running


def bpf(kind: str) -> list[dict[str, object]]:
    return list(json.loads(run("bpftool", kind, "list", "--json")))


def process(comm: str) -> dict[str, str]:
    """Returns /proc/PID/status of a process of the service, by its name."""
    for pid in Path(f"/sys/fs/cgroup{shown('ControlGroup')}/cgroup.procs").read_text().split():
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if status["Name"] == comm:
            return status
    raise AssertionError(f"no {comm}: {journal()}")


def with_version(version: str, folder: Path) -> Path:
    """Makes the same package of a higher version."""
    tree = folder / version
    run("dpkg-deb", "-R", str(package.made()), str(tree))
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"^Version: .*", f"Version: {version}", control.read_text(), flags=re.MULTILINE))
    made = folder / f"ebpf-exporter_{version}_all.deb"
    run("dpkg-deb", "--root-owner-group", "-b", str(tree), str(made))
    return made


def files() -> set[str]:
    """Returns what is there of files, but of the package manager's, the users' and logs."""
    found = run("find", "/etc", "/opt", "/usr", "/var", "-xdev", "-print").splitlines()
    others = r"/var/(lib/(dpkg|apt|systemd/timers)|log|cache/apt|tmp)|/etc/g?(passwd|group|shadow)-?$|.*__pycache__"
    return {path for path in found if not re.match(others, path)}


@pytest.fixture(scope="module")
def before() -> Iterator[set[str]]:
    """Installs the package; gives what was there ahead of it."""
    found = files()
    package.install(package.made())
    yield found
    package.purge()
    shutil.rmtree(CONFIG.parent, ignore_errors=True)


def test_its_exposure_is_low() -> None:
    """At most 3.0 by systemd's own measure."""
    run("systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", str(UNIT))


@pytest.mark.usefixtures("before")
def test_an_installed_package_counts() -> None:
    """apt's install starts the service with the config that is shipped; its counts move, its worker has no rights."""
    assert CONFIG.read_text() == (ROOT / "config.yaml").read_text()
    assert (shown("ActiveState"), shown("UnitFileState")) == ("active", "enabled"), journal()
    probes = {"file_io", "file_opens", "shell_commands", "process_execs"}
    assert up(*probes) == probes, journal()
    execs = value(page(), 'ebpf_process_execs_total{user="root",comm="true"}')
    for _ in range(13):
        run("true")
    assert value(page(), 'ebpf_process_execs_total{user="root",comm="true"}') == execs + 13
    worker = process("ebpf-exp-worker")
    assert set(worker["Uid"].split()) == {run("id", "-u", "ebpf-exporter").strip()}
    for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(worker[which], 16) == 0, which
    assert (worker["NoNewPrivs"], worker["Seccomp"]) == ("1", "2")


@pytest.mark.usefixtures("before")
def test_all_that_the_unit_takes_away_is_not_needed() -> None:
    """Probes of every kind run in it, bpftrace's too; for names of kernel functions the unit says what they want."""
    said = re.search(r"^# (Labels .*(?:\n# .*)*)", UNIT.read_text(), re.MULTILINE)
    assert said is not None
    assert "CapabilityBoundingSet=CAP_SYSLOG" in said[0]
    CONFIG.write_text(EVERY_KIND)
    run("systemctl", "restart", "ebpf-exporter")
    assert up("opens", "profile") == {"opens", "profile"}, journal()
    assert value(page(), 'ebpf_exporter_probe_up{probe="symbols"}') == 0
    assert "it needs CAP_SYSLOG" in journal()
    DROP_IN.mkdir()
    (DROP_IN / "ksym.conf").write_text(
        "[Service]\nCapabilityBoundingSet=CAP_SYSLOG\nProtectKernelTunables=no\nProtectKernelLogs=no\n"
    )
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "ebpf-exporter")
    assert up("symbols") == {"symbols"}, journal()
    shutil.rmtree(DROP_IN)
    run("systemctl", "daemon-reload")


@pytest.mark.usefixtures("before")
def test_reload() -> None:
    """systemctl reload returns when what has changed runs; of a bad config it fails, and all goes on as it was; a
    SIGHUP does the same, and systemd knows when it is over."""
    CONFIG.write_text(GOOD)
    run("systemctl", "restart", "ebpf-exporter")
    main = shown("MainPID")
    CONFIG.write_text("probes: {process_execs: {}, file_opens: {labels: [result]}}\n")
    run("systemctl", "reload", "ebpf-exporter")
    assert up("file_opens") == {"file_opens"}, journal()
    CONFIG.write_text("probes: {no_such: {}}\n")
    assert subprocess.run(["systemctl", "reload", "ebpf-exporter"], capture_output=True).returncode != 0
    assert shown("ActiveState") == "active"
    assert value(page(), "ebpf_exporter_config_last_reload_successful") == 0
    assert "probes.no_such: unknown probe" in journal()
    assert up("file_opens") == {"file_opens"}
    CONFIG.write_text(GOOD)
    run("systemctl", "kill", "--kill-whom=all", "--signal=HUP", "ebpf-exporter")
    for _ in range(600):
        if value(page(), "ebpf_exporter_config_last_reload_successful") == 1:
            break
    assert "file_opens" not in page()
    for _ in range(600):
        if shown("ActiveState") == "active":
            break
    assert (shown("ActiveState"), shown("MainPID")) == ("active", main)


@pytest.mark.usefixtures("before")
def test_an_upgrade_keeps_the_config_and_restarts(tmp_path: Path) -> None:
    """The new version counts with the old config, a while without probes after the old."""
    CONFIG.write_text(GOOD)
    run("systemctl", "restart", "ebpf-exporter")
    old = shown("MainPID")
    package.install(with_version("99.1", tmp_path))
    assert CONFIG.read_text() == GOOD
    assert (shown("ActiveState"), up("process_execs")) == ("active", {"process_execs"}), journal()
    assert shown("MainPID") != old
    microseconds = int(shown("ActiveEnterTimestampMonotonic")) - int(shown("ActiveExitTimestampMonotonic"))
    print(f"an upgrade is at most {microseconds / 1e6:.1f} s without probes here")


@pytest.mark.usefixtures("before")
def test_an_upgrade_with_a_bad_config_keeps_the_old_daemon(tmp_path: Path) -> None:
    """What is wrong is told by apt, with what to do; the counters go on as they were."""
    CONFIG.write_text(GOOD)
    run("systemctl", "restart", "ebpf-exporter")
    old = shown("MainPID")
    CONFIG.write_text(HALF_WRITTEN)
    said = package.install(with_version("99.2", tmp_path))
    assert "ebpf-exporter: the config is not good for this version:\n/etc/ebpf-exporter/config.yaml:2: " in said
    assert "correct the config, then: systemctl restart ebpf-exporter\n" in said
    assert (shown("MainPID"), up("process_execs")) == (old, {"process_execs"})
    CONFIG.write_text(GOOD)
    run("systemctl", "restart", "ebpf-exporter")
    assert up("process_execs") == {"process_execs"}


@pytest.mark.usefixtures("before")
def test_a_killed_service_is_started_again() -> None:
    """systemd starts both processes anew when the supervisor is killed, and nothing of the first ones is left."""
    CONFIG.write_text(GOOD)
    run("systemctl", "restart", "ebpf-exporter")
    main, restarts = shown("MainPID"), int(shown("NRestarts"))
    first = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "ebpf-exporter")
    for _ in range(600):
        if int(shown("NRestarts")) == restarts + 1 and shown("ActiveState") == "active":
            break
        time.sleep(0.5)  # systemd tells nobody
    assert shown("ActiveState") == "active"
    assert up("process_execs") == {"process_execs"}
    assert shown("MainPID") != main
    assert not any(Path(f"/proc/{pid}").exists() for pid in first)
    assert len([found for found in bpf("prog") if found.get("name") == "on_exec"]) == 1


@pytest.mark.usefixtures("before")
def test_the_readmes_way_to_the_network() -> None:
    """The README's commands, letter by letter, open the service by TLS and with a password, to all addresses."""
    folder = CONFIG.parent
    CONFIG.write_text((ROOT / "config.yaml").read_text())
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Open it to the network") : text.index("## Dashboards and alerts")]
    (commands,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    commands = commands.replace("--user prometheus ", "--user 'prometheus:correct horse' ")  # it would ask
    try:
        done = subprocess.run(
            ["sh", "-euc", commands], input="correct horse\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + journal()
        assert "ebpf_exporter_build_info" in done.stdout
        assert (folder / "web.key").stat().st_mode & 0o077 == 0
        assert (folder / "web.yml").stat().st_mode & 0o077 == 0
        trusting = ssl.create_default_context(cafile=str(folder / "web.crt"))
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen("https://localhost:9435/metrics", context=trusting, timeout=60)
        assert {"0.0.0.0:9435", "[::]:9435"} <= set(run("ss", "-Hltn").split())
    finally:
        CONFIG.write_text(GOOD)
        for name in ("web.yml", "web.key", "web.crt"):
            (folder / name).unlink(missing_ok=True)


@pytest.mark.usefixtures("before")
def test_socket_activation_of_the_service(tmp_path: Path) -> None:
    """The first scrape starts the service; while it is upgraded who comes waits, and nobody is refused."""
    CONFIG.write_text(GOOD)
    run("systemctl", "stop", "ebpf-exporter")
    assert run("systemctl", "show", "-P", "UnitFileState", "ebpf-exporter.socket").strip() == "disabled"
    run("systemctl", "start", "ebpf-exporter.socket")
    over = threading.Event()
    failures: list[Exception] = []
    scrapes = 0

    def scrape() -> None:
        nonlocal scrapes
        while not over.is_set():
            try:
                page()
                scrapes += 1
            except urllib.error.URLError as error:
                if isinstance(error.reason, ConnectionRefusedError):
                    failures.append(error)
            except OSError:  # it was being answered by the one that ended
                continue

    try:
        assert shown("ActiveState") == "inactive"
        assert "ebpf_exporter_build_info" in page()
        assert shown("ActiveState") in ("activating", "active")
        thread = threading.Thread(target=scrape)
        thread.start()
        old = shown("MainPID")
        package.install(with_version("99.3", tmp_path))
        assert shown("MainPID") != old
        before = scrapes
        while scrapes < before + 2:
            assert thread.is_alive()
            run("true")
        over.set()
        thread.join()
        assert failures == []
        assert "systemd=metrics" in journal()
    finally:
        over.set()
        run("systemctl", "stop", "ebpf-exporter.socket", "ebpf-exporter.service")
        run("systemctl", "start", "ebpf-exporter")


def test_a_removal_keeps_the_config_and_a_purge_nothing(before: set[str]) -> None:
    """Nor is anything left attached."""
    run("systemctl", "stop", "ebpf-exporter")
    run("systemctl", "start", "ebpf-exporter.socket", "ebpf-exporter")
    ours = {"leave", "on_exec", "on_readline", "on_packet", "read_done", "write_done", "readv_done", "writev_done"}
    run("apt-get", "remove", "-q", "-y", "ebpf-exporter")
    assert {str(found.get("name")) for found in bpf("prog")} & ours == set()
    assert not Path("/sys/fs/cgroup/system.slice/ebpf-exporter.service").exists()
    assert not Path("/run/ebpf-exporter").exists()
    assert "9435" not in run("ss", "-Hltn")
    # whether it is enabled is kept as well, as of any service of Debian's
    others = (str(CACHE), "/etc/systemd/", "/var/lib/systemd/deb-systemd-helper-enabled")
    assert {path for path in files() - before if not path.startswith(others)} == {str(CONFIG.parent), str(CONFIG)}
    run("dpkg", "--purge", "ebpf-exporter")
    assert files() - before == set()
