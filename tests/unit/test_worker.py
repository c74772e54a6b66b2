# SPDX-License-Identifier: Apache-2.0
"""worker.py: what it serves, by what it is told."""

import asyncio
import os
import socket
from unittest.mock import Mock

import pytest

from exporter.channel import Channel
from exporter.metrics.maps import Barrier
from exporter.web.settings import TLS, Settings
from exporter.worker import Configured, Listen, Start, Web, Worker


def test_no_address_is_served_without_what_is_meant_for_it() -> None:
    """Where new settings can't be applied the worker ends; an address that came with them is not served in the former
    way."""

    async def main(channel: Channel, first: socket.socket, new: socket.socket) -> None:
        worker = Worker(Start(Configured(10.0, 0.0), 0), channel, Mock(Barrier), [first])
        worker._take(Web(Settings()), [])
        worker._take(Web(Settings(tls=TLS(b"junk", b"junk"))), [])
        worker._take(Listen(), [os.dup(new.fileno())])
        with pytest.raises(OSError, match="PEM"):
            await asyncio.wait_for(worker._serve(), 30)
        [unserved] = worker._changes.get_nowait()  # type: ignore[misc]  # it is the sockets
        unserved.close()

    ours, theirs = Channel.pair()
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as new:
        asyncio.run(main(theirs, first, new))
    ours.close()
    theirs.close()
