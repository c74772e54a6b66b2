# SPDX-License-Identifier: Apache-2.0
"""Finds probes, reads their YAML and applies the config: a config and pairs of files in, frozen ``Probe``s out."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from exporter import document, kinds
from exporter.config import NAME, Config, Settings
from exporter.document import Document, Where, one_of
from exporter.errors import ConfigError, Problem
from exporter.probe import FAMILIES, Hook, Label, Mechanism, Metric, Probe, Program

_C_KEYWORDS = frozenset(
    "asm auto break case char const continue default do double else enum extern float for goto i386 if inline int "
    "linux long register restrict return short signed sizeof static struct switch typedef typeof union unix unsigned "
    "void volatile while".split()
)

SHIPPED = Path(__file__).resolve().parent.parent / "bpf"

_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "a list of labels and metrics"}
_HOOK_NAME = {
    "type": "string",
    "pattern": rf"^(({'|'.join(FAMILIES[:-1])}):\S+|xdp)$(?!\n)",
    "description": f"a hook such as tracepoint:sched:sched_process_exec; families: {', '.join(FAMILIES)}",
}
_HOOK = {
    "anyOf": [
        _HOOK_NAME,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["hook"],
            "properties": {"hook": _HOOK_NAME, "optional": {"type": "boolean"}},
        },
    ],
    "description": _HOOK_NAME["description"] + "; or {hook: …, optional: true}",
}
_HOOKS = {"type": "array", "items": _HOOK, "minItems": 1, "description": "a list of hooks"}
_PROGRAM = {
    "anyOf": [
        _HOOK_NAME,
        _HOOKS,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["hooks", "for"],
            "properties": {"hooks": _HOOKS, "for": _NAMES},
        },
    ],
    "description": f"{_HOOK_NAME['description']}; a list of such; or {{hooks: […], for: [label or metric]}}",
}
_MECHANISM = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": NAME,
    "additionalProperties": _PROGRAM,
    "description": "C functions with their hooks, such as {on_exec: tracepoint:sched:sched_process_exec}",
}
_KIND = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string", "pattern": r"^[a-z][a-z0-9_]*$(?!\n)"}, "minItems": 1},
    ],
    "description": f"a kind of label: {kinds.ALLOWED}",
}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "a probe: purpose, attach, metrics",
    "additionalProperties": False,
    "required": ["purpose", "attach", "metrics"],
    "properties": {
        "purpose": {"type": "string", "minLength": 1, "description": "a sentence: what this probe counts"},
        "attach": {
            "anyOf": [_MECHANISM, {"type": "array", "items": _MECHANISM, "minItems": 1}],
            "description": f"{_MECHANISM['description']}; or a list of such, tried in order",
        },
        "options": {
            "type": "object",
            "propertyNames": NAME,
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["default", "help"],
                "properties": {
                    "default": {"type": ["boolean", "integer"], "description": "true, false or a number"},
                    "help": {"type": "string"},
                },
            },
        },
        "metrics": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {
                "pattern": r"^ebpf_[a-z][a-z0-9_]*$(?!\n)",
                "description": "a metric's name: ebpf_ and then small letters, digits and _",
            },
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "help"],
                "properties": {
                    "type": {"enum": ["counter", "histogram"]},
                    "help": {"type": "string", "minLength": 1, "description": "a sentence"},
                    "default": {"type": "boolean", "description": "true or false"},
                    "scale": {"type": "number", "exclusiveMinimum": 0, "description": "a factor such as 1e-9"},
                    "exponents": {
                        "type": "array",
                        "items": {
                            "type": "integer",
                            "minimum": 0,
                            "maximum": 63,
                            "description": "a whole number from 0 to 63",
                        },
                        "minItems": 2,
                        "maxItems": 2,
                        "description": "[first, last] exponents of two for the buckets' bounds, from 0 to 63",
                    },
                    "labels": {
                        "type": "object",
                        "propertyNames": NAME,
                        "additionalProperties": {
                            "anyOf": [
                                *_KIND["anyOf"],
                                {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "required": ["kind"],
                                    "properties": {"kind": _KIND, "default": {"type": "boolean"}},
                                },
                            ],
                            "description": f"{_KIND['description']}; or {{kind: …, default: false}}",
                        },
                        "description": "labels with their kinds, such as {comm: comm}",
                    },
                },
            },
            "description": "metrics by their names",
        },
    },
}


def load(config: Config) -> list[Probe]:
    """Returns the config's probes, in its order.

    Raises ConfigError with all problems: of the config against the probes, and of the probes' own files.
    """
    probes: list[Probe] = []
    problems = [*config.problems, *_folder_problems(config)]
    found = available(config)
    for name, settings in config.probes.items():
        if name not in found:
            message = f"unknown probe; {one_of(name, sorted(found))}"
            problems.append(config.document.problem(("probes", name), message))
            continue
        problems.extend(_twice(config, name))
        try:
            probes.append(_apply(read(found[name]), settings, config.document, ("probes", name)))
        except ConfigError as error:
            problems.extend(error.problems)
    problems.extend(_family_clashes(probes))
    if problems:
        raise ConfigError(sorted(set(problems)))
    return probes


def available(config: Config) -> dict[str, Path]:
    """Returns the YAML file of every probe by name: the shipped ones, unless a folder of the config's has the name."""
    folders = [SHIPPED, *config.probe_folders]
    return {path.stem: path for folder in folders if _is_folder(folder) for path in sorted(folder.glob("*.yaml"))}


