# SPDX-License-Identifier: Apache-2.0
"""TC on interfaces, held by TCX links or by filters on clsact: what is counted, what is left of it, what is others'."""

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from exporter import libbpf
from exporter.network import filters as filters_
from tests.kernel.daemon import COMMAND, Daemon, by, count
from tests.kernel.tc import (
    EGRESS,
    INGRESS,
    NEXT,
    PASS,
    WITHOUT_TCX,
    filters,
    needs_tcx,
    on_tcx,
    program,
    shown,
    tc,
    way,
)
from tests.kernel.wires import Port, batch, frame, inside, ip, link

__all__ = ["way"]  # a fixture

FRAMES = "ebpf_frames_total"
SOURCE = """
static int count(struct __sk_buff *skb, u8 direction)
{
    struct frames_key key = {};

    if (skb->protocol != bpf_htons(0x88b5))
        return TC_ACT_UNSPEC;
    key.interface = skb->ifindex;
    key.direction = direction;
    frames_add(&key, 1);
    return OPTION_drop ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

int on_in(struct __sk_buff *skb)
{
    return count(skb, FRAMES_DIRECTION_IN);
}

int on_out(struct __sk_buff *skb)
{
    return count(skb, FRAMES_DIRECTION_OUT);
}
"""
DECLARATION = """
purpose: Frames of the tests.
attach: {on_in: "tc:ingress", on_out: "tc:egress"}
options:
  drop: {default: false, help: Drop them.}
metrics:
  ebpf_frames_total: {type: counter, help: Frames., labels: {interface: interface, direction: [in, out]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the probe frames, which counts the frames of the tests and may drop them."""
    (tmp_path / "frames.c").write_text(SOURCE)
    (tmp_path / "frames.yaml").write_text(DECLARATION)
    return tmp_path


def probe(*interfaces: str, **options: Any) -> dict[str, Any]:
    return {"frames": {"interfaces": list(interfaces), "options": options}}


def hooks(daemon: Daemon, name: str = "frames") -> list[str]:
    return sorted(hook for _, hook in daemon.status(name)["attachments"])


@pytest.mark.matrix
def test_a_probe_of_ones_own_counts_both_directions(folder: Path, way: Sequence[str]) -> None:
    """29 frames in and 43 out are so many on the page, and none is lost on the way."""
    mode = "clsact" if way else "tcx"
    with link("ebpf-c0") as pair, Daemon(probe("ebpf-c0"), folder, way) as daemon, pair.ports() as (here, there):
        there.send([frame(64)] * 29)
        here.send([frame(64)] * 43)
        assert (len(here.receive(29)), len(there.receive(43))) == (29, 43)
        samples, status = daemon.samples(), daemon.status("frames")
    assert by(samples, "direction", FRAMES, interface="ebpf-c0") == {"in": 29, "out": 43}
    assert (status["state"], status["mechanism"]) == ("running", f"tc {mode}")
    assert status["attachments"] == [
        ["on_in", f"tc:ingress:ebpf-c0 ({mode})"],
        ["on_out", f"tc:egress:ebpf-c0 ({mode})"],
    ]
    tried = [(attempt["mechanism"], attempt["reason"]) for attempt in status["tried"]]
    assert tried == ([("tc tcx", "this kernel has no TCX: it came with 6.6")] if way else [])
    # a program is one and the same on the page, whatever holds it
    assert count(samples, "ebpf_exporter_program_runs_total", probe="frames", program="on_in") == 29


@pytest.mark.anywhere
def test_several_probes_on_one_interface(folder: Path, way: Sequence[str]) -> None:
    """Each of three probes on an interface has all 31 frames, in both directions."""
    declared = {
        name: {
            "source": str(folder / "frames.c").replace("frames.c", f"{name}.c"),
            "attach": {"on_in": "tc:ingress", "on_out": "tc:egress"},
            "interfaces": ["ebpf-c1"],
            "options": {"drop": {"default": False, "help": "Drop them."}},
            "metrics": {
                f"ebpf_{name}_total": {
                    "type": "counter",
                    "help": "Frames.",
                    "labels": {"interface": "interface", "direction": ["in", "out"]},
                }
            },
        }
        for name in ("first", "second", "third")
    }
    for name in declared:
        (folder / f"{name}.c").write_text(SOURCE.replace("frames_", f"{name}_").replace("FRAMES_", f"{name.upper()}_"))
    with link("ebpf-c1") as pair, Daemon(declared, prefix=way) as daemon, pair.ports() as (here, there):
        there.send([frame(64)] * 31)
        here.send([frame(64)] * 31)
        here.receive(31), there.receive(31)
        samples = daemon.samples()
    for name in declared:
        assert by(samples, "direction", f"ebpf_{name}_total") == {"in": 31, "out": 31}


