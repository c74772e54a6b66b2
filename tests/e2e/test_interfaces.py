# SPDX-License-Identifier: Apache-2.0
"""Reloads of what is on interfaces: no packet passes between what was there and what comes."""

import functools
from collections.abc import Sequence
from pathlib import Path

from tests.kernel.daemon import Daemon, count, meanwhile
from tests.kernel.tc import way
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
    with link("ebpf-r0") as pair, pair.ports() as (here, there):
        wanted = probe("ebpf-r0", drop=True)
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
            assert hooks == ["tc:ingress:ebpf-r0", "tc:egress:ebpf-r0"]
        here.send([frame(64)] * 3)
        assert len(there.receive(3)) == 3
