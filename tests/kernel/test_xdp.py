# SPDX-License-Identifier: Apache-2.0
"""The probe xdp against packets sent one by one through a veth pair between two network namespaces."""

import os
import signal
import socket
import struct
import subprocess

import pytest

from exporter import libbpf
from tests.kernel.daemon import Daemon, by, count
from tests.kernel.wires import ETHERNET, ip, ipv4, ipv6, link

PACKETS, BYTES = "ebpf_xdp_packets_total", "ebpf_xdp_bytes_total"


def test_packets_are_counted_by_protocol() -> None:
    """97 packets of known protocols and sizes are counted as such, and are all passed on."""
    hop_by_hop_then_udp = bytes([17, 0]) + bytes(6)
    routing_then_fragment_then_tcp = bytes([44, 1]) + bytes(14) + bytes([6, 0]) + bytes(6)
    seven_options_then_udp = (bytes([60, 0]) + bytes(6)) * 6 + bytes([17, 0]) + bytes(6)
    packets = {
        "tcp": [ipv4(6)] * 23
        + [ipv4(6, tags=b"\x81\x00\x00\x05")] * 3
        + [ipv6(43, routing_then_fragment_then_tcp)] * 2,
        "udp": [ipv4(17, size=1000)] * 19 + [ipv6(0, hop_by_hop_then_udp)] * 5,
        "icmp": [ipv4(1, tags=b"\x88\xa8\x00\x05\x81\x00\x00\x06")] * 11,
        "icmpv6": [ipv6(58)] * 7,
        "arp": [(ETHERNET + b"\x08\x06").ljust(60, b"\0")] * 13,
        "non-ip": [(ETHERNET + b"\x88\xcc").ljust(60, b"\0")] * 5,
        "200": [ipv4(200)] * 7,
        "truncated": [ETHERNET + b"\x08\x00" + b"\x45\x00", ipv6(60, seven_options_then_udp)],
    }
    assert sum(map(len, packets.values())) == 97
    with link("ebpf-t0") as pair, Daemon({"xdp": {"interfaces": ["ebpf-t0"]}}) as daemon:
        seen = pair.received()
        pair.send([packet for some in packets.values() for packet in some])
        samples = daemon.samples()
        status = daemon.status("xdp")
        seen = pair.received() - seen
    assert seen == 97
    assert status["state"] == "running"
    assert by(samples, "protocol", PACKETS, interface="ebpf-t0", action="pass") == {
        name: len(some) for name, some in packets.items()
    }
    assert by(samples, "protocol", BYTES, interface="ebpf-t0", action="pass") == {
        name: sum(map(len, some)) for name, some in packets.items()
    }


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_both_modes_count_the_same(mode: str) -> None:
    """The mode of the config is the one that is taken, and 31 packets are 31 packets in each."""
    with link("ebpf-t1") as pair, Daemon({"xdp": {"interfaces": ["ebpf-t1"], "mode": mode}}) as daemon:
        pair.send([ipv4(17)] * 31)
        samples = daemon.samples()
        status = daemon.status("xdp")
    assert count(samples, PACKETS, interface="ebpf-t1") == 31
    assert status["mechanism"] == f"xdp {mode}"


@pytest.mark.matrix
def test_why_xdp_is_not_native() -> None:
    """Where the driver does not take XDP it is generic, counts, and says so with the interface and the reason."""
    with link("ebpf-t6") as pair, link("ebpf-t7") as large:
        ip("link", "add", "ebpf-t-bridge", "type", "bridge")
        try:
            for words in (["link", "set", "ebpf-t7"], ["-n", large.namespace, "link", "set", "peer"]):
                ip(*words, "mtu", "9000")
            names = ["ebpf-t6", "ebpf-t7", "ebpf-t-bridge"]
            with Daemon({"xdp": {"interfaces": names}}) as daemon:
                status = daemon.status("xdp")
                for one, frames in ((pair, 3), (large, 5)):
                    one.send([ipv4(17)] * frames)
                assert by(daemon.samples(), "interface", PACKETS) == {"ebpf-t6": 3, "ebpf-t7": 5}
            with Daemon({"xdp": {"interfaces": names, "mode": "native"}}) as daemon:
                only_native = daemon.status("xdp")
        finally:
            ip("link", "del", "ebpf-t-bridge")
    reasons = [
        "ebpf-t7: its MTU, or its peer's, is too large for XDP in the driver",
        "ebpf-t-bridge: its driver has no XDP",
    ]
    assert (status["state"], status["mechanism"]) == ("running", "xdp generic+native")
    assert [hook for _, hook in status["attachments"]] == [
        "xdp:ebpf-t6 (native)",
        "xdp:ebpf-t7 (generic)",
        "xdp:ebpf-t-bridge (generic)",
    ]
    assert [(attempt["mechanism"], attempt["reason"]) for attempt in status["tried"]] == [
        ("xdp native", reason) for reason in reasons
    ]
    assert (only_native["state"], only_native["reason"]) == ("degraded", "; ".join(reasons))
    assert [hook for _, hook in only_native["attachments"]] == ["xdp:ebpf-t6 (native)"]


