# SPDX-License-Identifier: Apache-2.0
"""What we have of systemd and tell it: sockets by sd_listen_fds(3), how we are by sd_notify(3)."""

import logging
import math
import os
import socket
import time

from exporter.errors import StartError

SECONDS = 1.0  # for systemd to take what it is told: nobody may read it, and others wait for us
_FIRST_FD = 3

log = logging.getLogger(__name__)


def sockets() -> list[tuple[str, socket.socket]]:
    """Returns the listening sockets that systemd has passed, with their names; the second call returns none.

    Raises StartError where something else was passed.
    """
    pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():  # left over from who started us
        return []
    found = []
    for number in range(int(count)):
        name = [*names.split(":"), *[""] * number][number] or "unknown"
        try:
            one = socket.socket(fileno=_FIRST_FD + number)
            listens = one.type == socket.SOCK_STREAM and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            listens = False
        if not listens:
            raise StartError(f"systemd has passed {name!r}, which is no socket that listens for streams")
        one.set_inheritable(False)
        found.append((name, one))
    return found


def notify_reloading() -> None:
    """Says that the config is being read again; ``READY=1`` is its end (Type=notify-reload, since systemd 253, asks for
    the time)."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def notify(state: str) -> None:
    """Sends a state such as ``READY=1``; does nothing where systemd did not start us with Type=notify.

    That nobody hears it is logged and harms nothing.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.settimeout(SECONDS)
            out.connect("\0" + address[1:] if address.startswith("@") else address)
            out.sendall(state.encode())
    except OSError as error:
        log.warning("cannot tell systemd", extra={"state": state, "reason": error.strerror})


class Watchdog:
    """What systemd is told again and again where the unit has WatchdogSec=; left out too long, it starts us anew."""

    def __init__(self) -> None:
        """$WATCHDOG_USEC has the microseconds in which it is to be told, $WATCHDOG_PID who is to do so."""
        text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
        self._pause = int(text) / 2e6 if text.isdecimal() and int(text) and pid == str(os.getpid()) else math.inf
        self._well = True
        self.deadline = time.monotonic() if self._pause < math.inf else math.inf

    def tick(self, well: bool) -> None:
        """Tells it, if it is due and all is well."""
        now = time.monotonic()
        if now < self.deadline:
            return
        self.deadline = now + self._pause
        if well:
            notify("WATCHDOG=1")
        elif self._well:
            log.error("no read succeeds: systemd is not told any more that all is well")
        self._well = well