@pytest.mark.matrix
def test_others_on_tcx_run_too(folder: Path) -> None:
    """Ours is ahead of a program that was there before, which has its packets all the same, as has one that comes
    later, ahead or behind."""
    needs_tcx()
    statistics = libbpf.enable_statistics()
    with link("ebpf-c2") as pair, pair.ports() as (here, there):
        index = socket.if_nametoindex("ebpf-c2")
        others = [program(PASS, "before"), program(NEXT, "ahead"), program(PASS, "behind")]
        numbers = [libbpf.program_identity(fd).id for fd in others]
        held = [libbpf.link_create(others[0], index, INGRESS)]
        with Daemon(probe("ebpf-c2"), folder) as daemon:
            [ours, other] = on_tcx("ebpf-c2", INGRESS)
            assert other == numbers[0]
            there.send([frame(64)] * 13)
            here.receive(13)
            held.append(libbpf.link_create(others[1], index, INGRESS, libbpf.F_BEFORE))
            held.append(libbpf.link_create(others[2], index, INGRESS))
            assert on_tcx("ebpf-c2", INGRESS) == [numbers[1], ours, numbers[0], numbers[2]]
            there.send([frame(64)] * 17)
            here.receive(17)
            assert count(daemon.samples(), FRAMES, direction="in") == 30
            runs = [libbpf.program_statistics(fd).runs for fd in others]
            assert runs == [30, 17, 0]  # before passes a packet, and by that ends the chain
        assert on_tcx("ebpf-c2", INGRESS) == [numbers[1], numbers[0], numbers[2]]
        for fd in [*others, *held, statistics]:
            os.close(fd)


@pytest.mark.matrix
def test_others_on_clsact_are_left_as_they_are(folder: Path, way: Sequence[str]) -> None:
    """A clsact of another's and the filters on it are the same before, while and after, and go on having packets."""
    statistics = libbpf.enable_statistics()
    with link("ebpf-c3") as pair, pair.ports() as (here, there):
        index = socket.if_nametoindex("ebpf-c3")
        tc("qdisc", "add", "dev", "ebpf-c3", "clsact")
        # of classic BPF, which matches nothing, and one that passes all to those behind it
        classic = ["bpf", "bytecode", "1,6 0 0 0,", "flowid", "1:1"]
        tc("filter", "add", "dev", "ebpf-c3", "egress", "pref", "49", "protocol", "ip", *classic)
        other = program(NEXT)
        filters_.attach(other, index, filters_.INGRESS, 7, 1)
        before = shown("ebpf-c3")
        with Daemon(probe("ebpf-c3"), folder, way) as daemon:
            there.send([frame(64)] * 19)
            here.receive(19)
            assert count(daemon.samples(), FRAMES, direction="in") == 19
            assert libbpf.program_statistics(other).runs == 19
            [first, *rest] = filters("ebpf-c3", "ingress")
            assert (first.priority, first.handle) == (1, 7)
            assert [one.priority for one in rest] == ([2] if way else [])
        assert shown("ebpf-c3") == before
        os.close(other)
        os.close(statistics)


def test_a_clean_stop_leaves_nothing(folder: Path, way: Sequence[str]) -> None:
    """An interface that had nothing has nothing again, neither filter nor qdisc."""
    with link("ebpf-c4") as pair:
        before = shown(pair.name)
        with Daemon(probe("ebpf-c4"), folder, way) as daemon:
            assert len(hooks(daemon)) == 2
            assert (shown(pair.name) == before) == (not way)
        assert shown(pair.name) == before
        if not way:
            assert on_tcx(pair.name, INGRESS) + on_tcx(pair.name, EGRESS) == []


