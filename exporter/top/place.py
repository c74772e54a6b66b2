# SPDX-License-Identifier: Apache-2.0
"""Where an exporter is: a URL, or the config of one on this host."""

import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from exporter.child import Child
from exporter.errors import ConfigError, ExporterError, one_line

PORT = 9435


class BadPlace(ExporterError):
    """It cannot be known which exporter is meant."""


@dataclass(frozen=True)
class Place:
    """scheme is http, https or unix; of the last, path is the socket's, else what leads every path. user: or empty."""

    scheme: str
    host: str
    port: int
    path: str
    user: str = ""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return one_line(f"unix:{self.path}")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return one_line(f"{self.scheme}://{host}:{self.port}{self.path}")


def of_url(url: str) -> Place:
    """``https://alice@host:9435``, ``host:9435`` or ``unix:/run/FILE``. Raises BadPlace."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or "\0" in path:
            raise BadPlace(f"{one_line(url)}: expected a socket's path, such as unix:/run/ebpf-exporter.sock")
        return Place("unix", "localhost", 0, path)
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port or PORT
        if parts.scheme not in ("http", "https") or not host or not f"{host}{parts.path}".isprintable() or " " in host:
            raise ValueError
    except ValueError as error:  # ports, brackets
        shown = one_line(url.rpartition("@")[2])  # no password is shown
        raise BadPlace(f"{shown}: expected a URL such as http://localhost:{PORT}, or unix:/FILE") from error
    if parts.password is not None:
        raise BadPlace("a password on the command line is seen by everybody on this host: use --password-file")
    path = urllib.parse.quote(parts.path.rstrip("/"), safe="/%")
    return Place(parts.scheme, host, port, path, urllib.parse.unquote(parts.username or ""))


def of_config(config: Path) -> Place:
    """Returns where the exporter of a config listens on this host: at the first of its addresses. Raises BadPlace."""
    try:
        return Child(_of_config, config).result()[0]
    except ConfigError as error:
        raise BadPlace(f"{error.problems[0]}; --url names an exporter without its config") from error


def _of_config(path: Path) -> tuple[Place, list[int]]:
    from exporter import config, document  # with PyYAML and jsonschema

    found = config.load(path)
    host, port = found.listen[0]
    web = document.read(found.web_config).value if found.web_config is not None else None
    scheme = "https" if isinstance(web, dict) and "tls_server_config" in web else "http"
    return Place(scheme, {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, ""), []
