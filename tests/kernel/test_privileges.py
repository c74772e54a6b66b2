# SPDX-License-Identifier: Apache-2.0
"""The capabilities of the service's unit: with all of them all runs, and each is missed when it is taken away."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.daemon import COMMAND, ROOT, WORKERS, Daemon, count

UNIT = ROOT / "deploy" / "systemd" / "ebpf-exporter.service"
OWNER = 12345  # nobody's uid

CLOSED = "Permission denied: lacks CAP_DAC_READ_SEARCH (to read programs in closed folders)"
UPROBES = "Permission denied: lacks CAP_SYS_ADMIN (to attach uprobes)"
# perf events want it too where kernel.perf_event_paranoid is above 2: process_execs then takes a raw tracepoint
BY_SYS_ADMIN = {"shell_commands": UPROBES, "closed": UPROBES}
# what is taken away -> the probes that fail, and how their reasons end
NEEDED_BY_PROBES: dict[tuple[str, ...], dict[str, str]] = {
    (): {},
    ("dac_read_search",): {"closed": CLOSED},
    ("sys_admin",): BY_SYS_ADMIN,
    ("sys_admin", "net_admin"): {
        **BY_SYS_ADMIN,
        "xdp": "Operation not permitted: lacks CAP_NET_ADMIN (to attach to interfaces)",
    },
}

LOAD = """
from exporter import libbpf
libbpf.prog_load(libbpf.PROG_TYPE_TRACEPOINT, "x", bytes.fromhex("b700000000000000 9500000000000000"))  # r0 = 0; exit
"""
# what is taken away -> what the exporter says that it lacks, and what the kernel refuses then
NEEDED_TO_START = {
    ("sys_admin", "bpf"): ("CAP_BPF (to load BPF programs)", LOAD),
    ("sys_admin", "perfmon"): ("CAP_PERFMON (to attach them)", LOAD),
    ("setuid",): ("CAP_SETUID (to give the worker another user)", "import os; os.setresuid(1, 1, 1)"),
    ("setgid",): ("CAP_SETGID (to give the worker another group)", "import os; os.setgroups([])"),
    ("kill",): ("CAP_KILL (to end the worker)", "import os; os.kill({stranger}, 0)"),
}


def unit_capabilities() -> set[str]:
    """``CapabilityBoundingSet=CAP_BPF CAP_PERFMON`` -> {"bpf", "perfmon"}"""
    lines = re.findall(r"^CapabilityBoundingSet=(.+)$", UNIT.read_text(), re.MULTILINE)
    return {name.removeprefix("CAP_").lower() for line in lines for name in line.split()}


def without(*taken: str) -> list[str]:
    """Returns a command that runs another as root with the unit's capabilities but these."""
    kept = unit_capabilities() - set(taken)
    return ["setpriv", "--bounding-set", ",".join(["-all", *(f"+{name}" for name in sorted(kept))])]


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A program in a folder that only its owner may look into."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    source = "__attribute__((noinline)) int work(int n) { return n * n; } int main(int n) { return work(n) != 1; }"
    command = ["gcc", "-O1", "-x", "c", "-o", str(folder / "program"), "-"]
    subprocess.run(command, input=source, text=True, check=True)
    os.chown(folder, OWNER, OWNER)
    return folder / "program"


@pytest.fixture
def stranger() -> Iterator[int]:
    """The number of a process of another user."""
    with subprocess.Popen(["sleep", "600"], user=OWNER) as process:
        yield process.pid
        process.kill()


def test_every_capability_of_the_unit_is_taken_away_here() -> None:
    """None is there without a test that misses it."""
    taken = {name for names in (*NEEDED_BY_PROBES, *NEEDED_TO_START) for name in names}
    assert unit_capabilities() == taken | {"setpcap"}


@pytest.mark.matrix
@pytest.mark.parametrize("taken", NEEDED_BY_PROBES)
def test_a_probe_fails_for_want_of_a_capability(taken: tuple[str, ...], closed: Path) -> None:
    """It says which, or what it can't read; all other probes run."""
    probes = {
        "process_execs": {},
        "shell_commands": {},
        "xdp": {"interfaces": ["none*"]},
        "closed": {
            "attach": f"uprobe:{closed}:work",
            "metrics": {"ebpf_closed_total": {"type": "counter", "help": "Calls.", "labels": {}}},
        },
    }
    with Daemon(probes, prefix=without(*taken)) as daemon:
        failed = {name: daemon.status(name) for name in probes if daemon.status(name)["state"] != "running"}
        assert failed.keys() == NEEDED_BY_PROBES[taken].keys()
        for name, ending in NEEDED_BY_PROBES[taken].items():
            assert failed[name]["reason"].endswith(ending)
        subprocess.run([str(closed)], check=True)
        assert count(daemon.samples(), "ebpf_closed_total") == (0 if "closed" in failed else 1)


@pytest.mark.matrix
@pytest.mark.parametrize("taken", NEEDED_TO_START)
def test_without_some_nothing_runs_and_one_line_says_so(taken: tuple[str, ...], tmp_path: Path, stranger: int) -> None:
    """That the kernel would refuse is true."""
    message, code = NEEDED_TO_START[taken]
    config = tmp_path / "config.yaml"
    config.write_text("probes: {process_execs: {}}\n")
    command = [*without(*taken), str(COMMAND), "run", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"ebpf-exporter: lacks {message}: this root is a restricted one\n")
    refused = [
        subprocess.run(
            [*prefix, "/usr/bin/python3", "-c", code.format(stranger=stranger)], cwd=ROOT, capture_output=True
        ).returncode
        for prefix in (without(*taken), without())
    ]
    assert refused == [1, 0]


@pytest.mark.matrix
@pytest.mark.parametrize(("taken", "empty"), [((), True), (("setpcap",), False)])
def test_the_worker_can_gain_no_capability_by_any_program(taken: tuple[str, ...], empty: bool) -> None:
    """Its bounding set has no more than it has itself, which CAP_SETPCAP is for."""
    with Daemon({"process_execs": {}}, prefix=without(*taken)) as daemon:
        status = Path(f"/proc/{daemon.worker_pid()}/status").read_text()
    assert (f"CapBnd:\t{WORKERS:016x}\n" in status) is empty
