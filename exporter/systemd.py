# SPDX-License-Identifier: Apache-2.0
"""Tells systemd how we are: sd_notify(3), a datagram to the socket that $NOTIFY_SOCKET names."""

import os
import socket


def notify(state: str) -> None:
    """Sends a state such as ``READY=1``; does nothing where systemd did not start us with Type=notify."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.connect("\0" + address[1:] if address.startswith("@") else address)
        out.sendall(state.encode())
