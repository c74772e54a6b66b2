# SPDX-License-Identifier: Apache-2.0
"""Tells systemd how we are: sd_notify(3), a datagram to the socket that $NOTIFY_SOCKET names."""

import logging
import os
import socket
import time

log = logging.getLogger(__name__)


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
            out.setblocking(False)  # nobody may read it, and others wait for us
            out.connect("\0" + address[1:] if address.startswith("@") else address)
            out.sendall(state.encode())
    except OSError as error:
        log.warning("cannot tell systemd", extra={"state": state, "reason": error.strerror})