@pytest.mark.anywhere
def test_an_interface_that_is_renamed_and_moved() -> None:
    """XDP is on an interface while it is here and its name is wanted, and every frame is counted once."""
    with (
        link("ebpf-t10") as pair,
        link("ebpf-t11") as elsewhere,
        Daemon({"xdp": {"interfaces": ["ebpf-t10", "ebpf-u*"]}}) as daemon,
    ):

        def on(*names: str) -> None:
            hooks = [f"xdp:{name} (native)" for name in names]
            daemon.wait_for(lambda: [hook for _, hook in daemon.status("xdp")["attachments"]] == hooks, f"on {names}")

        def counts(name: str, frames: int) -> None:
            before = count(daemon.samples(), PACKETS)
            pair.send([ipv4(17)] * frames)
            daemon.wait_for(lambda: count(daemon.samples(), PACKETS) - before == frames, "counted")
            assert count(daemon.samples(), PACKETS, interface=name) >= frames

        counts("ebpf-t10", 3)
        pair.rename("ebpf-u1")
        on("ebpf-u1")
        counts("ebpf-u1", 5)
        pair.rename("ebpf-v1")
        on()
        pair.rename("ebpf-u2")
        on("ebpf-u2")
        counts("ebpf-u2", 7)
        ip("link", "set", "ebpf-u2", "netns", elsewhere.namespace)
        on()
        ip("-n", elsewhere.namespace, "link", "set", "ebpf-u2", "netns", str(os.getpid()))
        ip("link", "set", "ebpf-u2", "up")
        on("ebpf-u2")
        counts("ebpf-u2", 11)


@pytest.mark.anywhere
def test_an_interface_that_goes_and_comes_back() -> None:
    """Without its interface the probe is degraded and says why; with it back, it counts on from where it was."""
    with link("ebpf-t2") as pair, Daemon({"xdp": {"interfaces": ["ebpf-t2"]}}) as daemon:
        pair.send([ipv4(17)] * 5)
        assert count(daemon.samples(), PACKETS, interface="ebpf-t2") == 5
        ip("link", "del", "ebpf-t2")
        daemon.wait_for(lambda: daemon.status("xdp")["state"] == "degraded", "degraded")
        assert daemon.status("xdp")["reason"] == "there is no interface ebpf-t2"
        assert count(daemon.samples(), "ebpf_exporter_probe_up", probe="xdp") == 0
        pair.create()
        daemon.wait_for(lambda: daemon.status("xdp")["state"] == "running", "running again")
        pair.send([ipv4(17)] * 7)
        samples = daemon.samples()
    assert count(samples, PACKETS, interface="ebpf-t2") == 12
    assert count(samples, "ebpf_exporter_probe_up", probe="xdp") == 1


@pytest.mark.anywhere
def test_a_glob_takes_interfaces_as_they_come() -> None:
    """An interface that appears later and matches is counted too."""
    with Daemon({"xdp": {"interfaces": ["ebpf-g*"]}}) as daemon:
        assert daemon.status("xdp")["state"] == "running"
        with link("ebpf-g1") as pair:
            daemon.wait_for(lambda: len(daemon.status("xdp")["attachments"]) == 1, "attached")
            pair.send([ipv4(6)] * 3)
            assert count(daemon.samples(), PACKETS, interface="ebpf-g1") == 3
        daemon.wait_for(lambda: daemon.status("xdp")["attachments"] == [], "let go")


@pytest.mark.matrix
def test_the_default_is_the_interface_of_the_default_route() -> None:
    """Without a word of interfaces, the default route's is taken; where there is none the probe says so."""
    routes = subprocess.run(["ip", "-o", "route", "show", "default"], check=True, capture_output=True, text=True).stdout
    with Daemon({"xdp": {}}) as daemon:
        status = daemon.status("xdp")
    if routes:
        device = routes.split("dev ")[1].split()[0]
        assert [hook.split()[0] for _, hook in status["attachments"]] == [f"xdp:{device}"]
    else:
        assert status["reason"] == "there is no default route: name the interfaces"


