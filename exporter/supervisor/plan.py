# SPDX-License-Identifier: Apache-2.0
"""What a config asks for, with its probes."""

from dataclasses import dataclass
from pathlib import Path

from exporter.child import isolated
from exporter.probe import Probe


@dataclass(frozen=True)
class Plan:
    """All that a config asks for. interval in seconds."""

    listen: tuple[tuple[str, int], ...]
    interval: float
    probes: tuple[Probe, ...]


def read(path: Path) -> Plan:
    """Reads a config and its probes in a process of its own. Raises ConfigError with every problem."""
    result = isolated(_read, path)
    assert isinstance(result, Plan)
    return result


def _read(path: Path) -> Plan:
    from exporter import catalog, config  # with PyYAML and jsonschema, which the daemon need not keep

    found = config.load(path)
    return Plan(found.listen, found.interval, tuple(catalog.load(found)))
