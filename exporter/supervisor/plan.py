# SPDX-License-Identifier: Apache-2.0
"""What a config asks for, with its probes."""

from dataclasses import dataclass
from pathlib import Path

from exporter.child import Child
from exporter.errors import ConfigError
from exporter.probe import Probe
from exporter.rules import connections, safety
from exporter.rules.safety import Danger
from exporter.web.files import Read


@dataclass(frozen=True)
class Plan:
    """All that a config asks for.

    interval is in seconds; dangers are what its rules would cut off here; web is None where there is no web config.
    """

    listen: tuple[tuple[str, int], ...]
    interval: float
    probes: tuple[Probe, ...]
    dangers: tuple[Danger, ...] = ()
    web: Read | None = None


def read(path: Path) -> Plan:
    """Reads a config and its probes in a process of its own. Raises ConfigError with every problem."""
    return begin(path).result()[0]


def begin(path: Path) -> Child[Plan]:
    """Begins to read a config. What it is, or what ``read`` raises, is the child's result."""
    return Child(_read, path)


def _read(path: Path) -> tuple[Plan, list[int]]:
    from exporter import catalog, config  # with PyYAML and jsonschema, which the daemon need not keep
    from exporter.web import config as web_config

    found = config.load(path)
    web = web_config.read(found.web_config) if found.web_config is not None else None
    problems = list(web.problems) if web is not None else []
    try:
        probes = tuple(catalog.load(found))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(sorted(problems))
    return Plan(found.listen, found.interval, probes, _dangers(found.listen, probes), web), []


def _dangers(listen: tuple[tuple[str, int], ...], probes: tuple[Probe, ...]) -> tuple[Danger, ...]:
    if not any(probe.rules for probe in probes):
        return ()
    host = connections.here()
    return tuple(danger for probe in probes for danger in safety.dangers(probe, listen, host))
