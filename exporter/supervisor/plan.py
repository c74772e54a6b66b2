# SPDX-License-Identifier: Apache-2.0
"""What a config asks for, with its probes."""

from dataclasses import dataclass
from pathlib import Path

from exporter.child import Child
from exporter.probe import Probe
from exporter.rules import connections, safety
from exporter.rules.safety import Danger


@dataclass(frozen=True)
class Plan:
    """All that a config asks for. interval in seconds. dangers are what its rules would cut off here."""

    listen: tuple[tuple[str, int], ...]
    interval: float
    probes: tuple[Probe, ...]
    dangers: tuple[Danger, ...] = ()


def read(path: Path) -> Plan:
    """Reads a config and its probes in a process of its own. Raises ConfigError with every problem."""
    return begin(path).result()[0]


def begin(path: Path) -> Child[Plan]:
    """Begins to read a config. What it is, or what ``read`` raises, is the child's result."""
    return Child(_read, path)


def _read(path: Path) -> tuple[Plan, list[int]]:
    from exporter import catalog, config  # with PyYAML and jsonschema, which the daemon need not keep

    found = config.load(path)
    probes = tuple(catalog.load(found))
    return Plan(found.listen, found.interval, probes, _dangers(found.listen, probes)), []


def _dangers(listen: tuple[tuple[str, int], ...], probes: tuple[Probe, ...]) -> tuple[Danger, ...]:
    if not any(probe.rules for probe in probes):
        return ()
    host = connections.here()
    return tuple(danger for probe in probes for danger in safety.dangers(probe, listen, host))
