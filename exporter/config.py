# SPDX-License-Identifier: Apache-2.0
"""config.yaml to frozen objects. ``SCHEMA`` is the one table of settings."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter import document
from exporter.document import Document
from exporter.errors import ConfigError, Problem
from exporter.probe import CPU_PERCENT, Probe
from exporter.rules import form

# Editors have these forms as well (generate/schemas.py): a pattern is one that ECMAScript reads in the same way.
# $(?!\n): to Python, unlike ECMAScript, $ also matches ahead of a last newline
NAME = {
    "type": "string",
    "pattern": r"^[a-z][a-z0-9_]*$(?!\n)",
    "description": "a name of small letters, digits and _",
}

PURPOSE: dict[str, Any] = {"type": "string", "minLength": 1, "description": "a sentence: what this probe counts"}

BPFTRACE: dict[str, Any] = {
    "bpftrace": {
        "type": "string",
        "minLength": 1,
        "description": "a bpftrace script: its file, such as opensnoop.bt, or its text, which has a { in it",
    },
    "label_names": {
        "type": "object",
        "additionalProperties": {
            "type": "array",
            "items": NAME,
            "uniqueItems": True,
            "description": "a list of label names, one for each part of the map's key",
        },
        "description": "labels by the script's maps, such as {opens: [comm, result]}",
    },
    "types": {
        "type": "object",
        "additionalProperties": {"enum": ["counter", "gauge", "none"]},
        "description": "types by the script's maps, such as {bytes: counter}; none shows no metric",
    },
}

_INTERFACE = "an interface, a glob, auto or containers"

SETTINGS: dict[str, Any] = {
    "labels": {"type": "array", "items": NAME, "uniqueItems": True, "description": "a list of label names"},
    "metrics": {
        "type": "array",
        "items": {"type": "string"},
        "uniqueItems": True,
        "minItems": 1,
        "description": "a list of metric names",
    },
    "max_series": {
        "type": "integer",
        "minimum": 1,
        "maximum": 10_000_000,
        "description": "a number of series from 1 to 10000000",
        "default": Probe.max_series,
    },
    "max_cpu_percent": {
        "type": "number",
        "minimum": 0,
        "maximum": 100_000,
        "description": "a percentage of one core, such as 5; 0 for no limit",
        "default": CPU_PERCENT,
    },
    "options": {
        "type": "object",
        "additionalProperties": {"type": ["boolean", "integer"], "description": "true, false or a number"},
        "description": "the probe's options, such as {all_files: true}",
    },
    "interfaces": {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 15, "description": _INTERFACE},
        "minItems": 1,
        "description": f"a list, each {_INTERFACE}",
    },
    "mode": {"enum": ["auto", "native", "generic"], "default": Probe.mode},
    "rules": form.SCHEMA,
    **BPFTRACE,
}

# a probe that the config itself declares; forms.py has its form
DECLARED: dict[str, Any] = {"type": "object", "required": ["attach"]}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "settings, such as probes:",
    "additionalProperties": False,
    "required": ["probes"],
    "properties": {
        "listen": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "string",
                "pattern": r"^(\[[0-9a-fA-F:.]+(%[A-Za-z0-9_.-]+)?\]|[A-Za-z0-9._-]*):[0-9]{1,5}$(?!\n)",
                "description": "HOST:PORT, such as localhost:9435, [::1]:9435 or :9435 for all addresses",
            },
            "description": "a list of addresses, such as [localhost:9435]",
            "default": ["localhost:9435"],
        },
        "interval": {
            "type": "string",
            "pattern": r"^[1-9][0-9]{0,5}(ms|s|m)$(?!\n)",
            "description": "a duration such as 500ms, 5s or 1m",
            "default": "5s",
        },
        "probe_folders": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "description": "a folder"},
            "description": "a list of folders",
            "default": [],
        },
        "web_config": {
            "type": ["string", "null"],
            "minLength": 1,
            "description": "a file, such as web.yml",
            "default": None,
        },
        "probes": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": NAME,
            "additionalProperties": {
                "if": DECLARED,
                "else": {
                    "type": ["object", "null"],
                    "additionalProperties": False,
                    "properties": SETTINGS,
                    "description": "the probe's settings, or {} for its defaults",
                },
            },
            "description": "the probes to run, such as {file_opens: {}}",
        },
    },
}


@dataclass(frozen=True)
class Settings:
    """What a config says of one probe; None where it says nothing."""

    labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    max_series: int | None = None
    max_cpu_percent: float | None = None
    options: tuple[tuple[str, int], ...] = ()
    interfaces: tuple[str, ...] | None = None
    mode: str | None = None
    rules: tuple[dict[str, Any], ...] | None = None
    bpftrace: str | None = None
    label_names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    types: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Config:
    """A config. interval in seconds. The document is kept for the lines of later problems.

    web_config is the file that says how clients are answered; None: in the clear, and everybody. declared has the
    probes that the config itself declares; they are in probes as well, with their settings.
    """

    document: Document
    listen: tuple[tuple[str, int], ...]
    interval: float
    probe_folders: tuple[Path, ...]
    web_config: Path | None = None
    probes: dict[str, Settings] = field(default_factory=dict)
    declared: dict[str, Document] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def load(path: Path) -> Config:
    """Reads config.yaml. Folders and files in it are relative to its own folder.

    What is of a wrong form is in the result's ``problems``, and left out of it, so that the rest can be looked at too;
    raises ConfigError where nothing can be.
    """
    found = document.read(path)
    problems = document.validate(found, SCHEMA)
    if not isinstance(found.value, dict):
        raise ConfigError(problems)

    top = SCHEMA["properties"]

    def good(key: str) -> Any:
        """What stands there, if it is of its form; else its default."""
        value = found.value.get(key)
        return value if key in found.value and document.fits(value, top[key]) else top[key]["default"]

    if document.fits(found.value.get("listen"), top["listen"]):
        problems.extend(_port_problems(found))
    probes = found.value.get("probes")
    web_config = good("web_config")
    return Config(
        document=found,
        listen=tuple(dict.fromkeys(map(_address, good("listen")))),
        interval=_seconds(good("interval")),
        probe_folders=tuple(path.parent / item for item in good("probe_folders")),
        web_config=path.parent / web_config if web_config is not None else None,
        probes={
            name: _settings(
                {key: item for key, item in (settings or {}).items() if _fits_setting(key, item)}
                if not document.fits(settings, DECLARED)
                else {}
            )
            for name, settings in (probes if isinstance(probes, dict) else {}).items()
            if document.fits(name, NAME) and (settings is None or isinstance(settings, dict))
        },
        declared={
            name: found.part(("probes", name))
            for name, value in (probes if isinstance(probes, dict) else {}).items()
            if document.fits(name, NAME) and document.fits(value, DECLARED)
        },
        problems=tuple(problems),
    )


def _fits_setting(key: str, value: object) -> bool:
    return key in SETTINGS and document.fits(value, SETTINGS[key])


def _port_problems(found: Document) -> list[Problem]:
    addresses = enumerate(found.value.get("listen", []))
    return [
        found.problem(("listen", index), f"expected a port from 1 to 65535, found {_address(text)[1]}")
        for index, text in addresses
        if not 1 <= _address(text)[1] <= 65535
    ]


def _address(text: str) -> tuple[str, int]:
    """``[::1]:9435`` -> ("::1", 9435)"""
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]  # the schema matched it
    return int(number) * {"ms": 0.001, "s": 1.0, "m": 60.0}[unit]


def _settings(value: dict[str, Any]) -> Settings:
    def listed(key: str) -> tuple[str, ...] | None:
        return tuple(value[key]) if key in value else None

    return Settings(
        labels=listed("labels"),
        metrics=listed("metrics"),
        max_series=value.get("max_series"),
        max_cpu_percent=value.get("max_cpu_percent"),
        options=tuple(value.get("options", {}).items()),
        interfaces=listed("interfaces"),
        mode=value.get("mode"),
        rules=tuple(value["rules"]) if "rules" in value else None,
        bpftrace=value.get("bpftrace"),
        label_names=tuple((name, tuple(labels)) for name, labels in value.get("label_names", {}).items()),
        types=tuple(value.get("types", {}).items()),
    )
