# SPDX-License-Identifier: Apache-2.0
"""Asks an exporter, by HTTP: one connection, which is made again when it has ended."""

import base64
import http.client
import json
import socket
import ssl
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError, one_line, one_of
from exporter.top import answers
from exporter.top.answers import Probes, Series
from exporter.top.place import Place

SECONDS = 10.0  # for an exporter to answer
_MOST_BYTES = 64 << 20  # of an answer; an exporter sends no more either


class Unanswered(ExporterError):
    """An exporter does not answer, or not as one does."""


class NoProbe(Unanswered):
    """The exporter answers, and has no such probe."""


@dataclass(frozen=True)
class Trust:
    """Files of PEM: the CAs that are trusted (None: the host's), and a certificate of one's own with its key."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises Unanswered where a file can't be read."""
        read: Path | None = None
        try:
            read = self.ca
            context = ssl.create_default_context(cafile=self.ca)
            read = self.certificate
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            raise Unanswered(f"{read}: no certificate and key as PEM: {error.reason or error}") from error
        except OSError as error:
            raise Unanswered(f"{read}: cannot be read: {error.strerror}") from error
        return context


class _UnixConnection(http.client.HTTPConnection):
    """HTTP by a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


class Client:
    """Asks one exporter. To be used by one thread at a time."""

    def __init__(self, place: Place, password: str = "", trust: Trust | None = None) -> None:
        """Raises Unanswered where what is trusted can't be read."""
        self.place = place
        self._base = place.path if place.scheme != "unix" else ""
        self._headers = {"User-Agent": "ebpf-exporter-top", "Accept": "application/json"}
        self._password = password
        if place.user:
            pair = base64.b64encode(f"{place.user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}"
        self._connection: http.client.HTTPConnection
        if place.scheme == "unix":
            self._connection = _UnixConnection(place.path)
        elif place.scheme == "https":
            context = (trust or Trust()).context()
            self._connection = http.client.HTTPSConnection(place.host, place.port, timeout=SECONDS, context=context)
        else:
            self._connection = http.client.HTTPConnection(place.host, place.port, timeout=SECONDS)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def probes(self) -> Probes:
        """Returns how all probes stand. Raises Unanswered."""
        try:
            return answers.probes(self._get("/probes"))
        except ValueError as error:
            raise self._foreign("/probes", error) from error

    def series(self, probe: str) -> Series:
        """Returns a probe's series. Raises Unanswered, and of that NoProbe."""
        try:
            path = f"/probes/{urllib.parse.quote(probe, safe='')}"
        except UnicodeEncodeError:
            raise Unanswered(f"no probe can have the name {probe!r}: it is no text") from None
        try:
            return answers.series(self._get(path))
        except ValueError as error:
            raise self._foreign(path, error) from error
        except NoProbe:
            names = [one.name for one in self.probes().probes]  # that there is none, if it is no exporter either
            raise NoProbe(f"{self.place} has no probe {probe!r}; {one_of(probe, names)}") from None

    def _foreign(self, path: str, error: Exception) -> Unanswered:
        return Unanswered(
            f"{self.place}{path} is not what an exporter of this version answers ({one_line(str(error))})"
        )

    def _get(self, path: str) -> Any:
        """Returns an answer as JSON has it. Raises Unanswered, and ValueError where it is no JSON."""
        fresh = self._connection.sock is None
        try:
            status, reason, body = self._exchange(path)
        except (ConnectionError, http.client.HTTPException) as error:
            self._connection.close()
            if fresh:
                raise self._unanswered(error) from error
            return self._get(path)  # what was idle for too long has been closed
        except (OSError, UnicodeError) as error:  # the latter: of a host's name
            self._connection.close()
            raise self._unanswered(error) from error
        if status != http.HTTPStatus.OK:
            raise self._refused(status, reason, path)
        if len(body) > _MOST_BYTES:
            self._connection.close()
            raise Unanswered(f"{self.place}{path} is larger than {_MOST_BYTES} bytes")
        try:
            return json.loads(body)
        except RecursionError as error:
            raise ValueError("too deep") from error

    def _exchange(self, path: str) -> tuple[int, str, bytes]:
        self._connection.request("GET", self._base + path, headers=self._headers)
        response = self._connection.getresponse()
        return response.status, response.reason, response.read(_MOST_BYTES + 1)

    def _refused(self, status: int, reason: str, path: str) -> Unanswered:
        if status == http.HTTPStatus.UNAUTHORIZED:
            if self.place.user:
                return Unanswered(f"{self.place} does not take this password of {one_line(self.place.user)!r}")
            return Unanswered(f"{self.place} wants a user: --url https://USER@HOST:PORT --password-file FILE")
        if status == http.HTTPStatus.NOT_FOUND and path != "/probes":
            return NoProbe(path)
        hint = "; does it speak TLS? https://" if status == 400 and self.place.scheme == "http" else ""
        return Unanswered(f"{self.place} answers {status} {one_line(reason)}{hint}")

    def _unanswered(self, error: Exception) -> Unanswered:
        return Unanswered(f"{self.place} does not answer: {_why(error)}")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came within {SECONDS:.0f} s"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return f"{error.strerror}; is the exporter running?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; --ca-file names a CA that is"
    if isinstance(error, ssl.SSLError):
        hint = "; does it speak HTTP? http://" if error.reason == "WRONG_VERSION_NUMBER" else ""
        return f"TLS: {error.reason}{hint}"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed"
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
