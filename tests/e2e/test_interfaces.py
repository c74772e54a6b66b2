# SPDX-License-Identifier: Apache-2.0
"""Reloads of what is on interfaces: no packet passes between what was there and what comes."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kernel.daemon import Daemon, count, meanwhile
from tests.kernel.tc import way
from tests.kernel.test_container_rules import IPV4, udp
from tests.kernel.test_container_rules import RULES as MET
from tests.kernel.test_tc import FRAMES, folder, probe
from tests.kernel.wires import frame, link

__all__ = ["folder", "way"]  # fixtures


LABELS = [["direction"], ["interface"], ["interface", "direction"]]


def shows(daemon: Daemon, labels: list[str]) -> bool:
    """Whether frames are on the page by these labels."""
    return [set(dict(found)) for name, found in daemon.samples() if name == FRAMES] == [set(labels)]


def test_a_reload_of_what_drops_lets_nothing_through(folder: Path, way: Sequence[str]) -> None:
    """A probe at TC that drops all frames has other labels after each of six reloads, and drops every frame all the
    time."""
    sent = 0
    came: list[bytes] = []
    with link("ebpf-w0") as pair, pair.ports() as (here, there):
        wanted = probe("ebpf-w0", drop=True)
        with Daemon(wanted, folder, way) as daemon:

            def send() -> None:
                nonlocal sent
                here.send([frame(64)])
                came.extend(there.receive(0))
                sent += 1

            with meanwhile(send):
                for labels in LABELS * 2:
                    wanted["frames"]["labels"] = labels
                    daemon.configure(wanted)
                    done = daemon.reload()
                    assert done.returncode == 0, done.stderr
                    daemon.wait_for(functools.partial(shows, daemon, labels), f"{labels}")
            assert came == []
            assert sent > 6
            before = count(daemon.samples(), FRAMES, direction="out")
            here.send([frame(64)] * 31)
            assert count(daemon.samples(), FRAMES, direction="out") - before == 31
            hooks = [hook.split()[0] for _, hook in daemon.status("frames")["attachments"]]
            assert hooks == ["tc:ingress:ebpf-w0", "tc:egress:ebpf-w0"]
        here.send([frame(64)] * 3)
        assert len(there.receive(3)) == 3


def test_a_reload_of_rules_lets_nothing_through_that_both_drop(way: Sequence[str]) -> None:
    """Datagrams to a port are dropped by other rules after each of six reloads, also by some that are for one container
    alone, and not one of them gets through."""
    sets: list[list[dict[str, Any]]] = [
        [{"name": "port", "action": "drop", "protocol": "udp", "destination_port": 25}],
        [{"name": "container", "action": "drop", "containers": ["ebpf-w1*"], "destination_port": [20, "25-30"]}],
        [{"name": "direction", "action": "drop", "direction": "ingress", "length": {"max": 100}}],
    ]
    came: list[bytes] = []
    with link("ebpf-w1") as pair, pair.ports() as (here, there):
        with Daemon({"container_net": {"rules": sets[2]}}, prefix=way) as daemon:

            def dropped_by(name: str) -> bool:
                return count(daemon.samples(), MET, rule=name, container="ebpf-w1-ns", direction="ingress") > 0

            def send() -> None:
                here.send([udp(25)])
                came.extend(there.receive(0, (IPV4,)))

            with meanwhile(send):
                daemon.wait_for(functools.partial(dropped_by, "direction"), "dropped")
                came.clear()  # of before it was attached
                for rules in sets * 2:
                    daemon.configure({"container_net": {"rules": rules}})
                    done = daemon.reload()
                    assert done.returncode == 0, done.stderr
                    daemon.wait_for(functools.partial(dropped_by, rules[0]["name"]), f"{rules}")
            assert came == []
        here.send([udp(25)] * 3)
        assert len(there.receive(3, (IPV4,))) == 3
