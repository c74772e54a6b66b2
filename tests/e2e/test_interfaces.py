# SPDX-License-Identifier: Apache-2.0
"""Reloads of what is on interfaces: no packet passes between what was there and what comes."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import decreased
from tests.kernel.daemon import Daemon, Samples, by, count, meanwhile
from tests.kernel.tc import way
from tests.kernel.test_container_rules import IPV4, udp
from tests.kernel.test_container_rules import RULES as MET
from tests.kernel.test_tc import FRAMES, folder, probe
from tests.kernel.wires import frame, link

__all__ = ["folder", "way"]  # fixtures


RUNS = "ebpf_exporter_program_run"
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


MAIL: dict[str, Any] = {"name": "mail", "action": "drop", "protocol": "udp", "destination_port": 25}
SEEN: dict[str, Any] = {"name": "seen", "action": "count", "protocol": "udp"}
WEB: dict[str, Any] = {"name": "web", "action": "drop", "protocol": "tcp", "destination_port": 80}
RULES: list[list[dict[str, Any]]] = [[SEEN, MAIL], [MAIL], [WEB, SEEN, MAIL], [MAIL, WEB]]


@pytest.mark.parametrize("name", ["xdp", "container_net"])
def test_other_rules_let_nothing_through_and_go_on_counting(name: str, way: Sequence[str]) -> None:
    """While rules change a dozen times, every frame that each of them drops is dropped and counted once, by the rule's
    name, and no counter ever goes back."""
    prefix, metric = {
        "xdp": ("ebpf_xdp_", "ebpf_xdp_rule_packets_total"),
        "container_net": ("ebpf_container_network_", "ebpf_container_network_rule_packets_total"),
    }[name]
    came: list[bytes] = []
    pages: list[Samples] = []
    with link("ebpf-r1") as pair, pair.ports() as (here, there):
        settings = {"interfaces": ["ebpf-r1"]}
        with Daemon({name: {**settings, "rules": RULES[-1]}}, prefix=way if name != "xdp" else ()) as daemon:

            def send() -> None:
                there.send([udp(25)])
                if name == "xdp":  # what TC drops has been seen by packet sockets before
                    came.extend(here.receive(0, (IPV4,)))

            with meanwhile(send), meanwhile(lambda: pages.append(daemon.samples())):
                for rules in RULES * 3:
                    daemon.configure({name: {**settings, "rules": rules}})
                    done = daemon.reload()
                    assert (done.returncode, done.stderr) == (0, "")
            arrived = pair.received()  # what the interface itself has dropped, as it was too busy, nobody has seen
            daemon.wait_for(lambda: count(daemon.samples(), metric, rule="mail") >= arrived, "all frames")
            last = daemon.samples()
    assert came == []
    assert count(last, metric, rule="mail") == arrived > len(RULES)
    assert 0 < count(last, metric, rule="seen") < arrived
    assert count(last, f"{prefix}packets_total", action="drop") == arrived
    counters = [{key: value for key, value in page.items() if key[0].startswith((prefix, RUNS))} for page in pages]
    assert [back for pair_ in itertools.pairwise(counters) if (back := decreased(*pair_))] == []


def test_more_names_than_there_is_room_for_begin_anew() -> None:
    """Of rules with so many names that maps have no room for them, the counts begin anew, and are right."""
    rules = [{"name": f"rule-{number}", "action": "count", "destination_port": number + 1} for number in range(600)]
    probes: dict[str, Any] = {"xdp": {"interfaces": ["ebpf-r2"], "rules": [MAIL]}}
    with link("ebpf-r2") as pair, pair.ports() as (_, there), Daemon(probes) as daemon:
        there.send([udp(25)] * 7)
        assert count(daemon.samples(), "ebpf_xdp_rule_packets_total", rule="mail") == 7
        probes["xdp"]["rules"] = [*rules, MAIL]
        daemon.configure(probes)
        assert daemon.reload().returncode == 0
        there.send([udp(25)] * 5)
        assert by(daemon.samples(), "rule", "ebpf_xdp_rule_packets_total") == {"mail": 5, "rule-24": 5}
