# SPDX-License-Identifier: Apache-2.0
"""web/stream.py: how a connection ends."""

import asyncio
import ssl
from collections.abc import Iterable
from unittest.mock import Mock

import pytest

from exporter.web import stream
from exporter.web.stream import Clear, Secure


def test_the_end_of_tls_waits_a_while_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a client that takes nothing of what is still to be said, no longer than for one that says no end."""
    monkeypatch.setattr(stream, "LINGER_SECONDS", 0.01)

    async def stuck(_: Iterable[bytes]) -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        secure = Secure(Mock(Clear, send=stuck), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        secure._outgoing.write(b"an alert")
        ending = asyncio.create_task(secure.end())
        done, _ = await asyncio.wait([ending], timeout=30)
        assert isinstance(done.pop().exception(), TimeoutError)

    asyncio.run(main())
