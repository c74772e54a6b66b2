# SPDX-License-Identifier: Apache-2.0
"""The commands. The only place that exits, and that turns errors into words."""

import argparse
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from exporter import __version__, log
from exporter.errors import ConfigError, ExporterError, Problem, one_of

if TYPE_CHECKING:
    from exporter.supervisor.plan import Plan

DEFAULT_CONFIG = Path("/etc/ebpf-exporter/config.yaml")


def parser() -> argparse.ArgumentParser:
    """Returns the commands with their options."""
    parser = argparse.ArgumentParser(
        prog="ebpf-exporter", description="Counts in the kernel with eBPF; serves Prometheus metrics."
    )
    parser.add_argument("--version", action="version", version=f"ebpf-exporter {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("run", "start the probes of a config and serve their metrics; SIGHUP has it read the config again"),
        ("check", "look for errors in a config and its probes, and compare them with this kernel; nothing is loaded"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    commands.choices["run"].add_argument(
        "--log-format", choices=("text", "json"), default="text", help="of the lines on stderr (default: %(default)s)"
    )
    commands.choices["check"].add_argument(
        "--show-source", metavar="PROBE", help="print the whole C of a probe of the config, as it is compiled here"
    )
    command = commands.add_parser(
        "reload",
        help="have the exporter that runs read its config again",
        description="Have the exporter that runs with a config read it again, and its probes' files. Only what has"
        " changed is reloaded. Returns when all probes have started or failed, and tells what came of it. Exits with 1"
        " if the config is bad, in which case nothing was changed, or if no exporter runs.",
    )
    command.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    command = commands.add_parser(
        "list",
        help="list what a probe can be attached to here",
        description="List what a probe can be attached to on this host, one hook a line, as a probe's YAML names it.",
    )
    command.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="a glob of whole names ('tracepoint:tcp:*') or part of one; for a file 'uprobe:libc:get*', 'usdt:/FILE:*'",
    )
    command.add_argument("-v", "--verbose", action="store_true", help="and what each gives: fields, parameters, types")
    command = commands.add_parser(
        "doctor",
        help="attach every probe of a config here, and see whether it counts",
        description="Attach every probe of a config on this host, do one thing that each must count, and tell which do."
        " Exits with 1 if a probe fails, or does not count what it must.",
    )
    command.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    command.add_argument(
        "--seconds", type=_seconds, default=10.0, metavar="N", help="wait for a probe without a selftest (default: 10)"
    )
    command.add_argument("--json", action="store_true", help="print JSON, with all that the kernel said")
    command = commands.add_parser(
        "top",
        help="show live what probes count and cost",
        description="Show live, in a terminal, what the probes of an exporter that runs count and cost, or the series"
        " of one. Without a terminal, print it once. It needs no rights but to be answered.",
    )
    _add_top(command)
    return parser


def _add_top(command: argparse.ArgumentParser) -> None:
    command.add_argument("probe", nargs="?", default="", metavar="PROBE", help="show this one's series")
    command.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help="the exporter of this config, on this host (default: %(default)s)",
    )
    command.add_argument(
        "--url", metavar="URL", help="another exporter: http://HOST:PORT, https://USER@HOST:PORT, unix:/SOCKET"
    )
    command.add_argument(
        "--interval", type=_interval, default=2.0, metavar="N", help="seconds between two looks (default: 2)"
    )
    command.add_argument("--once", action="store_true", help="print it once, with rates over an interval")
    command.add_argument("--json", action="store_true", help="print it once, as JSON")
    for name, text in (
        ("--password-file", "has the password of the URL's user, who is asked for it otherwise"),
        ("--ca-file", "CAs that are trusted, as PEM; otherwise those of this host"),
        ("--cert-file", "a certificate of one's own, as PEM"),
        ("--key-file", "its key, if that is in another file"),
    ):
        command.add_argument(name, type=Path, metavar="FILE", help=text)