@pytest.mark.anywhere
def test_an_interface_whose_name_is_no_text() -> None:
    """A default route through an interface whose name is no UTF-8 is followed; the page stays a page."""
    name = b"ebpf-\xff"
    with link("ebpf-t4") as pair:
        ip("link", "set", "ebpf-t4", "down")
        subprocess.run([b"ip", b"link", b"set", b"ebpf-t4", b"name", name], check=True)
        pair.name = os.fsdecode(name)
        try:
            subprocess.run([b"ip", b"link", b"set", name, b"up"], check=True)
            subprocess.run([b"ip", b"address", b"add", b"10.123.0.1/24", b"dev", name], check=True)
            with Daemon({"xdp": {"interfaces": ["auto", "ebpf-*"]}}) as daemon:
                pair.send([ipv4(17)] * 5)
                samples = daemon.samples()
                hooks = [hook for _, hook in daemon.status("xdp")["attachments"]]
        finally:
            subprocess.run([b"ip", b"link", b"del", name], check=True)
    assert count(samples, PACKETS, interface="ebpf-\\xff") == 5
    assert "xdp:ebpf-\\xff (native)" in hooks


@pytest.mark.anywhere
def test_an_index_that_came_back_as_another_interface() -> None:
    """An interface that was replaced by one of the same index while nobody looked is attached to again."""
    with link("ebpf-t5") as pair, Daemon({"xdp": {"interfaces": ["ebpf-t5"]}}) as daemon:
        assert daemon.process is not None
        index = socket.if_nametoindex("ebpf-t5")
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            ip("link", "del", "ebpf-t5")
            ip(
                "link",
                "add",
                "ebpf-t5",
                "index",
                str(index),
                "type",
                "veth",
                "peer",
                "name",
                "peer",
                "netns",
                pair.namespace,
            )
            ip("-n", pair.namespace, "link", "set", "peer", "addrgenmode", "none")
            ip("link", "set", "ebpf-t5", "addrgenmode", "none")
            ip("-n", pair.namespace, "link", "set", "peer", "up")
            ip("link", "set", "ebpf-t5", "up")
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)

        def attached() -> bool:
            shown = subprocess.run(["ip", "link", "show", "ebpf-t5"], check=True, capture_output=True, text=True).stdout
            return "prog/xdp" in shown

        daemon.wait_for(attached, "XDP on the new interface")
        pair.send([ipv4(17)] * 7)
        assert count(daemon.samples(), PACKETS, interface="ebpf-t5") == 7


@pytest.mark.matrix
def test_a_program_of_somebody_else_is_left_where_it_is() -> None:
    """XDP of another's on the interface is never replaced: the probe is degraded, and takes over once that is gone."""
    pass_all = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
    other = libbpf.prog_load(libbpf.PROG_TYPE_XDP, "other", pass_all)
    with link("ebpf-t3"):
        held = libbpf.link_create(other, socket.if_nametoindex("ebpf-t3"), libbpf.ATTACH_XDP, libbpf.XDP_FLAGS_SKB_MODE)
        with Daemon({"xdp": {"interfaces": ["ebpf-t3"]}}) as daemon:
            status = daemon.status("xdp")
            shown = subprocess.run(["ip", "link", "show", "ebpf-t3"], check=True, capture_output=True, text=True).stdout
            assert "prog/xdp" in shown
            assert (status["state"], status["attachments"]) == ("degraded", [])
            assert status["reason"] == "ebpf-t3: another XDP program is on it and is left there"
            os.close(held)
            daemon.wait_for(lambda: daemon.status("xdp")["state"] == "running", "taken over")


@pytest.mark.matrix
def test_an_interface_without_ethernet() -> None:
    """A tunnel's packets have no Ethernet header to read: the probe is not on it, and says why."""
    ip("tuntap", "add", "dev", "ebpf-t-tun", "mode", "tun")
    try:
        with link("ebpf-t9") as pair, Daemon({"xdp": {"interfaces": ["ebpf-t-tun", pair.name]}}) as daemon:
            status = daemon.status("xdp")
    finally:
        ip("link", "del", "ebpf-t-tun")
    assert "ebpf-t-tun has no Ethernet header: its packets can't be told apart" in str(status)
    assert [hook for _, hook in status["attachments"]] == ["xdp:ebpf-t9 (native)"]