def _is_folder(folder: Path) -> bool:
    try:
        return any(True for _ in folder.iterdir()) or folder.is_dir()
    except OSError:  # not there, no folder, not to be read, or no name that can be
        return False


def _twice(config: Config, name: str) -> list[Problem]:
    """A probe of the config's folders takes the place of a shipped one; of two in such folders, none is the one."""
    found = [str(folder) for folder in config.probe_folders if (folder / f"{name}.yaml").exists()]
    if len(found) < 2:
        return []
    return [config.document.problem(("probes", name), f"is in more than one folder: {', '.join(found)}")]


def _family_clashes(probes: list[Probe]) -> list[Problem]:
    """Metrics whose lines would be taken for another's: by OpenMetrics ``ebpf_a_total`` is a line of the family
    ``ebpf_a``, and ``ebpf_a_count`` one of the histogram ``ebpf_a``."""
    problems: list[Problem] = []
    taken: dict[str, str] = {}
    for probe in probes:
        for metric in probe.metrics:
            family = metric.name.removesuffix("_total")
            suffixes = ("_bucket", "_sum", "_count") if metric.type == "histogram" else ("_total",)
            names = [family, family + "_created", *(family + suffix for suffix in suffixes)]
            other = next((taken[name] for name in names if name in taken), None)
            if other:
                problems.append(Problem(probe.declaration, 0, f"{metric.name} cannot be told from {other}: rename it"))
            elif metric.name.startswith("ebpf_exporter_"):
                problems.append(Problem(probe.declaration, 0, f"{metric.name}: ebpf_exporter_ is the exporter's own"))
            taken |= dict.fromkeys(names, f"{metric.name} of the probe {probe.name}")
    return problems


def _folder_problems(config: Config) -> list[Problem]:
    return [
        config.document.problem(("probe_folders", index), f"{folder} is not a folder that can be read"[:300])
        for index, folder in enumerate(config.probe_folders)
        if not _is_folder(folder)
    ]


def read(path: Path) -> Probe:
    """Reads a probe's pair of files, without a config's word. Raises ConfigError with every problem."""
    declared = document.read(path)
    problems = document.validate(declared, SCHEMA)
    if problems:
        raise ConfigError(problems)
    value = declared.value
    source = path.with_suffix(".c")
    metrics = tuple(_metric(declared, name, problems) for name in value["metrics"])
    attach = value["attach"] if isinstance(value["attach"], list) else [value["attach"]]
    probe = Probe(
        name=path.stem,
        purpose=" ".join(value["purpose"].split()),
        declaration=path,
        source=source,
        mechanisms=tuple(_mechanism(mechanism) for mechanism in attach),
        metrics=metrics,
        options=tuple((name, option["default"]) for name, option in value.get("options", {}).items()),
    )
    problems.extend(_clashes(probe, declared))
    problems.extend(_source_problems(probe, declared))
    if problems:
        raise ConfigError(problems)
    return probe


def _mechanism(value: dict[str, Any]) -> Mechanism:
    return Mechanism(tuple(_program(name, item) for name, item in value.items()))


def _program(name: str, value: Any) -> Program:
    needed_for = tuple(value["for"]) if isinstance(value, dict) else ()
    hooks = value["hooks"] if isinstance(value, dict) else value
    return Program(name, tuple(_hook(hook) for hook in ([hooks] if isinstance(hooks, str) else hooks)), needed_for)


def _hook(value: str | dict[str, Any]) -> Hook:
    name, optional = (value, False) if isinstance(value, str) else (value["hook"], value.get("optional", False))
    family, _, target = name.partition(":")
    return Hook(family, target, optional)


def _metric(declared: Document, name: str, problems: list[Problem]) -> Metric:
    """Reads one metric; what is wrong with it goes to problems."""
    value = declared.value["metrics"][name]
    where: Where = ("metrics", name)
    labels: list[Label] = []
    for label, spec in value.get("labels", {}).items():
        kind, default = (spec["kind"], spec.get("default", True)) if isinstance(spec, dict) else (spec, True)
        try:
            labels.append(Label(label, kinds.parse(kind), default))
        except ValueError as error:
            problems.append(declared.problem((*where, "labels", label), str(error)))
    histogram = value["type"] == "histogram"
    if histogram != ("exponents" in value):
        message = "a histogram needs exponents: [first, last]" if histogram else "exponents are for histograms"
        problems.append(declared.problem(where, message))
    first, last = value.get("exponents", (0, 0))
    if not math.isfinite(value.get("scale", 1.0)):
        problems.append(declared.problem((*where, "scale"), "expected a factor such as 1e-9"))
    if first > last:
        problems.append(declared.problem((*where, "exponents"), "the first is above the last"))
    if name.endswith("_total") != (value["type"] == "counter"):
        problems.append(declared.problem(where, "the name of a counter, and of nothing else, ends in _total"))
    return Metric(
        name=name,
        type=value["type"],
        help=" ".join(value["help"].split()),
        labels=tuple(labels),
        chosen=value.get("default", True),
        scale=float(value.get("scale", 1.0)),
        exponents=(first, last),
    )


