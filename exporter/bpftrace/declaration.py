# SPDX-License-Identifier: Apache-2.0
"""From what a config or a probe's YAML says of a bpftrace script to a ``Probe``."""

import dataclasses
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter import document, kinds
from exporter.bpftrace import script
from exporter.bpftrace.script import OWN_MAP, Use
from exporter.config import BPFTRACE, PURPOSE, Settings
from exporter.document import MAX_BYTES, Document, Where
from exporter.errors import ConfigError, Problem, one_of
from exporter.probe import Label, Metric, Probe, Script, ScriptMap

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "a probe: purpose, bpftrace",
    "additionalProperties": False,
    "required": ["purpose", "bpftrace"],
    "properties": {
        "purpose": PURPOSE,
        **BPFTRACE,
    },
}
_KIND = kinds.parse(f"string({kinds.MAX_STRING})")


def of_config(name: str, settings: Settings, config: Document) -> Probe:
    """Returns the probe that a config declares with ``bpftrace:``. Raises ConfigError with every problem."""
    assert settings.bpftrace is not None
    where: Where = ("probes", name)
    found = _script(name, settings.bpftrace, config, where, dict(settings.label_names), dict(settings.types))
    purpose = f"The bpftrace script {found.file}."
    probe = Probe(name, purpose, config.path, found.folder / found.file, (), _metrics(found), script=found)
    return apply(probe, dataclasses.replace(settings, label_names=(), types=()), config, where)


def of_file(declared: Document) -> Probe:
    """Returns the probe of a YAML file with ``bpftrace:`` in it. Raises ConfigError with every problem."""
    problems = document.validate(declared, SCHEMA)
    if problems:
        raise ConfigError(problems)
    value, name = declared.value, declared.path.stem
    labels = {map_: tuple(names) for map_, names in value.get("label_names", {}).items()}
    found = _script(name, value["bpftrace"], declared, (), labels, value.get("types", {}))
    purpose = " ".join(value["purpose"].split())
    return Probe(name, purpose, declared.path, found.folder / found.file, (), _metrics(found), script=found)


def apply(probe: Probe, settings: Settings, config: Document, where: Where) -> Probe:
    """Returns a probe as the config wants it. Raises ConfigError for settings that are not for scripts."""
    assert probe.script is not None
    problems = [
        config.problem((*where, key), f"{probe.name} is a bpftrace script: this is not for it")
        for key in ("labels", "options", "interfaces", "mode", "max_cpu_percent")
        if getattr(settings, key)
    ]
    problems += [
        config.problem((*where, key), f"stands in {probe.declaration}")
        for key in ("label_names", "types")
        if getattr(settings, key)
    ]
    metrics, maps = probe.metrics, probe.script.maps
    if settings.metrics is not None:
        names = [metric.name for metric in metrics]
        for index, name in enumerate(settings.metrics):
            if name not in names:
                message = f"{name!r} is not of {probe.name}; {one_of(name, names)}"
                problems.append(config.problem((*where, "metrics", index), message))
        metrics = tuple(metric for metric in metrics if metric.name in settings.metrics)
        maps = tuple(map_ for map_ in maps if map_.metric.name in settings.metrics)
    if problems:
        raise ConfigError(problems)
    return dataclasses.replace(
        probe,
        metrics=metrics,
        max_series=settings.max_series or probe.max_series,
        script=dataclasses.replace(probe.script, maps=maps),
    )


def _metrics(found: Script) -> tuple[Metric, ...]:
    return tuple(map_.metric for map_ in found.maps)


def _script(
    name: str,
    written: str,
    declared: Document,
    where: Where,
    labels: Mapping[str, tuple[str, ...]],
    types: Mapping[str, str],
) -> Script:
    text, path = _read(name, written, declared, where)
    file = path.name
    uses = script.maps(text)
    problems: list[Problem] = []
    if OWN_MAP in uses:
        problems.append(declared.problem((*where, "bpftrace"), f"the map {OWN_MAP} is the exporter's own: rename it"))
    known = [map_.removeprefix("@") for map_ in uses]
    for key, named in (("label_names", labels), ("types", types)):
        problems += [
            declared.problem((*where, key, map_), f"{file} has no such map; {one_of(map_, known)}")
            for map_ in named
            if map_.removeprefix("@") not in known
        ]
    maps: list[ScriptMap] = []
    for map_, use in uses.items():
        given = labels.get(map_.removeprefix("@"), labels.get(map_))
        wanted = types.get(map_.removeprefix("@"), types.get(map_, use.type))
        spelled = map_ if map_ in labels or map_ in types else map_.removeprefix("@")
        problems += [
            declared.problem((*where, key, spelled), f"{map_} {message}")
            for key, message in _faults(use, given, types.get(spelled))
        ]
        if wanted != "none" and map_ != OWN_MAP:
            maps.append(ScriptMap(map_, _metric(name, map_, use, wanted, given, file), use.texts, use.deleted))
    if not maps and not problems:
        problems.append(declared.problem((*where, "bpftrace"), f"{file} has no map to show, such as @opens = count()"))
    if problems:
        raise ConfigError(problems)
    return Script(text, file, path.resolve().parent, tuple(maps), script.ends(text))


def _read(name: str, written: str, declared: Document, where: Where) -> tuple[str, Path]:
    """Returns a script's text and its path. What has a brace in it is a script, all else a file's name."""
    if "{" in written:
        return written, declared.path.parent / f"{name}.bt"
    path = declared.path.parent / written
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: that of a FIFO waits, of /dev/zero has no end
            raise ConfigError([declared.problem((*where, "bpftrace"), f"{path} is no regular file")])
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([declared.problem((*where, "bpftrace"), f"{path} cannot be read: {reason}")]) from error
    if len(data) > MAX_BYTES or b"\0" in data:
        raise ConfigError([declared.problem((*where, "bpftrace"), f"{path} is no bpftrace script")])
    return data.decode("utf-8", "surrogateescape"), path


def _faults(use: Use, labels: tuple[str, ...] | None, wanted: str | None) -> list[tuple[str, str]]:
    """What is wrong with the labels and the type that are wanted of a map: the setting, and the words."""
    faults: list[tuple[str, str]] = []
    if labels is not None and len(labels) != len(use.parts):
        faults.append(("label_names", f"has a key of {len(use.parts)} parts, and here are {len(labels)} names"))
    if labels and {"le", "quantile"}.intersection(labels):
        faults.append(("label_names", "can't have a label le or quantile: these are of histograms and summaries"))
    if wanted in ("counter", "gauge") and use.type in ("histogram", "summary"):
        faults.append(("types", f"is a {use.type} by {use.words}"))
    return faults


def _metric(probe: str, map_: str, use: Use, wanted: str, labels: tuple[str, ...] | None, file: str) -> Metric:
    """``@opens = count()`` of the probe io -> ``ebpf_bpftrace_io_opens_total``"""
    base = f"ebpf_bpftrace_{probe}{map_.replace('@', '_') if len(map_) > 1 else ''}".removesuffix("_total")
    if labels is None:
        count = len(use.parts)
        labels = ("key",) if count == 1 else tuple(f"key{number + 1}" for number in range(count))
    return Metric(
        name=base + ("_total" if wanted == "counter" else ""),
        type=wanted,
        help=f"{map_} of the bpftrace script {file}: {use.words}.",
        labels=tuple(Label(label, _KIND) for label in labels),
    )
