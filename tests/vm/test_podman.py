# SPDX-License-Identifier: Apache-2.0
"""A real container engine, where there is one: podman, with its bridge, and an image that is pulled from nowhere."""

import json
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon, Samples, by, count
from tests.vm import package

if shutil.which("podman") is None:
    pytest.skip("podman is in an image of its own", allow_module_level=True)

PACKETS, BYTES = "ebpf_container_network_packets_total", "ebpf_container_network_bytes_total"
RULES = "ebpf_container_network_rule_packets_total"
APPLETS = ("sh", "sleep", "ping", "true", "nc")
GATEWAY = "10.88.0.1"  # the host, on podman's bridge
HEADERS = 14 + 20 + 8  # bytes: Ethernet, IPv4, ICMP


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def _image() -> None:
    """An image of busybox alone, which Debian links so that it needs nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bin").mkdir()
        run("cp", "/bin/busybox", f"{folder}/bin/busybox")
        for applet in APPLETS:
            (Path(folder) / "bin" / applet).symlink_to("busybox")
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            run("tar", "-C", folder, "-cf", archive.name, ".")
            run("podman", "import", archive.name, "busybox")


class Container:
    """A container that sleeps: its name, its address, and the host's end of its pair."""

    def __init__(self, name: str) -> None:
        self.name = name
        before = {name for _, name in socket.if_nameindex()}
        run("podman", "run", "--detach", "--cap-add", "net_raw", "--name", name, "busybox", "sleep", "100000")
        new = {name for _, name in socket.if_nameindex()} - before
        [self.interface] = [name for name in new if name.startswith("veth")]  # the first brings the bridge too
        self.address = run("podman", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", name)

    def counters(self) -> dict[str, tuple[int, int]]:
        """Returns packets and bytes by the interface's own counters, by the direction as the container sees it."""

        def read(name: str) -> int:
            return int(Path(f"/sys/class/net/{self.interface}/statistics/{name}").read_text())

        return {
            "egress": (read("rx_packets"), read("rx_bytes")),
            "ingress": (read("tx_packets"), read("tx_bytes")),
        }


@contextmanager
def container(name: str) -> Iterator[Container]:
    try:
        yield Container(name)
    finally:
        remove(name)


def remove(*names: str) -> None:
    run("podman", "rm", "--force", "--time", "0", "--ignore", *names)


def counted(samples: Samples, name: str) -> dict[str, tuple[int, int]]:
    return {
        direction: (
            int(count(samples, PACKETS, container=name, direction=direction)),
            int(count(samples, BYTES, container=name, direction=direction)),
        )
        for direction in ("egress", "ingress")
    }


def together(daemon: Daemon, one: Container) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """Returns the page's and the interface's numbers of a moment in which nothing moved."""
    while True:
        before = one.counters()
        page = counted(daemon.samples(), one.name)
        if one.counters() == before:
            return page, before


def moved(now: dict[str, tuple[int, int]], before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {key: (now[key][0] - before[key][0], now[key][1] - before[key][1]) for key in now}


def attached(daemon: Daemon, one: Container) -> bool:
    hooks = [hook for _, hook in daemon.status("container_net")["attachments"]]
    return sum(one.interface in hook for hook in hooks) == 2


def called(samples: Samples) -> set[str]:
    """Returns the names of containers; where an emulated engine takes half a minute from an interface to its container,
    what is sent meanwhile has the name of podman's namespace."""
    return {name for name in by(samples, "container", PACKETS) if not name.startswith("netns-")}


def ping(one: Container, times: int, size: int = 1000) -> None:
    """Sends so many packets to a container, which answers each, and so many from it, which this host answers."""
    run("busybox", "ping", "-c", str(times), "-s", str(size), one.address)
    run("podman", "exec", one.name, "ping", "-c", str(times), "-s", str(size), GATEWAY)


def test_packets_of_a_container() -> None:
    """What a container sends and receives is counted under its name, as its interface counts it; and stays there."""
    with Daemon({"container_net": {}}) as daemon:
        with container("web") as web:
            daemon.wait_for(lambda: attached(daemon, web), "programs on the container's interface")
            page, truth = together(daemon, web)
            ping(web, 13)
            run("podman", "exec", web.name, "sh", "-c", f"echo {'x' * 4000} | nc -w 5 {GATEWAY} 1 || true")
            later, truth_later = together(daemon, web)
            assert moved(later, page) == moved(truth_later, truth)
            for packets, size in moved(later, page).values():
                assert packets >= 2 * 13
                assert size >= 2 * 13 * (1000 + HEADERS)
        gone = counted(daemon.samples(), "web")
        assert all(gone[direction] >= later[direction] for direction in gone)
        with container("web") as again:
            daemon.wait_for(lambda: attached(daemon, again), "programs on the new interface")
            ping(again, 3)
            samples = daemon.samples()
        assert all(counted(samples, "web")[direction] > gone[direction] for direction in gone)
        assert called(daemon.samples()) == {"web"}


def test_rules_for_containers() -> None:
    """A rule for containers by their names drops what those send, and nothing of others."""
    rule = {"name": "no-ping", "action": "drop", "containers": ["web-*"], "direction": "egress", "protocol": "icmp"}
    with (
        Daemon({"container_net": {"rules": [rule]}}) as daemon,
        container("web-1") as web,
        container("db") as db,
    ):
        daemon.wait_for(lambda: attached(daemon, web) and attached(daemon, db), "programs on both")
        ping(db, 3)
        run("podman", "exec", "web-1", "sh", "-c", f"echo x | nc -w 5 {GATEWAY} 1 || true")  # what tells its name
        daemon.wait_for(lambda: called(daemon.samples()) == {"web-1", "db"}, "the names of both")
        lost = subprocess.run(
            ["podman", "exec", "web-1", "ping", "-c", "7", "-W", "1", GATEWAY],
            check=False,
            capture_output=True,
            text=True,
        )
        ping(db, 5)
        samples = daemon.samples()
    assert "7 packets transmitted, 0 packets received" in lost.stdout
    assert by(samples, "container", RULES) == {"web-1": 7}
    assert by(samples, "rule", RULES, direction="egress") == {"no-ping": 7}
    assert count(samples, PACKETS, container="web-1", action="drop") == 7
    assert count(samples, PACKETS, container="db", action="drop") == 0


def test_containers_of_processes() -> None:
    """What is done in a container is counted under its name, from its first process on."""
    execs = {
        "attach": "tracepoint:sched:sched_process_exec",
        "metrics": {
            "ebpf_execs_total": {
                "type": "counter",
                "help": "Programs that were executed.",
                "labels": {"container": "container", "comm": "comm"},
            }
        },
    }
    with Daemon({"execs": execs}) as daemon:
        with container("db"):
            for _ in range(5):
                run("podman", "exec", "db", "true")
            daemon.wait_for(
                lambda: count(daemon.samples(), "ebpf_execs_total", container="db") >= 6, "what it executed"
            )
        found = by(daemon.samples(), "comm", "ebpf_execs_total", container="db")
        containers = by(daemon.samples(), "container", "ebpf_execs_total")
    assert (found["true"], found["sleep"]) == (5, 1)
    assert set(containers) <= {"db", ""}


def test_fifty_leave_nothing_behind() -> None:
    """Ten containers that are started and stopped five times: each counts under its name; no filter, map, program or
    descriptor is left."""
    names = [f"many-{number}" for number in range(10)]

    def kept() -> tuple[int, ...]:
        assert daemon.process is not None
        pids = (daemon.process.pid, daemon.worker_pid())
        fds = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]
        return (*fds, *(len(json.loads(run("bpftool", kind, "list", "--json"))) for kind in ("prog", "map", "link")))

    try:
        for name in names:
            run("podman", "create", "--cap-add", "net_raw", "--name", name, "busybox", "ping", GATEWAY)
        with Daemon({"container_net": {}}) as daemon:
            daemon.samples()
            before = kept()
            last: dict[str, float] = {}
            for _ in range(5):
                run("podman", "start", *names)
                daemon.wait_for(lambda: len(daemon.status("container_net")["attachments"]) == 20, "all attached")
                daemon.wait_for(lambda: all(one > 0 for one in moving(daemon, names, last)), "packets of each")  # noqa: B023 - called at once
                run("podman", "stop", "--time", "0", *names)
                daemon.wait_for(lambda: not daemon.status("container_net")["attachments"], "all let go")
                last = by(daemon.samples(), "container", PACKETS)
            assert called(daemon.samples()) == set(names)
            # systemd's programs for devices go a little later than their units
            daemon.wait_for(lambda: kept() == before, f"what there was before: {before}, {kept()}")
        assert "clsact" not in run("tc", "qdisc")
    finally:
        remove(*names)


def moving(daemon: Daemon, names: list[str], before: dict[str, float]) -> list[float]:
    """Returns how many packets of each container came since."""
    now = by(daemon.samples(), "container", PACKETS)
    return [now.get(name, 0) - before.get(name, 0) for name in names]


def test_the_service_knows_names() -> None:
    """With no more rights than the service has, names are found and programs attached."""
    package.install(package.made())
    config = Path("/etc/ebpf-exporter/config.yaml")
    config.write_text("probes: {container_net: {}}\n")

    def page() -> str:
        with urllib.request.urlopen("http://localhost:9435/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    run("systemctl", "restart", "ebpf-exporter")
    try:
        with container("shop") as shop:
            ping(shop, 5)
            for _ in range(600):
                if f'{PACKETS}{{container="shop",interface="{shop.interface}",direction="egress"' in page():
                    break
            else:
                pytest.fail(run("journalctl", "-u", "ebpf-exporter") + page())
    finally:
        package.purge()
