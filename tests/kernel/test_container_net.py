# SPDX-License-Identifier: Apache-2.0
"""The probe container_net against frames through veth pairs, receivers' captures and the interfaces' own counters."""

import json
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.kernel.conftest import lacks
from tests.kernel.daemon import COMMAND, Daemon, count
from tests.kernel.tc import way
from tests.kernel.wires import TEST, Link, Port, frame, inside, ip, link

__all__ = ["way"]  # a fixture

PACKETS, BYTES = "ebpf_container_network_packets_total", "ebpf_container_network_bytes_total"
TAG, SECOND_TAG = b"\x81\x00\x00\x05", b"\x88\xa8\x00\x06"


class Meter:
    """What an interface's own counters and the page say of a container since it was made."""

    def __init__(self, pair: Link, daemon: Daemon) -> None:
        self._pair, self._daemon = pair, daemon
        self._samples, self._counters = daemon.samples(), self._count()

    def _count(self) -> dict[str, tuple[int, int]]:
        # what the host's end receives, the container has sent
        return {
            "egress": (self._pair.counter("rx_packets"), self._pair.counter("rx_bytes")),
            "ingress": (self._pair.counter("tx_packets"), self._pair.counter("tx_bytes")),
        }

    def interface(self) -> dict[str, tuple[int, int]]:
        """Returns packets and bytes by direction, as the interface has them."""
        return {
            direction: (packets - self._counters[direction][0], size - self._counters[direction][1])
            for direction, (packets, size) in self._count().items()
        }

    def page(self) -> dict[str, tuple[int, int]]:
        """Returns packets and bytes that passed by direction, as the page has them."""
        after = self._daemon.samples()

        def grown(name: str, direction: str) -> int:
            labels = {"interface": self._pair.name, "container": self._pair.namespace, "direction": direction}
            return int(count(after, name, action="pass", **labels) - count(self._samples, name, **labels))

        return {direction: (grown(PACKETS, direction), grown(BYTES, direction)) for direction in ("egress", "ingress")}


def test_packets_and_bytes_in_both_directions(way: Sequence[str]) -> None:
    """Of 61 frames out of a namespace and 37 into it, packets and bytes on the page, by the namespace's name, are those
    of the receivers' capture, and of the interface's own counters."""
    out = [frame(60 + number) for number in range(61)]
    into = [frame(1514 - number) for number in range(37)]
    with link("ebpf-n0") as pair, Daemon({"container_net": {}}, prefix=way) as daemon, pair.ports() as (here, there):
        meter = Meter(pair, daemon)
        there.send(out)
        here.send(into)
        assert (here.receive(61), there.receive(37)) == (out, into)
        expected = {"egress": (61, sum(map(len, out))), "ingress": (37, sum(map(len, into)))}
        daemon.wait_for(lambda: meter.page()["ingress"][0] == 37, "a name")
        assert meter.page() == meter.interface() == expected
        status = daemon.status("container_net")
    mode = "clsact" if way else "tcx"
    assert (status["state"], status["mechanism"]) == ("running", f"tc {mode}")
    assert ["on_sent", f"tc:ingress:ebpf-n0 ({mode})"] in status["attachments"]
    assert ["on_received", f"tc:egress:ebpf-n0 ({mode})"] in status["attachments"]


@pytest.mark.matrix
def test_frames_with_vlan_tags(way: Sequence[str]) -> None:
    """Of frames with one tag and with two, bytes are those on the wire, also where the kernel keeps the first tag
    beside the frame, as it does when it has received one."""
    frames = [frame(64, TAG)] * 23 + [frame(100, SECOND_TAG + TAG)] * 19
    expected = 42, 23 * 64 + 19 * 100
    with link("ebpf-n1") as pair, Daemon({"container_net": {}}, prefix=way) as daemon, pair.ports() as (here, there):
        meter = Meter(pair, daemon)
        there.send(frames)
        here.send(frames)
        for port in (here, there):  # without their first tags: those are beside the frames
            assert len(port.receive(42, (TEST, TAG[:2]))) == 42
        daemon.wait_for(lambda: meter.page()["egress"][0] == 42, "a name")
        assert meter.page() == meter.interface() == {"egress": expected, "ingress": expected}


def test_frames_of_an_interface_for_a_vlan(way: Sequence[str]) -> None:
    """A tag that was beside the frame from the beginning is on the wire as well; the interface does not count it."""
    with link("ebpf-n6") as pair, Daemon({"container_net": {}}, prefix=way) as daemon:
        within = ["-n", pair.namespace, "link"]
        try:
            ip(*within, "add", "link", "peer", "name", "v5", "type", "vlan", "id", "5")
        except subprocess.CalledProcessError:
            lacks("vlan", "this kernel has no interfaces for VLANs")
        ip(*within, "set", "v5", "addrgenmode", "none")
        ip(*within, "set", "v5", "up")
        with pair.ports() as (here, _), closing(inside(pair.namespace, lambda: Port("v5"))) as inner:
            meter = Meter(pair, daemon)
            inner.send([frame(60)] * 17)
            here.receive(17)
            daemon.wait_for(lambda: meter.page()["egress"][0] == 17, "a name")
            assert meter.page()["egress"] == (17, 17 * 64)
            assert meter.interface()["egress"] == (17, 17 * 60)


