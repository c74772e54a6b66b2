# SPDX-License-Identifier: Apache-2.0
"""``ebpf-exporter top``, from its options to its end."""

import getpass
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import one_line, one_of
from exporter.top import place, plain, screen
from exporter.top.client import Client, NoProbe, Trust, Unanswered
from exporter.top.place import Place
from exporter.top.view import View


@dataclass(frozen=True)
class Options:
    """What was asked for. probe: empty for all; url: None for the exporter of the config; interval in seconds."""

    probe: str
    config: Path
    url: str | None
    interval: float
    password_file: Path | None
    trust: Trust
    once: bool
    json: bool


def run(options: Options) -> None:
    """Shows an exporter's probes, or prints them. Raises ExporterError where it does not answer at first."""
    where = place.of_url(options.url) if options.url is not None else place.of_config(options.config)
    client = Client(where, _password(where, options.password_file), options.trust)
    if options.json:
        print(plain.as_json(client, options.probe, options.interval), end="")
    elif options.once or not screen.usable():
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(plain.table(client, options.probe, options.interval, columns, sys.stdout.encoding), end="")
    else:
        shown = View(str(where), options.interval, options.probe)
        first = client.probes()
        names = [probe.name for probe in first.probes]
        if options.probe and options.probe not in names:
            raise NoProbe(f"{where} has no probe {options.probe!r}; {one_of(options.probe, names)}")
        shown.take(first)
        screen.run(shown, client)


def _password(where: Place, file: Path | None) -> str:
    if file is not None:
        if not where.user:
            raise Unanswered("--password-file wants a user: --url https://USER@HOST:PORT")
        try:
            return file.read_text().rstrip("\r\n")
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise Unanswered(f"{one_line(str(file))}: cannot be read: {why}") from error
    if not where.user:
        return ""
    if not sys.stdin.isatty():
        raise Unanswered(f"there is no terminal to ask for the password of {where.user!r}: use --password-file")
    try:
        return getpass.getpass(f"password of {one_line(where.user)} at {where}: ")
    except EOFError as error:
        raise Unanswered("no password was typed") from error
