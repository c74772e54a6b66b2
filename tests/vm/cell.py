# SPDX-License-Identifier: Apache-2.0
"""The steps of a cell, inside its machine: each ends with 0, or with what was wrong.

python3 -m tests.vm.cell STEP [WORD…]

prepare [--no-headers] [--no-btf]  what the cell lacks is taken away, for all boots to come
install                            the Debian package that was made of this checkout
start PROBE…                       the service starts; of the config's probes these run, all others say what to do
values PROBE…                      the service's page counts what happens, to the last one
stop                               nothing is left in the kernel, no process, and no file in /run or /tmp
doctor PROBE…                      finds these good, and says of each what /probes said; prints its JSON
remove                             nothing is left on the disk
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter import selftest
from exporter.probe import Selftest
from tests.kernel.daemon import ROOT, Samples, count, parsed
from tests.vm import package

SERVICE = "ebpf-exporter"
CONFIG = Path("/etc/ebpf-exporter/config.yaml")
PAGES = "http://localhost:9435"
STATUSES = Path("/var/lib/cell-statuses")  # what the service's /probes said, beyond its end
DROPIN = Path(f"/etc/systemd/system/{SERVICE}.service.d/headers.conf")
LINKS = Path("/var/lib/cell-links")  # that were there before the service
OURS, THEIRS, OUTSIDE = "192.0.2.1", "192.0.2.2", "outside"

# a default route, so that `interfaces: [auto]` has one to find, to a machine that is a network namespace; at each boot
NETWORK = f"""\
[Unit]
Before={SERVICE}.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -euxc 'ip netns add {OUTSIDE}; ip link add vm0 type veth peer name vm1 netns {OUTSIDE}; \\
  ip addr add {OURS}/24 dev vm0; ip link set vm0 up; ip route add default via {THEIRS}; \\
  ip -n {OUTSIDE} addr add {THEIRS}/24 dev vm1; ip -n {OUTSIDE} link set vm1 up'
[Install]
WantedBy=multi-user.target
"""

# programs of ours by name, so that what they do is told from what all others do
COPIES = Path("/var/tmp/cell")
TRUE, CAT, SHELL = "cell-true", "cell-cat", "cell-word"
SHELL_SECONDS = 300.0
READS = 4  # after which what still counts has a series of its own, however many others there are

SEND = """
import socket, sys
for _ in range(11):
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", (sys.argv[1], 9))
"""


def run(*command: str) -> str:
    """Returns what a command prints; what it says when it fails ends the step."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def get(path: str) -> str:
    with urllib.request.urlopen(PAGES + path, timeout=600) as answer:
        return str(answer.read().decode())


def statuses() -> list[dict[str, Any]]:
    return list(json.loads(get("/probes"))["probes"])


def page() -> Samples:
    return parsed(get("/metrics"))


def require(true: object, words: str) -> None:
    if not true:
        sys.exit(words)


def prepare(*lacking: str) -> None:
    modules = Path(f"/lib/modules/{os.uname().release}")
    if "--no-headers" in lacking:
        (modules / "build").rename(modules / "build.away")
    if "--no-btf" in lacking:
        with Path("/etc/fstab").open("a") as table:
            table.write("tmpfs /sys/kernel/btf tmpfs ro\n")
        run("mount", "/sys/kernel/btf")
        if "--no-headers" not in lacking:  # as the service says
            DROPIN.parent.mkdir()
            DROPIN.write_text("[Service]\nProtectKernelModules=no\n")
    Path("/etc/systemd/system/cell-network.service").write_text(NETWORK)
    run("systemctl", "enable", "--now", "cell-network")


def install() -> None:
    package.install(package.made())
    require(CONFIG.read_text() == (ROOT / "config.yaml").read_text(), f"{CONFIG} is not the config that is shipped")


def links() -> set[int]:
    """Returns the BPF links that there are, but for those on cgroups, which systemd's units have."""
    return {one["id"] for one in json.loads(run("bpftool", "link", "list", "--json")) if one["type"] != "cgroup"}


def start(*running: str) -> None:
    LINKS.write_text(json.dumps(sorted(links())))
    run("systemctl", "enable", "--now", SERVICE)
    expect(running)


def expect(running: tuple[str, ...]) -> None:
    """The service is up, these probes run, and all others say what to do."""
    run("systemctl", "is-active", SERVICE)
    found = statuses()
    for status in found:
        words = f"{status['name']} is {status['state']}: {status['reason']}\n{status['details']}"
        if status["name"] in running:
            require(status["state"] == "running", words)
        else:
            require(status["state"] == "failed", words)
            require("; boot it with " in status["reason"] or ": install its headers, " in status["reason"], words)
            require(len(status["reason"].splitlines()) == 1, words)
    require(set(running) <= {status["name"] for status in found}, f"of {running} some are not in the config")
    require(all(attempt["reason"] for status in found for attempt in status["tried"]), f"no reason: {found}")
    STATUSES.write_text(json.dumps(found))
    journal = run("journalctl", "--boot", "--unit", SERVICE, "--output", "cat")
    require("Traceback" not in journal, journal)


def values(*running: str) -> None:
    expect(running)
    shutil.rmtree(COPIES, ignore_errors=True)
    COPIES.mkdir()
    for name, program in ((TRUE, "/bin/true"), (CAT, "/bin/cat")):
        shutil.copy(program, COPIES / name)
    (COPIES / "cell-file").write_bytes(bytes(1009))
    for probe, (work, counted, labels, expected) in VALUES.items():
        if probe not in running:
            continue
        # the kernel's headers alone, where programs are compiled with them, are more files than a metric has series
        for _ in range(READS):
            work()
            before = page()
            if count(before, counted, **labels):
                break
        else:
            sys.exit(f"{probe}: {counted} {labels} has no series after {READS} reads in which it counted")
        work()
        after = page()
        moved = count(after, counted, **labels) - count(before, counted, **labels)
        require(moved == expected, f"{probe}: {counted} {labels} went up by {moved}, and not by {expected}")


