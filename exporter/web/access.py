# SPDX-License-Identifier: Apache-2.0
"""What a client has to bring before it is answered: a certificate, patience, a password."""

import base64
import binascii
import socket
import ssl
import time
from collections.abc import Mapping
from http import HTTPStatus

from exporter.web import tls
from exporter.web.passwords import Passwords
from exporter.web.response import Response, plain
from exporter.web.settings import RateLimit, Settings

_CHALLENGE = 'Basic realm="ebpf-exporter", charset="UTF-8"'


class Access:
    """Settings as they are applied. context is None where there is no TLS."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.context: ssl.SSLContext | None = None
        self._passwords = Passwords()
        self._bucket: _Bucket | None = None

    def use(self, settings: Settings) -> None:
        """These are the settings from now on. Raises OSError (ssl.SSLError), and changes nothing, if they are wrong."""
        context, bucket = self.context, self._bucket
        if settings.tls != self.settings.tls:
            context = tls.context(settings.tls) if settings.tls is not None else None
        if settings.rate_limit != self.settings.rate_limit:
            bucket = _Bucket(settings.rate_limit) if settings.rate_limit is not None else None
        self._passwords.use(settings.users)  # the last that can fail, and changes nothing then
        self.context, self._bucket, self.settings = context, bucket, settings

    def admits(self, names: list[tuple[str, str]]) -> bool:
        """Whether a client whose certificate has these subject alternative names may speak."""
        allowed = self.settings.tls.allowed_names if self.settings.tls is not None else ()
        return not allowed or any(_name(kind, value) in allowed for kind, value in names)

    async def refusal(self, headers: Mapping[str, str], client: bytes) -> Response | None:
        """Returns what a request is refused with; None: it may be answered."""
        if self._bucket is not None and not self._bucket.take():
            return plain(HTTPStatus.TOO_MANY_REQUESTS)
        if not self._passwords.wanted:
            return None
        found = _credentials(headers.get("authorization", ""))
        if found is not None and await self._passwords.right(*found, client):
            return None
        return plain(HTTPStatus.UNAUTHORIZED, WWW_Authenticate=_CHALLENGE)


def _name(kind: str, value: str) -> str:
    """As Go writes it: OpenSSL writes IPv6 addresses in full."""
    value = value.strip()
    if kind == "IP Address" and ":" in value:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, value))
    return value


def _credentials(authorization: str) -> tuple[bytes, bytes] | None:
    """``Basic YWxpY2U6c2VjcmV0`` -> (b"alice", b"secret"); RFC 7617"""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


class _Bucket:
    """Tokens, of which each request takes one."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._limit.burst, self._tokens + (now - self._at) / self._limit.interval)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