@pytest.mark.matrix
def test_our_clsact_stays_where_another_uses_it(folder: Path) -> None:
    """A clsact that we made carries a filter of another's when we stop: both stay, and ours is gone."""
    other = program(NEXT)
    with link("ebpf-c5"):
        with Daemon(probe("ebpf-c5"), folder, WITHOUT_TCX) as daemon:
            assert len(hooks(daemon)) == 2
            filters_.attach(other, socket.if_nametoindex("ebpf-c5"), filters_.EGRESS, 7, 9)
        assert "clsact" in tc("qdisc", "show", "dev", "ebpf-c5")
        assert filters("ebpf-c5", "ingress") == []
        assert [(one.priority, one.handle) for one in filters("ebpf-c5", "egress")] == [(9, 7)]
    os.close(other)


def test_packets_pass_after_kill_9(folder: Path, way: Sequence[str]) -> None:
    """What drops all frames drops none any more when the exporter was killed."""
    with link("ebpf-c6") as pair, pair.ports() as (here, there):
        with Daemon(probe("ebpf-c6", drop=True), folder, way) as daemon:
            there.send([frame(64)] * 11)
            here.send([frame(64)] * 13)
            assert by(daemon.samples(), "direction", FRAMES) == {"in": 11, "out": 13}
            assert there.receive(0) == []
            daemon.kill()
        here.send([frame(64)])
        while not there.receive(0):  # the kernel empties the table of entries in a moment
            here.send([frame(64)])
        here.send([frame(64)] * 17)
        assert len(there.receive(17)) == 17
        if not way:
            assert on_tcx("ebpf-c6", INGRESS) + on_tcx("ebpf-c6", EGRESS) == []


def test_the_next_start_sweeps_exactly_ours(folder: Path) -> None:
    """What a killed exporter left on clsact goes at the next start, though no probe of its config is for interfaces.

    Filters of others stay, though they have the name of ours, or its handle, or both; and those of an exporter that
    runs go on counting.
    """
    with link("ebpf-c7"), link("ebpf-c8"), link("ebpf-c9") as used, used.ports() as (here, there):
        with Daemon(probe("ebpf-c7", "ebpf-c8"), folder, WITHOUT_TCX) as killed:
            [left] = filters("ebpf-c8", "ingress")
            assert len(hooks(killed)) == 4
            killed.kill()
        index = socket.if_nametoindex("ebpf-c8")
        named, numbered = program(NEXT, left.name.partition(":")[0]), program(NEXT)
        for at, (fd, handle) in enumerate([(named, 7), (numbered, left.handle), (named, left.handle)]):
            filters_.attach(fd, index, filters_.INGRESS, handle, 5 + at)
        others = [one for one in filters("ebpf-c8", "ingress") if one != left]
        with Daemon(probe("ebpf-c9"), folder, WITHOUT_TCX) as running, Daemon({"process_execs": {}}) as sweeper:
            assert "clsact" not in shown("ebpf-c7")
            assert filters("ebpf-c8", "ingress") == others
            assert filters("ebpf-c8", "egress") == []
            assert len(others) == 3
            there.send([frame(64)] * 23)
            here.receive(23)
            assert count(running.samples(), FRAMES) == 23
            log = running.log() + sweeper.log()
        for name in ("ebpf-c7", "ebpf-c8"):
            assert log.count(f"that an exporter had left when it was killed interface={name}\n") == 1
    os.close(named)
    os.close(numbered)


@pytest.mark.matrix
def test_a_qdisc_ingress_of_anothers(folder: Path) -> None:
    """Where another has the qdisc ingress there is no room for clsact: the probe says so, and takes over after it."""
    with link("ebpf-c10") as pair:
        tc("qdisc", "add", "dev", "ebpf-c10", "ingress")
        before = shown("ebpf-c10")
        with Daemon(probe("ebpf-c10"), folder, WITHOUT_TCX) as daemon:
            status = daemon.status("frames")
            assert (status["state"], status["attachments"]) == ("degraded", [])
            reason = "another's qdisc ingress is on it and is left there; clsact has no room"
            assert status["reason"] == f"ebpf-c10: {reason}"
            assert shown("ebpf-c10") == before
            tc("qdisc", "del", "dev", "ebpf-c10", "ingress")
            daemon.wait_for(lambda: daemon.status("frames")["state"] == "running", "running")
            pair.send([frame(64)] * 7)
            assert count(daemon.samples(), FRAMES, direction="in") == 7


