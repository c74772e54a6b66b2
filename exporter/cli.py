# SPDX-License-Identifier: Apache-2.0
"""The commands. The only place that exits, and that turns errors into words."""

import argparse
import logging
import sys
from pathlib import Path
from typing import NoReturn

from exporter import __version__, supervisor
from exporter.errors import ConfigError, ExporterError

DEFAULT_CONFIG = Path("/etc/ebpf-exporter/config.yaml")


def main() -> NoReturn:
    """Runs the command that sys.argv names. Exits with 0, or with 1 after an error and 2 after a wrong use."""
    parser = argparse.ArgumentParser(
        prog="ebpf-exporter", description="Counts in the kernel with eBPF; serves Prometheus metrics."
    )
    parser.add_argument("--version", action="version", version=f"ebpf-exporter {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("run", "start the probes of a config and serve their metrics"),
        ("check", "look for errors in a config and its probes, without touching the kernel"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        wanted = supervisor.plan(arguments.config)
        if arguments.command == "check":
            print(f"{arguments.config}: good: {', '.join(probe.name for probe in wanted.probes)}")
        else:
            supervisor.Supervisor(wanted).run()
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except ExporterError as error:
        print(f"ebpf-exporter: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