@pytest.mark.matrix
def test_a_stream_in_packets_larger_than_frames(way: Sequence[str]) -> None:
    """With segmentation offload, the stack handles up to 64 KB as one packet: so does the interface count it, and so do
    we, byte by byte."""
    with link("ebpf-n2") as pair, Daemon({"container_net": {}}, prefix=way) as daemon:
        ip("address", "add", "10.99.2.1/24", "dev", "ebpf-n2")
        ip("-n", pair.namespace, "address", "add", "10.99.2.2/24", "dev", "peer")
        meter = Meter(pair, daemon)
        with closing(socket.create_server(("10.99.2.1", 0))) as server:
            port = server.getsockname()[1]
            outside = inside(pair.namespace, lambda: socket.create_connection(("10.99.2.1", port)))
            accepted, _ = server.accept()
            with closing(outside), closing(accepted):
                sender = threading.Thread(target=outside.sendall, args=(bytes(10_000_019),))
                sender.start()
                received = 0
                while received < 10_000_019:
                    received += len(accepted.recv(1 << 20))
                sender.join()
        daemon.wait_for(lambda: meter.page() == meter.interface(), "the interface's own counters")
        packets, size = meter.page()["egress"]
        assert size > 10_000_019
        assert size / packets > 1514


@pytest.mark.matrix
def test_a_frame_that_is_in_pieces(way: Sequence[str]) -> None:
    """Frames of which only the first bytes lie in one piece have all their bytes counted."""
    with link("ebpf-n3") as pair, Daemon({"container_net": {}}, prefix=way) as daemon, pair.ports() as (here, there):
        for words in (["link", "set", "ebpf-n3"], ["-n", pair.namespace, "link", "set", "peer"]):
            ip(*words, "mtu", "60000")
        meter = Meter(pair, daemon)
        here.send_in_pieces([frame(40_000 + number) for number in range(13)])
        there.receive(13)
        expected = (13, sum(40_000 + number for number in range(13)))
        daemon.wait_for(lambda: meter.page()["ingress"][0] == 13, "a name")
        assert meter.page()["ingress"] == meter.interface()["ingress"] == expected


@pytest.mark.matrix
def test_namespaces_that_come_and_go(way: Sequence[str]) -> None:
    """Each of 20 namespaces that begin, speak and end has its frames under its name, and leaves nothing in the
    exporter: it has no descriptor more than before."""
    probes = {"container_net": {"interfaces": ["ebpf-n4", "ebpf-m*"]}}
    with link("ebpf-n4") as stays, Daemon(probes, prefix=way) as daemon:
        assert daemon.process is not None
        descriptors = Path(f"/proc/{daemon.process.pid}/fd")

        def attached(name: str) -> bool:
            found = [hook.split()[0] for _, hook in daemon.status("container_net")["attachments"]]
            return f"tc:ingress:{name}" in found and f"tc:egress:{name}" in found

        daemon.wait_for(lambda: attached("ebpf-n4"), "attached")

        def counted(name: str) -> float:
            return count(daemon.samples(), PACKETS, container=name, direction="egress")

        before = len(list(descriptors.iterdir()))
        for number in range(20):
            with link(f"ebpf-m{number}") as pair:
                daemon.wait_for(lambda: attached(pair.name), "attached")
                pair.send([frame(64)] * (number + 1))
                daemon.wait_for(lambda: counted(pair.namespace) > 0, "a name")
        stays.send([frame(64)] * 31)
        daemon.wait_for(lambda: counted(stays.namespace) == 31, "a name")
        assert [counted(f"ebpf-m{number}-ns") for number in range(20)] == list(range(1, 21))
        daemon.wait_for(lambda: len(list(descriptors.iterdir())) == before, "descriptors let go of")
        assert not any(attached(f"ebpf-m{number}") for number in range(20))


@pytest.mark.anywhere
def test_labels_are_the_configs(way: Sequence[str]) -> None:
    """By container alone, both directions are one series."""
    probes = {"container_net": {"labels": ["container"], "metrics": [PACKETS]}}
    with link("ebpf-n5") as pair, Daemon(probes, prefix=way) as daemon, pair.ports() as (here, there):
        there.send([frame(64)] * 3)
        here.send([frame(64)] * 4)
        here.receive(3), there.receive(4)

        def lines() -> list[str]:
            return [line for line in daemon.page().splitlines() if "ebpf-n5" in line and line[0] != "#"]

        daemon.wait_for(lambda: bool(lines()), "a name")
        assert lines() == [f'{PACKETS}{{container="ebpf-n5-ns"}} 7']


@pytest.mark.matrix
def test_doctor_finds_containers(tmp_path: Path) -> None:
    """doctor attaches to the interfaces that lead into namespaces when it starts, and sees that packets count."""
    config = tmp_path / "config.yaml"
    config.write_text("probes: {container_net: {}}")
    with link("ebpf-n7") as pair, closing(pair.port_there()) as there:
        command = [str(COMMAND), "doctor", "--config", str(config), "--json", "--seconds", "600"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as doctor:
            while doctor.poll() is None:  # it ends when its counters have moved
                there.send([frame(64)])
            assert doctor.stdout is not None
            [found] = json.loads(doctor.stdout.read())["probes"]
    assert (doctor.returncode, found["counters"], found["moved"]) == (0, "moved", [PACKETS, BYTES])
    assert ["on_sent", "tc:ingress:ebpf-n7"] in [[program, hook.split()[0]] for program, hook in found["attachments"]]