@pytest.mark.matrix
def test_interfaces_are_followed(folder: Path, way: Sequence[str]) -> None:
    """One that is renamed, goes, comes back, and is moved to another namespace and back is attached to while it is here
    and wanted, and every frame is counted once."""
    with (
        link("ebpf-c11") as pair,
        link("ebpf-c12") as elsewhere,
        Daemon(probe("ebpf-c11", "ebpf-d*"), folder, way) as daemon,
    ):
        mode = "clsact" if way else "tcx"

        def on(*names: str) -> None:
            wanted = sorted(f"tc:{point}:{name} ({mode})" for name in names for point in ("ingress", "egress"))
            daemon.wait_for(lambda: hooks(daemon) == wanted, f"on {names}")

        def counts(frames: int) -> None:
            before = count(daemon.samples(), FRAMES)
            with pair.ports() as (here, there):
                there.send([frame(64)] * frames)
                here.receive(frames)
            assert count(daemon.samples(), FRAMES) - before == frames

        on("ebpf-c11")
        counts(3)
        pair.rename("ebpf-d1")
        on("ebpf-d1")
        counts(5)
        pair.rename("ebpf-e1")
        on()
        pair.rename("ebpf-d2")
        on("ebpf-d2")
        counts(7)
        ip("link", "del", "ebpf-d2")
        on()
        pair.create()
        on("ebpf-d2")
        counts(11)
        ip("link", "set", "ebpf-d2", "netns", elsewhere.namespace)
        on()
        ip("-n", elsewhere.namespace, "link", "set", "ebpf-d2", "netns", str(os.getpid()))
        ip("link", "set", "ebpf-d2", "up")
        on("ebpf-d2")
        counts(13)


@pytest.mark.anywhere
def test_many_interfaces(folder: Path, way: Sequence[str]) -> None:
    """134 hooks of 67 interfaces, each counts."""
    names = [f"ebpf-f{number}" for number in range(67)]
    ip("netns", "add", "ebpf-f-ns")
    try:
        batch(
            f"link add {name} type veth peer name {name} netns ebpf-f-ns\nlink set {name} addrgenmode none"
            for name in names
        )
        batch(f"link set {name} up" for name in names)
        inside("ebpf-f-ns", lambda: batch(f"link set {name} addrgenmode none up" for name in names))
        with Daemon(probe("ebpf-f*"), folder, way) as daemon:
            assert len(hooks(daemon)) == 134
            for number, name in enumerate(names):
                with closing(Port(name)) as here:
                    here.send([frame(64)] * (number + 1))
            samples = by(daemon.samples(), "interface", FRAMES, direction="out")
        assert samples == {name: number + 1 for number, name in enumerate(names)}
    finally:
        ip("netns", "del", "ebpf-f-ns")  # and the pairs with it


@pytest.mark.matrix
def test_doctor_sees_packets(folder: Path, way: Sequence[str]) -> None:
    """doctor attaches beside an exporter that runs, sees that the packets count which come, and leaves nothing."""
    config = folder / "config.yaml"
    config.write_text(json.dumps({"probe_folders": [str(folder)], "probes": probe("ebpf-c13")}))
    with link("ebpf-c13") as pair, Daemon(probe("ebpf-c13"), folder, way) as daemon, pair.ports() as (here, there):
        before = shown("ebpf-c13"), on_tcx("ebpf-c13", INGRESS) if not way else []
        command = [*way, str(COMMAND), "doctor", "--config", str(config), "--json", "--seconds", "600"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as doctor:
            frames = 0
            while doctor.poll() is None:  # it ends when its counters have moved
                there.send([frame(64)])
                here.receive(1)
                frames += 1
            assert doctor.stdout is not None
            [found] = json.loads(doctor.stdout.read())["probes"]
        assert (doctor.returncode, found["counters"]) == (0, "moved")
        assert found["mechanism"] == ("tc clsact" if way else "tc tcx")
        assert len(found["attachments"]) == 2
        assert (shown("ebpf-c13"), on_tcx("ebpf-c13", INGRESS) if not way else []) == before
        assert count(daemon.samples(), FRAMES) == frames
