# SPDX-License-Identifier: Apache-2.0
"""Requests that are none: whole answers to each, and the next good one is answered."""

import asyncio
import random

from exporter.web.settings import Settings
from tests import malformed

from .support import GET, Connect, talk
from .test_passwords import USERS

REQUESTS = 1000  # tests/e2e has ten times as many for the daemon
KNOWN = {200, 400, 401, 404, 405, 413, 431, 501, 505}


def statuses(settings: Settings) -> set[int]:
    """Sends malformed requests, each on a connection of its own. Returns the statuses of all answers."""
    found: set[int] = set()
    source = random.Random(6)

    async def one(connect: Connect, data: bytes) -> None:
        client = await connect()
        client.send(data)
        client.end()
        received = await client.rest()
        got = malformed.answers(data, received)
        assert got or not data.strip(), (data, received)
        found.update(got)
        client.close()

    async def conversation(connect: Connect) -> bytes:
        for _ in range(REQUESTS // 20):
            await asyncio.gather(*(one(connect, malformed.request(source)) for _ in range(20)))
        client = await connect()
        client.send(GET)
        return (await client.answer()).body

    body = talk(conversation, settings=settings)
    assert body == (b"answer to /hello\n" if not settings.users else b"Unauthorized\n")
    return found


def test_malformed_requests() -> None:
    """Each is answered, wholly, with a status that fits; none is a fault of ours, and none harms the next."""
    found = statuses(Settings())
    assert found <= KNOWN
    assert found >= {200, 400, 405, 431, 501}


def test_malformed_requests_and_passwords() -> None:
    """Where users are wanted none of them gets in."""
    assert 200 not in statuses(Settings(users=USERS[:1]))
