# SPDX-License-Identifier: Apache-2.0
"""systemd.py: what reaches systemd's socket."""

import math
import os
import socket
import time
from pathlib import Path

import pytest

from exporter import systemd


def test_a_state_reaches_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is one datagram to the socket at the path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1")
        assert listening.recv(100) == b"READY=1"


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that begins with @ is one of the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses an abstract name
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + listening.getsockname()[1:].decode())
        systemd.notify("STOPPING=1")
        assert listening.recv(100) == b"STOPPING=1"


def test_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without $NOTIFY_SOCKET nothing is sent, and nothing fails."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(socket, "socket", None)
    systemd.notify("READY=1")


def test_a_socket_that_nobody_listens_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A left-over $NOTIFY_SOCKET, of a shell that a service started say, does not end the daemon."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    systemd.notify("READY=1")


def watchdog(monkeypatch: pytest.MonkeyPatch, told: list[str], **environment: str) -> systemd.Watchdog:
    """One that systemd asked for by its environment; told has what it is told."""
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(systemd, "notify", told.append)
    return systemd.Watchdog()


def test_the_watchdog_is_told_while_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, then when half its time is over; not while something is not well, and again after that."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told: list[str] = []
    one = watchdog(monkeypatch, told, WATCHDOG_USEC="20000000", WATCHDOG_PID=str(os.getpid()))
    for seconds, well, expected in ((0, True, 1), (9.9, True, 1), (0.1, True, 2), (10, False, 2), (10, True, 3)):
        now += seconds
        one.tick(well)
        assert told == ["WATCHDOG=1"] * expected
    assert one.deadline == now + 10


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}],
)
def test_a_watchdog_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Without WatchdogSec=, or where another process is to tell it, there is nothing to do."""
    told: list[str] = []
    one = watchdog(monkeypatch, told, **environment)
    one.tick(True)
    assert (told, one.deadline) == ([], math.inf)