def _clashes(probe: Probe, declared: Document) -> list[Problem]:
    """What would only be an error in generated C, which nobody wrote: names that are taken there."""
    problems: list[Problem] = []
    shorts: dict[str, str] = {}
    values: dict[str, tuple[str, ...]] = {}
    for metric in probe.metrics:
        where: Where = ("metrics", metric.name)
        other = shorts.setdefault(metric.short_name, metric.name)
        if other != metric.name:
            problems.append(declared.problem(where, f"in C both this and {other} are {metric.short_name}: rename one"))
        for label in metric.labels:
            place = (*where, "labels", label.name)
            if label.name in _C_KEYWORDS:
                problems.append(declared.problem(place, "is a word of C: no field of a key can have this name"))
            if label.name == "le" or (label.name == "bucket" and metric.type == "histogram"):
                problems.append(declared.problem(place, "is the name of a histogram's own label"))
            if label.kind.values and values.setdefault(label.name, label.kind.values) != label.kind.values:
                problems.append(declared.problem(place, "has other values than a label of this name above"))
    return problems


def _source_problems(probe: Probe, declared: Document) -> list[Problem]:
    """Compares the YAML with the C as far as that is possible without a compiler."""
    try:
        c = probe.source.read_text(errors="replace")
    except OSError as error:
        return [Problem(probe.source, 0, f"cannot be read: {error.strerror}; it is the C of {declared.path}")]
    names = {metric.name for metric in probe.metrics} | {
        label.name for metric in probe.metrics for label in metric.labels
    }
    listed = isinstance(declared.value["attach"], list)
    problems: list[Problem] = []
    for index, mechanism in enumerate(probe.mechanisms):
        for program in mechanism.programs:
            where: Where = ("attach", index, program.name) if listed else ("attach", program.name)
            if not re.search(rf"\b{program.name}\b\s*[(,]", c):
                problems.append(declared.problem(where, f"{probe.source} has no function of this name"))
            for name in program.needed_for:
                if name not in names:
                    problems.append(declared.problem((*where, "for"), f"{name!r}: {one_of(name, sorted(names))}"))
    return problems


def _apply(probe: Probe, settings: Settings, config: Document, where: Where) -> Probe:
    """Returns a probe as the config wants it. Raises ConfigError for what the config names and the probe lacks."""
    problems: list[Problem] = []

    def check(key: str, wanted: tuple[str, ...], allowed: list[str]) -> None:
        for index, name in enumerate(wanted):
            if name not in allowed:
                place = (*where, key, name if key == "options" else index)
                problems.append(config.problem(place, f"{name!r} is not of {probe.name}; {one_of(name, allowed)}"))

    metrics = probe.metrics
    labels = list(dict.fromkeys(label.name for metric in metrics for label in metric.labels))
    if settings.labels is not None:
        check("labels", settings.labels, labels)
        metrics = tuple(
            dataclasses.replace(
                metric,
                labels=tuple(
                    dataclasses.replace(label, chosen=label.name in settings.labels) for label in metric.labels
                ),
            )
            for metric in metrics
        )
    if settings.metrics is not None:
        check("metrics", settings.metrics, [metric.name for metric in metrics])
        metrics = tuple(dataclasses.replace(metric, chosen=metric.name in settings.metrics) for metric in metrics)
    options = dict(probe.options)
    check("options", tuple(name for name, _ in settings.options), list(options))
    for name, number in settings.options:
        boolean = isinstance(options.get(name), bool)
        if name in options and (isinstance(number, bool) != boolean or not -(2**31) <= number < 2**31):
            expected = "true or false" if boolean else "a whole number of 32 bits"
            problems.append(config.problem((*where, "options", name), f"expected {expected}, found {number!r}"[:200]))
    options.update(settings.options)
    xdp = any(hook.family == "xdp" for item in probe.mechanisms for program in item.programs for hook in program.hooks)
    for key in ("interfaces", "mode"):
        if getattr(settings, key) is not None and not xdp:
            problems.append(config.problem((*where, key), f"{probe.name} is not attached to interfaces"))
    if problems:
        raise ConfigError(problems)
    return dataclasses.replace(
        probe,
        metrics=metrics,
        options=tuple((name, int(number)) for name, number in options.items()),
        max_series=settings.max_series or probe.max_series,
        interfaces=(settings.interfaces or ("auto",)) if xdp else (),
        mode=settings.mode or probe.mode,
    )