def _execs() -> None:
    for _ in range(13):
        run(str(COPIES / TRUE))


def _reads() -> None:
    run(str(COPIES / CAT), str(COPIES / "cell-file"))


def _opens() -> None:
    # ENOTDIR: programs look for files of their own that are not there
    for number in range(7):
        subprocess.run([COPIES / CAT, COPIES / "cell-file" / str(number)], capture_output=True, check=False)


def _commands() -> None:
    shell = Selftest(("/bin/bash", "--norc", "--noprofile", "-i"), f"{SHELL} 1\n" * 5 + "exit 0\n")
    require(not (why := selftest.run(shell, SHELL_SECONDS)), why)


def _packets() -> None:
    run("ip", "netns", "exec", OUTSIDE, "python3", "-c", SEND, OURS)


# probe -> what is done; the metric and its labels that have to go up by so much
VALUES: dict[str, tuple[Callable[[], None], str, dict[str, str], int]] = {
    "process_execs": (_execs, "ebpf_process_execs_total", {"user": "root", "comm": TRUE}, 13),
    "file_io": (_reads, "ebpf_file_io_bytes_total", {"op": "read", "comm": CAT, "file": "cell-file"}, 1009),
    "file_opens": (_opens, "ebpf_file_opens_total", {"comm": CAT, "result": "ENOTDIR"}, 7),
    "shell_commands": (_commands, "ebpf_shell_commands_total", {"user": "root", "command": SHELL}, 5),
    "xdp": (_packets, "ebpf_xdp_packets_total", {"interface": "vm0", "protocol": "udp", "action": "pass"}, 11),
}


def stop() -> None:
    run("systemctl", "disable", "--now", SERVICE)
    result = run("systemctl", "show", "--property", "Result", "--value", SERVICE).strip()
    require(result == "success", f"the service ended with {result}")
    left: list[object] = []
    attached = [pair for status in json.loads(STATUSES.read_text()) for pair in status["attachments"]]
    ours = {program.partition("@")[0][:15] for program, _ in attached}  # as the kernel has their names
    # a program that nothing holds any more is freed a grace period later
    for _ in range(100):
        left = [one for one in json.loads(run("bpftool", "prog", "list", "--json")) if one.get("name") in ours]
        if not left:
            break
        time.sleep(0.1)
    left += sorted(links() - set(json.loads(LINKS.read_text())))
    left += [one for kinds in json.loads(run("bpftool", "net", "list", "--json")) for one in kinds.values() if one]
    left += [line for line in run("tc", "qdisc", "show").splitlines() if "clsact" in line or "ingress" in line]
    for name in ("kprobe_events", "uprobe_events"):
        events = Path("/sys/kernel/tracing") / name
        left += events.read_text().splitlines() if events.exists() else []
    left += [path.read_text() for path in Path("/proc").glob("[0-9]*/comm") if path.read_text().startswith("ebpf-exp")]
    left += [path for top in ("/run", "/tmp") for path in Path(top).rglob(f"*{SERVICE}*")]
    require(not left, f"left in the kernel, or of its run: {left}")


def doctor(*running: str) -> None:
    done = subprocess.run(
        [SERVICE, "doctor", "--config", str(CONFIG), "--json"], capture_output=True, text=True, check=False
    )
    require(done.stdout, done.stderr)
    found = {probe["name"]: probe for probe in json.loads(done.stdout)["probes"]}
    good = {name for name, probe in found.items() if probe["good"]}
    require(good == set(running), f"{done.stdout}\n{done.stderr}\ngood are {sorted(good)}, and not {sorted(running)}")
    for status in json.loads(STATUSES.read_text()):
        ours, theirs = _how(found[status["name"]]), _how(status)
        require(ours == theirs, f"{status['name']} is {ours}, and on /probes {theirs}")
    print(done.stdout)


def _how(status: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    return status["mechanism"], [(attempt["mechanism"], attempt["reason"]) for attempt in status["tried"]]


def remove() -> None:
    package.purge()
    shutil.rmtree(DROPIN.parent, ignore_errors=True)  # our own
    found = run("find", "/etc", "/usr", "/var", "/run", "-xdev", "-name", f"*{SERVICE}*").splitlines()
    logs = ("/var/log/", "/var/cache/apt/", "/usr/share/doc/")
    left = [path for path in found if not path.startswith(logs)]
    require(not left, f"left on the disk: {left}")


def scene() -> str:
    """Returns what the service has logged since the boot, and what its processes are at."""
    lines = [run("journalctl", "--boot", "--unit", SERVICE, "--output", "short-monotonic", "--no-pager")]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if SERVICE in (folder / "cgroup").read_text():
                told = [(folder / name).read_text().strip() for name in ("comm", "stat", "syscall", "stack")]
                lines.append(f"{folder.name}: " + "\n  ".join(told))
    return "\n".join(lines)


if __name__ == "__main__":
    _, step, *words = sys.argv
    steps: dict[str, Callable[..., None]] = {
        "prepare": prepare, "install": install, "start": start, "values": values, "stop": stop,
        "doctor": doctor, "remove": remove,
    }  # fmt: skip
    try:
        steps[step](*words)
    except BaseException:
        print(scene())
        raise
