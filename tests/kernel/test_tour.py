# SPDX-License-Identifier: Apache-2.0
"""The commands that documents show are typed, letter by letter, on a host of their own; what they print is compared."""

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents import DOCUMENTS, blocks, configs, shown, transcript
from tests.kernel.daemon import COMMAND, ROOT, Daemon, meanwhile
from tests.kernel.wires import ip

pytestmark = pytest.mark.anywhere

SECONDS = 600  # on an emulated machine; a real one takes ten
HERE, THERE = "192.0.2.1", "192.0.2.2"
SITE = "example.org"  # is THERE
# in mounts of its own: a config, and sockets' places, that are nobody else's
SETUP = f"""
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mkdir /run/upper /run/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
mkdir -p /etc/ebpf-exporter
cp "$0" /etc/ebpf-exporter/config.yaml
echo {THERE} {SITE} >>/etc/hosts
exec {shlex.quote(str(COMMAND))} run
"""


class Host:
    """A host with an interface eth0, a web server behind it, and an exporter that runs with the config in /etc."""

    def __init__(self, daemon: Daemon, commands: Path) -> None:
        """commands is a folder with those that documents name, ahead of others in the path."""
        assert daemon.process is not None
        self.daemon = daemon
        self._inside = ["nsenter", "--mount", "--net", f"--target={daemon.process.pid}"]
        self._environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}

    def type(self, command: str, folder: Path | None = None, code: int = 0) -> str:
        """Has bash run a command. Returns what it prints; fails where it ends with another code."""
        with self.start(command, folder) as process:
            printed, words = process.communicate(timeout=SECONDS)
        assert process.returncode == code, f"{command}\n{printed}{words}{self.daemon.log()}"
        return str(printed)

    @contextmanager
    def start(self, command: str, folder: Path | None = None) -> Iterator[subprocess.Popen[str]]:
        inside = [*self._inside, f"--wd={folder or '/'}", "bash", "-c", command]
        with subprocess.Popen(
            inside, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()  # unless it has ended

    def traffic(self) -> None:
        self.type(f"curl -sI {SITE}")

    def write(self, config: str) -> None:
        """Puts a config into its place."""
        self.type(f"cat >/etc/ebpf-exporter/config.yaml <<'END'\n{config}\nEND")


@contextmanager
def host(folder: Path, config: str, route: bool = True) -> Iterator[Host]:
    """folder is one for commands. Without a route the host has no default one, and no site."""
    (folder / "ebpf-exporter").symlink_to(COMMAND)
    (folder / "sudo").write_text('#!/bin/sh\nexec "$@"\n')  # who tests is root
    (folder / "sudo").chmod(0o755)
    (folder / "first.yaml").write_text(config)
    here, there = (f"ebpf-tour-{os.getpid()}-{name}" for name in ("here", "there"))
    ip("netns", "add", here)
    ip("netns", "add", there)
    try:
        ip("-n", here, "link", "add", "eth0", "type", "veth", "peer", "name", "peer", "netns", there)
        for namespace, name, address in ((here, "eth0", HERE), (there, "peer", THERE)):
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", name)
            ip("-n", namespace, "link", "set", name, "up")
        if route:
            ip("-n", here, "route", "add", "default", "via", THERE)
        # not `ip netns exec`, which takes tracefs away
        prefix = [f"--net=/run/netns/{here}", "unshare", "--mount", "sh", "-c", SETUP, str(folder / "first.yaml")]
        with site(there), Daemon({}, prefix=["nsenter", *prefix]) as daemon:
            yield Host(daemon, folder)
    finally:
        ip("netns", "del", here)
        ip("netns", "del", there)


@contextmanager
def site(namespace: str) -> Iterator[None]:
    """A web server in a network namespace."""
    command = ["nsenter", f"--net=/run/netns/{namespace}", "/usr/bin/python3", "-u", "-m", "http.server"]
    with subprocess.Popen(
        [*command, "80", "--bind", THERE], cwd=ROOT / "docs", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith(b"Serving")
            yield
        finally:
            server.kill()


def comparable(command: str, printed: str) -> object:
    """What is to be the same of what a command prints, on any kernel and whatever else the host does."""
    if "doctor" in command:
        return verdicts(printed)
    if "top" in command:
        head, *rows = printed.splitlines()
        return head.split(), sorted(row.split()[:2] for row in rows)
    if "rule_packets" in command:
        return re.sub(r"\} [1-9]\d*$", "} N", printed, flags=re.MULTILINE)
    return re.sub(r"\w+-linux-gnu", f"{os.uname().machine}-linux-gnu", printed)


def verdicts(printed: str) -> list[tuple[str, ...]]:
    """Of what doctor prints, each probe and whether it counts; and why, unless it does."""
    found: list[tuple[str, ...]] = []
    for line in printed.splitlines():
        if not line.startswith(" "):
            match = re.fullmatch(r"(\S+) .* (?:NS/RUN|[\d,]+|-)  (\S.*)", line)
            assert match, line
            found.append(match.groups())
        elif found[-1][1] != "moved":  # else why it is not attached in a better way, which is the kernel's
            found[-1] += (line.strip(),)
    return found


def compare(there: Host, content: str, code: int = 0) -> None:
    """Types the commands of a block."""
    for command, expected in transcript(content):
        assert comparable(command, there.type(command, code=code)) == comparable(command, expected), command


def small(**probes: Any) -> str:
    """A config whose exporter leaves the usual port, and eth0, to others."""
    return json.dumps({"listen": ["localhost:9436"], "probes": probes or {"process_execs": {}}})


@pytest.fixture
def usual() -> str:
    return (ROOT / "config.yaml").read_text()


def test_the_tour(tmp_path: Path, usual: str) -> None:
    """From the first line to the last, on a host where the package has just been installed."""
    with host(tmp_path, usual) as there:
        for language, content, _ in blocks(DOCUMENTS["docs/tour.md"]):
            if language == "sh":
                assert there.type(f"set -eu\n{content}") == ""
            else:
                compare(there, content)


def test_the_readmes_reload(tmp_path: Path) -> None:
    """What has changed, and how many have not."""
    probes: dict[str, Any] = {"file_io": {}, "shell_commands": {}, "process_execs": {}, "file_opens": {}}
    with host(tmp_path, small(**probes)) as there:
        there.write(small(**probes, xdp={}).replace('"file_opens": {}', '"file_opens": {"labels": ["result"]}'))
        compare(there, shown("README.md", "# ebpf-exporter reload"))


def test_what_the_readme_lists(tmp_path: Path) -> None:
    """Hooks of the kernel and of a library, with what they give."""
    with host(tmp_path, small()) as there:
        compare(there, shown("README.md", "# ebpf-exporter list"))


def test_the_readmes_doctor(tmp_path: Path, usual: str) -> None:
    """Every probe of the config that is installed counts, where packets come."""
    with host(tmp_path, small()) as there:
        there.write(usual)
        with meanwhile(there.traffic, 0.2):
            compare(there, shown("README.md", "# ebpf-exporter doctor"))


def test_the_readmes_log(tmp_path: Path, usual: str) -> None:
    """Lines of a start on a host without a default route."""
    with host(tmp_path, usual, route=False) as there:
        log = there.daemon.log().splitlines()
    assert set(shown("README.md", "INFO probe running").splitlines()) <= set(log)


def test_what_the_readme_says_in_passing(tmp_path: Path, usual: str) -> None:
    """Commands in the midst of sentences, and what they are said to print."""
    commands = ("curl localhost:9435/probes", "ebpf-exporter top --json file_io", "sudo ebpf-exporter reload")
    assert [command for command in commands if f"`{command}`" not in DOCUMENTS["README.md"]] == []
    assert "\ncurl localhost:9435/metrics\n" in DOCUMENTS["README.md"]
    with host(tmp_path, usual) as there:
        probes, top, reload = (there.type(command) for command in commands)
        assert "\nebpf_exporter_probe_up{" in there.type("curl localhost:9435/metrics")
        wide = there.type("ebpf-exporter top --once file_io")
    assert [one["name"] for one in json.loads(probes)["probes"]] == list(yaml.safe_load(usual)["probes"])
    assert json.loads(top)["name"] == "file_io"
    assert reload.startswith("reloaded /etc/ebpf-exporter/config.yaml: ")
    head = shown("README.md", "ebpf-exporter  file_io").splitlines()[1]
    assert sorted(wide.splitlines()[0].split()) == sorted(head.split())


@pytest.mark.parametrize(
    ("document", "beginning"),
    [("docs/probes.md", "sudo ebpf-exporter list"), ("docs/network.md", "sudo ebpf-exporter check")],
)
def test_the_steps_to_ones_own(tmp_path: Path, document: str, beginning: str) -> None:
    """The config that stands above them is right, counts, and runs."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.yaml").write_text(configs(document)[0])
    *steps, last = shown(document, beginning).splitlines()
    assert last == "sudo ebpf-exporter run --config config.yaml"
    with host(tmp_path, small()) as there, meanwhile(there.traffic, 0.2):
        for step in steps:
            assert there.type(step, folder)
        with there.start(f"exec {last}", folder) as process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if line.startswith("INFO serving "):
                    process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
    assert any(line.startswith("INFO probe running ") for line in lines)


def test_what_doctor_says_of_two_probes(tmp_path: Path) -> None:
    """Of one that counts, and of one that never does; and ends with 1."""
    never = {
        "attach": "tracepoint:syscalls:sys_enter_swapoff",
        "selftest": ["/bin/true"],
        "metrics": {"ebpf_swapoffs_total": {"type": "counter", "help": "Calls."}},
    }
    with host(tmp_path, small()) as there:
        there.write(small(file_io={}, swapoffs=never))
        compare(there, shown("docs/probes.md", "# ebpf-exporter doctor"), code=1)


def test_where_the_runbook_looks(tmp_path: Path, usual: str) -> None:
    """What each probe is and why; the journal is systemd's."""
    probes, journal = shown("docs/runbook.md", "curl -s").splitlines()
    assert journal.startswith("journalctl -u ebpf-exporter ")
    with host(tmp_path, usual) as there:
        found = json.loads(there.type(probes))["probes"]
    assert all({"state", "reason", "tried"} <= one.keys() for one in found)