def main() -> NoReturn:
    """Runs the command that sys.argv names. Exits with 0, or with 1 after an error and 2 after a wrong use."""
    arguments = parser().parse_args()
    log.begin(getattr(arguments, "log_format", "text"))
    try:
        if arguments.command == "list":
            sys.exit(_list(arguments.pattern, arguments.verbose))
        if arguments.command == "reload":
            sys.exit(_reload(arguments.config))
        if arguments.command == "top":
            sys.exit(_top(arguments))
        from exporter.supervisor import plan

        wanted = plan.read(arguments.config)
        if arguments.command == "check":
            _check(arguments.config, wanted, arguments.show_source)
        elif arguments.command == "doctor":
            sys.exit(_doctor(wanted, arguments.seconds, arguments.json))
        else:
            from exporter.supervisor.loop import Supervisor

            Supervisor(wanted, arguments.config).run()
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except ExporterError as error:
        print(f"ebpf-exporter: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86400:  # nor is it NaN
        raise argparse.ArgumentTypeError(f"{text}: expected seconds, up to a day")
    return value


def _interval(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 3600:  # an exporter reads no more often
        raise argparse.ArgumentTypeError(f"{text}: expected seconds from 0.5 to 3600")
    return value


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """What is printed may be more than is wanted: `| head` has enough."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # Python would try to flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _list(pattern: str, verbose: bool) -> int:
    """Prints hooks; what else is to be said goes to stderr, so that a pipe has hooks alone. Returns the exit code."""
    from exporter.hooks import listing  # BTF's and ELF's readers, which the daemon's processes need not hold

    lines, notes = listing.lines(pattern, verbose)
    code = 1
    with _printing():
        for line in lines:
            code = 0
            print(line)
        sys.stdout.flush()
        for note in notes:
            print(note, file=sys.stderr)
    return code


def _check(config: Path, wanted: "Plan", shown: str | None) -> None:
    """Compares the probes with this host, and prints that they are good, or the C of one. Raises ConfigError."""
    from exporter.loader import here  # with BTF's and ELF's readers

    for remark in wanted.web.remarks if wanted.web is not None else ():
        print(f"warning: {remark}", file=sys.stderr)
    compared = {probe.name: here.compare(probe) for probe in wanted.probes}
    if problems := sorted({problem for one in compared.values() for problem in one.problems}):
        raise ConfigError(problems)
    for name, one in compared.items():
        for reason in one.absent if shown in (None, name) else ():
            print(f"warning: probe {name} would not run on this host: {reason}", file=sys.stderr)
    for danger in wanted.dangers if shown is None else ():
        print(f"warning: {danger}", file=sys.stderr)
    if unread := sorted({reason for one in compared.values() for reason in one.unread}):
        print(f"warning: not compared with this host: {'; '.join(unread)}", file=sys.stderr)
    if shown is None:
        print(f"{config}: good: {', '.join(compared)}")
        return
    probe = next((probe for probe in wanted.probes if probe.name == shown), None)
    if probe is None:
        raise ConfigError([Problem(config, 0, f"has no probe {shown!r}; {one_of(shown, list(compared))}")])
    text, remarks = here.source(probe)
    for remark in remarks:
        print(f"warning: {remark}", file=sys.stderr)
    sys.stdout.flush()
    # a script may have bytes that are no UTF-8
    sys.stdout.buffer.write((text if text.endswith("\n") else f"{text}\n").encode("utf-8", "surrogateescape"))


def _reload(config: Path) -> int:
    """Prints what came of a reload. Returns the exit code."""
    from exporter.supervisor import control

    answer = control.ask(config)
    for line in answer.lines:
        print(line, file=sys.stdout if answer.good else sys.stderr)
    for warning in answer.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0 if answer.good else 1


def _doctor(wanted: "Plan", seconds: float, as_json: bool) -> int:
    """Prints what each probe does here. Returns the exit code."""
    from exporter import doctor

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: what it started ends with it
    found = doctor.examine(wanted, seconds)
    print(doctor.as_json(found) if as_json else doctor.table(found, shutil.get_terminal_size((100, 24)).columns))
    return 0 if all(one.good for one in found) else 1


def _top(arguments: argparse.Namespace) -> int:
    """Shows or prints what an exporter tells. Returns the exit code."""
    from exporter.top import client, command  # with curses, and a client of HTTP

    options = command.Options(
        probe=arguments.probe,
        config=arguments.config,
        url=arguments.url,
        interval=arguments.interval,
        password_file=arguments.password_file,
        trust=client.Trust(arguments.ca_file, arguments.cert_file, arguments.key_file),
        once=arguments.once,
        json=arguments.json,
    )
    with _printing():
        command.run(options)
    return 0
