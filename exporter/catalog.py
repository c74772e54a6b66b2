# SPDX-License-Identifier: Apache-2.0
"""Finds probes, reads their YAML and applies the config: a config and pairs of files in, frozen ``Probe``s out."""

import dataclasses
import math
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from exporter import document, kinds
from exporter.bpftrace import declaration
from exporter.config import NAME, SETTINGS, Config, Settings
from exporter.document import Document, Where
from exporter.errors import CompileError, ConfigError, Problem, one_of
from exporter.expression import Expression, ExpressionError, Word
from exporter.grammar import parse
from exporter.hooks import events
from exporter.loader import context, script
from exporter.probe import (
    AUTO,
    FAMILIES,
    ON_INTERFACES,
    Hook,
    Label,
    Mechanism,
    Metric,
    Probe,
    Program,
    Selftest,
    numbered,
    powers_of_two,
)
from exporter.rules import form
from exporter.rules.rule import Rule

_C_KEYWORDS = frozenset(
    "asm auto break case char const continue default do double else enum extern float for goto i386 if inline int "
    "linux long register restrict return short signed sizeof static struct switch typedef typeof union unix unsigned "
    "void volatile while".split()
)

_HERE = Path(__file__).resolve().parent
# beside this package in a clone; within it in a wheel, which may put nothing elsewhere
SHIPPED = next(folder for folder in (_HERE / "bpf", _HERE.parent / "bpf") if folder.is_dir())

_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "a list of labels and metrics"}
_HOOK_NAME = {
    "type": "string",
    "pattern": rf"^(({'|'.join(FAMILIES[:-1])}):[^\s\x00-\x1f\x7f-\x9f\ufeff]+|xdp)$(?!\n)",
    "description": f"a hook such as tracepoint:sched:sched_process_exec; families: {', '.join(FAMILIES)}",
}
_HOOK = {
    "anyOf": [
        _HOOK_NAME,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["hook"],
            "properties": {"hook": _HOOK_NAME, "optional": {"type": "boolean", "default": False}},
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
_KIND_NAME = {"type": "string"}  # kinds.parse says which
_KIND = {
    "anyOf": [
        _KIND_NAME,
        {"type": "array", "items": {"type": "string", "pattern": r"^[a-z][a-z0-9_]*$(?!\n)"}, "minItems": 1},
    ],
    "description": f"a kind of label: {kinds.ALLOWED}",
}

_EXPRESSION = {
    "type": ["string", "integer"],
    "description": "an expression such as args.family == 2",
}
_SPAN = {
    "type": "object",
    "additionalProperties": False,
    "required": ["start", "end"],
    "properties": {"start": _HOOK_NAME, "end": _HOOK_NAME},
    "description": "{start: HOOK, end: HOOK}",
}
_EVENT = {"anyOf": [_HOOK_NAME, _SPAN], "description": f"{_HOOK_NAME['description']}; or {_SPAN['description']}"}

_COMMAND = {
    "type": "array",
    "minItems": 1,
    "prefixItems": [{"type": "string", "pattern": r"^[^\x00]+$(?!\n)", "description": "a program"}],
    "items": {"type": "string", "pattern": r"^[^\x00]*$(?!\n)", "description": "a word"},
    "description": "a command as a list of words, such as [/bin/true]: no shell runs it",
}
_SELFTEST = {
    "anyOf": [
        _COMMAND,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["command", "terminal"],
            "properties": {
                "command": _COMMAND,
                "terminal": {"type": "string", "description": "what is typed to it on a terminal"},
            },
        },
    ],
    "description": f"{_COMMAND['description']}; or {{command: […], terminal: what is typed}}",
}

_TEXT = {"type": "string", "minLength": 1, "description": "a sentence"}  # for people: the program does not read it


def _label(form: dict[str, Any], key: str) -> dict[str, Any]:
    """A label: what it is, or that with whether it is there by default."""
    described = {
        "type": "object",
        "additionalProperties": False,
        "required": [key],
        "properties": {key: form, "default": {"type": "boolean", "default": True}, "help": _TEXT},
    }
    return {
        "anyOf": [*form.get("anyOf", [form]), described],
        "description": f"{form['description']}; or {{{key}: …, default: false}}",
    }


def _declaration(
    attach: dict[str, Any], label: dict[str, Any], also: dict[str, Any], of_metrics: dict[str, Any]
) -> dict[str, Any]:
    """The form of a probe; also and of_metrics are what this sort of probe has besides."""
    return {
        "type": "object",
        "description": "a probe: purpose, attach, metrics",
        "additionalProperties": False,
        "required": ["attach", "metrics"],
        "properties": {
            "purpose": {"type": "string", "minLength": 1, "description": "a sentence: what this probe counts"},
            "cost": _TEXT,
            "limits": _TEXT,
            "questions": {
                "type": "object",
                "additionalProperties": _TEXT,
                "description": "questions that it answers, each with its PromQL",
            },
            "attach": {
                "anyOf": [*attach.get("anyOf", [attach]), {"type": "array", "items": attach, "minItems": 1}],
                "description": f"{attach['description']}; or a list of such, tried in order",
            },
            "max_series": SETTINGS["max_series"],
            "max_cpu_percent": SETTINGS["max_cpu_percent"],
            "selftest": _SELFTEST,
            "metrics": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {
                    "pattern": r"^ebpf_[a-z][a-z0-9_]*$(?!\n)",
                    "maxLength": 200,
                    "description": "a metric's name: ebpf_ and then small letters, digits and _",
                },
                "additionalProperties": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["type", "help"],
                    "properties": {
                        "type": {"enum": ["counter", "gauge", "histogram"]},
                        "help": {"type": "string", "minLength": 1, "description": "a sentence"},
                        "default": {"type": "boolean", "description": "true or false", "default": True},
                        "scale": {"type": "number", "exclusiveMinimum": 0, "description": "a factor such as 1.0e-9"},
                        "keep": {"enum": ["last", "max"], "default": "last"},
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
                        "bounds": {
                            "type": "array",
                            "items": {"type": "number", "minimum": 0, "description": "a number"},
                            "minItems": 1,
                            "maxItems": 60,
                            "description": "a list of up to 60 bounds in the metric's unit, such as [0.001, 0.01, 0.1]",
                        },
                        "labels": {
                            "type": "object",
                            "propertyNames": NAME,
                            "additionalProperties": label,
                            "description": "labels by their names, such as {comm: comm}",
                        },
                        **of_metrics,
                    },
                },
                "description": "metrics by their names",
            },
            **also,
        },
    }


_OPTIONS = {
    "type": "object",
    "description": "options by their names, such as {all_files: {default: false, help: A sentence.}}",
    "propertyNames": NAME,
    "additionalProperties": {
        "type": "object",
        "additionalProperties": False,
        "required": ["default", "help"],
        "properties": {
            "default": {"type": ["boolean", "integer"], "description": "true, false or a number"},
            "help": {"type": "string", "description": "a sentence"},
        },
    },
}
_SOURCE = {"type": "string", "pattern": r"^[^\x00]+$(?!\n)", "description": "a C file"}

# a probe whose programs are C, and one whose programs are expressions
_RULES = {"type": "string", "description": "the metric that counts packets by rule"}
_OF_C = {
    "options": _OPTIONS,
    "source": _SOURCE,
    "interfaces": SETTINGS["interfaces"],
    "mode": SETTINGS["mode"],
    "rules": _RULES,
}
# the parts of the forms that stand in several places, by names for a schema that refers to them
PARTS: dict[str, dict[str, Any]] = {
    "hook": _HOOK_NAME, "optional_hook": _HOOK, "hooks": _HOOKS, "program": _PROGRAM, "functions": _MECHANISM,
    "span": _SPAN, "kind": _KIND_NAME, "expression": _EXPRESSION, "command": _COMMAND,
}  # fmt: skip
IN_C = _declaration(_MECHANISM, _label(_KIND, "kind"), _OF_C, {})
IN_YAML = _declaration(_EVENT, _label(_EXPRESSION, "value"), {"where": _EXPRESSION}, {"value": _EXPRESSION})


def load(config: Config) -> list[Probe]:
    """Returns the config's probes, in its order.

    Raises ConfigError with all problems: of the config against the probes, and of the probes' own files.
    """
    probes: list[Probe] = []
    problems = [*config.problems, *_folder_problems(config)]
    found = available(config)
    for name, settings in config.probes.items():
        if name in config.declared or settings.bpftrace is not None:
            try:
                if settings.bpftrace is not None:
                    probes.append(declaration.of_config(name, settings, config.document))
                else:
                    probes.append(declared_probe(name, config.declared[name]))
            except ConfigError as error:
                problems.extend(error.problems)
            continue
        if name not in found:
            message = f"unknown probe; {one_of(name, sorted(found))}"
            problems.append(config.document.problem(("probes", name), message))
            continue
        problems.extend(_twice(config, name))
        try:
            probe = read(found[name])
            apply = declaration.apply if probe.script else _apply
            probes.append(apply(probe, settings, config.document, ("probes", name)))
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
            distribution = metric.type in ("histogram", "summary")
            suffixes = ("_bucket", "_sum", "_count") if distribution else ("_total",)
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
    """Reads a probe's YAML, and its C if it has one, without a config's word. Raises ConfigError with every problem."""
    declared = document.read(path)
    if isinstance(declared.value, dict) and "bpftrace" in declared.value:
        return declaration.of_file(declared)
    return declared_probe(path.stem, declared, path.with_suffix(".c"))


def declared_probe(name: str, declared: Document, beside: Path | None = None) -> Probe:
    """Returns a probe from its declaration: a file of its own, or a part of the config.

    Its C is the file that ``source`` names, or the one beside the declaration. Without C, its programs are made from
    expressions. Raises ConfigError with every problem.
    """
    value = declared.value
    source = _source(declared, beside)
    scripted = source is None and _is_event(value.get("attach") if isinstance(value, dict) else None)
    problems = document.validate(declared, IN_YAML if scripted else IN_C)
    if problems:
        raise ConfigError(problems)
    if not scripted and source is None and declared.base:  # it stands in the config, beside which there is no C
        message = "names C functions; source: FILE says where they are, and a hook alone needs none"
        raise ConfigError([declared.problem(("attach",), message)])
    if not scripted and source is None:
        source = beside or declared.path.with_suffix(".c")
    metrics = tuple(_metric(declared, metric, scripted, problems) for metric in value["metrics"])
    attach = value["attach"] if isinstance(value["attach"], list) else [value["attach"]]
    mechanisms = [_event(item, index) if scripted else _mechanism(item) for index, item in enumerate(attach)]
    probe = Probe(
        name=name,
        purpose=" ".join(value.get("purpose", _purpose(mechanisms, scripted)).split()),
        declaration=declared.path,
        source=source,
        mechanisms=tuple(mechanisms),
        metrics=metrics,
        options=tuple((name, option["default"]) for name, option in value.get("options", {}).items()),
        max_series=value.get("max_series", Probe.max_series),
        max_cpu_percent=value.get("max_cpu_percent", Probe.max_cpu_percent),
        interfaces=tuple(value.get("interfaces", [AUTO])) if _families(mechanisms) & set(ON_INTERFACES) else (),
        mode=value.get("mode", Probe.mode),
        where=_expression(declared, ("where",), value.get("where"), problems) if scripted else None,
        selftest=_selftest(value.get("selftest")),
        rule_metric=value.get("rules", ""),
    )
    problems.extend(_rule_problems(probe, declared))
    problems.extend(_hook_problems(probe, declared))
    problems.extend(_interface_problems(probe, value, declared, ()))
    problems.extend(_clashes(probe, declared))
    if source:
        try:
            probe = dataclasses.replace(probe, c=_read_source(source, declared))
            problems.extend(_source_problems(probe, declared))
        except ConfigError as error:
            problems.extend(error.problems)
    elif not problems:
        problems.extend(_script_problems(probe, declared))
    if problems:
        raise ConfigError(problems)
    return probe


def _families(mechanisms: Iterable[Mechanism]) -> set[str]:
    return {hook.family for mechanism in mechanisms for program in mechanism.programs for hook in program.hooks}


def _interface_problems(probe: Probe, said: Collection[str], of: Document, where: Where) -> Iterator[Problem]:
    """What is said of interfaces for a probe that is on none."""
    if "interfaces" in said and not probe.interfaces:
        yield of.problem((*where, "interfaces"), f"{probe.name} is not attached to interfaces")
    if "mode" in said and "xdp" not in _families(probe.mechanisms):
        yield of.problem((*where, "mode"), f"{probe.name} is not attached by XDP")


def _selftest(value: list[str] | dict[str, Any] | None) -> Selftest | None:
    if isinstance(value, dict):
        return Selftest(tuple(value["command"]), value["terminal"])
    return Selftest(tuple(value)) if value else None


def _source(declared: Document, beside: Path | None) -> Path | None:
    named = declared.value.get("source") if isinstance(declared.value, dict) else None
    if isinstance(named, str) and named:
        return declared.path.parent / named
    return beside if beside and beside.exists() else None


def _is_event(attach: Any) -> bool:
    """Whether hooks are named without C functions."""
    if isinstance(attach, list):
        return bool(attach) and all(map(_is_event, attach))
    return isinstance(attach, str) or (isinstance(attach, dict) and len(attach) > 0 and set(attach) <= {"start", "end"})


def _purpose(mechanisms: list[Mechanism], scripted: bool) -> str:
    hooks = [str(program.hooks[0]) for program in mechanisms[0].programs]
    if scripted and len(hooks) == 2:
        return f"What is between {hooks[0]} and {hooks[1]}."
    return f"Events of {', '.join(hooks)}."


def _event(value: str | dict[str, str], index: int) -> Mechanism:
    """The programs of expressions; those of a further alternative are numbered."""
    number = f"_{index + 1}" if index else ""
    if isinstance(value, str):
        return Mechanism((Program(f"on_event{number}", (_hook(value),)),))
    return Mechanism(tuple(Program(f"on_{end}{number}", (_hook(value[end]),)) for end in ("start", "end")))


def _expression(declared: Document, where: Where, text: str | int | None, problems: list[Problem]) -> Expression | None:
    """Parses an expression; what is wrong with it goes to problems."""
    if text is None:
        return None
    try:
        tree = parse(str(text))
    except (ExpressionError, ValueError) as error:  # of a number that is too long to be written
        message = str(error) if isinstance(error, ExpressionError) else "a number is beyond 64 bits"
        problems.append(declared.problem(where, message))
        return None
    return Expression(tree, str(text), declared.problem(where, ""))


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


_TIME_EXPONENTS = 10, 34  # of nanoseconds: 1 microsecond to 17 seconds
_EXPONENTS = 0, 24
_LYING = ("_bucket", "_sum", "_count", "_created", "_info")


def _metric(declared: Document, name: str, scripted: bool, problems: list[Problem]) -> Metric:
    """Reads one metric; what is wrong with it goes to problems."""
    value = declared.value["metrics"][name]
    where: Where = ("metrics", name)
    kind = value["type"]
    labels: list[Label] = []
    for label, spec in value.get("labels", {}).items():
        place: Where = (*where, "labels", label)
        if scripted:
            text, default = (spec["value"], spec.get("default", True)) if isinstance(spec, dict) else (spec, True)
            expression = _expression(declared, place, text, problems)
            if expression:
                labels.append(Label(label, kinds.parse("u64"), default, expression))
            continue
        named, default = (spec["kind"], spec.get("default", True)) if isinstance(spec, dict) else (spec, True)
        try:
            labels.append(Label(label, kinds.parse(named), default))
        except ValueError as error:
            problems.append(declared.problem(place, str(error)))
    given = _expression(declared, (*where, "value"), value.get("value"), problems)
    if kind != "counter" and scripted and "value" not in value:
        problems.append(declared.problem(where, f"a {kind} needs a value: such as {{value: retval}}"))
    if "keep" in value and kind != "gauge":
        problems.append(declared.problem((*where, "keep"), "is for gauges"))
    if not _finite(value.get("scale", 1.0)):
        problems.append(declared.problem((*where, "scale"), "expected a factor such as 1.0e-9"))
        return Metric(name, kind, value["help"], tuple(labels))
    elapsed = given is not None and given.tree == Word(("elapsed",))
    scale = float(value.get("scale", 1e-9 if elapsed else 1.0))
    if name.endswith("_total") != (kind == "counter"):
        problems.append(declared.problem(where, "the name of a counter, and of nothing else, ends in _total"))
    elif name.endswith(_LYING):
        problems.append(declared.problem(where, f"a name that ends in {', '.join(_LYING)} says what it is not"))
    bounds, les = _bounds(
        declared, where, scale, (_TIME_EXPONENTS if elapsed else _EXPONENTS) if scripted else None, problems
    )
    return Metric(
        name=name,
        type=kind,
        help=" ".join(value["help"].split()),
        labels=tuple(labels),
        chosen=value.get("default", True),
        scale=scale,
        bounds=bounds,
        les=les,
        keep=value.get("keep", "last") if kind == "gauge" else "",
        value=given,
    )


def _bounds(
    declared: Document, where: Where, scale: float, default: tuple[int, int] | None, problems: list[Problem]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns a histogram's bounds in the kernel's unit, and as the page has them."""
    value = declared.value["metrics"][where[-1]]
    exponents, bounds = value.get("exponents", default), value.get("bounds")
    if value["type"] != "histogram":
        if "exponents" in value or bounds:
            problems.append(declared.problem(where, "exponents and bounds are for histograms"))
        return (), ()
    if "exponents" in value and bounds:
        problems.append(declared.problem(where, "has exponents and bounds: one of them is enough"))
    if bounds:
        # as the page has them: above 2**53 neighbours are the same
        if not all(map(_finite, bounds)) or any(float(low) >= float(high) for low, high in pairwise(bounds)):
            problems.append(declared.problem((*where, "bounds"), "each is to be above the one before"))
            return (), ()
        # the kernel's numbers are whole: what is at most 2.5 is at most 2
        whole = tuple(math.floor(Fraction(repr(bound)) / Fraction(repr(scale))) for bound in bounds)
        if whole[-1] >= 2**64:
            problems.append(declared.problem((*where, "bounds"), "the last is beyond 64 bits in the kernel's unit"))
        return whole, tuple(repr(float(bound)) for bound in bounds)
    if exponents is None:
        problems.append(declared.problem(where, "a histogram needs exponents: [first, last], or bounds"))
        return (), ()
    first, last = exponents
    if first > last:
        problems.append(declared.problem((*where, "exponents"), "the first is above the last"))
    if not math.isfinite(2**last * scale):
        problems.append(declared.problem((*where, "scale"), "takes the last bound beyond all numbers"))
    return powers_of_two(first, last, scale)


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number that no float can hold
        return False


_TARGETS = {
    "kprobe": r"[A-Za-z_][\w.]*",
    "fentry": r"[A-Za-z_][\w.]*",
    "tracepoint": r"[\w-]+:[\w-]+",
    "rawtracepoint": r"\w+",
    "uprobe": r"[^\s:]+:[\w.@$~<>()*&,:-]+",
    "usdt": r"[^\s:]+:\w[\w-]*:\w[\w-]*",
    # 10 microseconds are the kernel's least (perf_swevent_start_hrtimer)
    "profile": r"(hz|s|ms):[1-9][0-9]{0,8}|us:[1-9][0-9]{1,8}",
    "software": r"[a-z-]+(:[1-9][0-9]{0,17})?",
    "hardware": r"[a-zA-Z-]+(:[1-9][0-9]{0,17})?",
    "tc": "ingress|egress",
    "xdp": "",
}
_FORMS = {
    "kprobe": "kprobe:FUNCTION", "fentry": "fentry:FUNCTION", "tracepoint": "tracepoint:CATEGORY:EVENT",
    "rawtracepoint": "rawtracepoint:EVENT", "uprobe": "uprobe:FILE:SYMBOL", "usdt": "usdt:FILE:PROVIDER:NAME",
    "profile": "profile:hz:99, or s:N, ms:N, us:N from 10", "software": "software:EVENT:PERIOD",
    "hardware": "hardware:EVENT:PERIOD", "tc": "tc:ingress or tc:egress", "xdp": "xdp",
}  # fmt: skip
_EVENTS = {"software": events.SOFTWARE, "hardware": events.HARDWARE}
_AS = {"kretprobe": "kprobe", "uretprobe": "uprobe", "fexit": "fentry"}


def form_of(family: str) -> str:
    """Returns how a hook of a family is named: ``tracepoint:CATEGORY:EVENT``."""
    like = _AS.get(family, family)
    return _FORMS[like].replace(like, family, 1)


def _hook_problems(probe: Probe, declared: Document) -> Iterator[Problem]:
    """What can be known of a hook's name without a kernel."""
    for mechanism in probe.mechanisms:
        for program in mechanism.programs:
            for hook in program.hooks:
                family = _AS.get(hook.family, hook.family)
                if re.fullmatch(_TARGETS[family], hook.target) is None:
                    expected = f"expected {form_of(hook.family)}; a probe names its hooks one by one"
                    yield declared.problem(("attach",), f"{hook}: {expected}")
                elif (known := _EVENTS.get(hook.family)) and (name := hook.target.partition(":")[0]) not in known:
                    yield declared.problem(("attach",), f"{hook}: {one_of(name, list(known))}")
                elif hook.family in ON_INTERFACES and not probe.source:
                    yield declared.problem(("attach",), f"{hook} needs C: an expression has no packets")


def _script_problems(probe: Probe, declared: Document) -> list[Problem]:
    """What is wrong with expressions, as far as that can be known without a kernel."""
    problems = [
        problem for mechanism in probe.mechanisms for problem in script.problems(probe, *context.offline(mechanism))
    ]
    if not problems:
        try:
            script.resolve(probe, context.offline)
        except CompileError as error:
            problems.append(declared.problem((), error.reason))
    return problems


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


def _read_source(source: Path, declared: Document) -> str:
    """Returns a probe's C. Raises ConfigError where it is none that can be."""
    try:
        about = source.stat()
        if (
            not stat.S_ISREG(about.st_mode) or about.st_size > document.MAX_BYTES
        ):  # a device has no end, a FIFO no begin
            message = f"is no file of at most {document.MAX_BYTES} bytes; it is the C of {declared.path}"
            raise ConfigError([Problem(source, 0, message)])
        return source.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        message = f"cannot be read: {error.strerror}; it is the C of {declared.path}"
        raise ConfigError([Problem(source, 0, message)]) from error


def _source_problems(probe: Probe, declared: Document) -> list[Problem]:
    """Compares the YAML with the C as far as that is possible without a compiler."""
    names = {metric.name for metric in probe.metrics} | {
        label.name for metric in probe.metrics for label in metric.labels
    }
    listed = isinstance(declared.value["attach"], list)
    problems: list[Problem] = []
    for index, mechanism in enumerate(probe.mechanisms):
        for program in mechanism.programs:
            where: Where = ("attach", index, program.name) if listed else ("attach", program.name)
            if not re.search(rf"\b{program.name}\b\s*[(,]", probe.c):
                problems.append(declared.problem(where, f"{probe.source} has no function of this name"))
            for name in program.needed_for:
                if name not in names:
                    problems.append(declared.problem((*where, "for"), f"{name!r}: {one_of(name, sorted(names))}"))
    return problems


def _rule_problems(probe: Probe, declared: Document) -> Iterator[Problem]:
    """The metric that counts rules, and no other, has one label of the kind ``rule``."""
    for metric in probe.metrics:
        count = sum(label.kind.name == "rule" for label in metric.labels)
        if metric.name == probe.rule_metric and (count != 1 or metric.type != "counter"):
            yield declared.problem(("rules",), f"{metric.name} is to be a counter with one label of the kind rule")
        elif metric.name != probe.rule_metric and count:
            where = ("metrics", metric.name, "labels")
            yield declared.problem(where, "the kind rule is for the one metric that `rules:` names")
    if probe.rule_metric and probe.rule_metric not in (names := [metric.name for metric in probe.metrics]):
        yield declared.problem(("rules",), f"{probe.rule_metric!r}: {one_of(probe.rule_metric, names)}")
    if probe.rule_metric and _families(probe.mechanisms) - set(ON_INTERFACES):
        yield declared.problem(("rules",), f"is for probes whose hooks are {' or '.join(ON_INTERFACES)} alone")


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
    said = [key for key in ("interfaces", "mode") if getattr(settings, key) is not None]
    problems.extend(_interface_problems(probe, said, config, where))
    for key in ("label_names", "types"):
        if getattr(settings, key):
            problems.append(config.problem((*where, key), f"{probe.name} is no bpftrace script"))
    rules: tuple[Rule, ...] = ()
    if settings.rules and not probe.rule_metric:
        problems.append(config.problem((*where, "rules"), f"{probe.name} takes no rules"))
    elif settings.rules:
        try:
            rules = form.read(settings.rules, config, (*where, "rules"), "tc" in _families(probe.mechanisms))
        except ConfigError as error:
            problems.extend(error.problems)
    if not rules:  # what counts rules costs nothing then
        metrics = tuple(
            dataclasses.replace(metric, chosen=metric.chosen and metric.name != probe.rule_metric) for metric in metrics
        )
    if problems:
        raise ConfigError(problems)
    applied = dataclasses.replace(
        probe,
        metrics=metrics,
        options=tuple((name, int(number)) for name, number in options.items()),
        max_series=settings.max_series or probe.max_series,
        max_cpu_percent=probe.max_cpu_percent if settings.max_cpu_percent is None else settings.max_cpu_percent,
        interfaces=settings.interfaces or probe.interfaces,
        mode=settings.mode or probe.mode,
        rules=rules,
    )
    return numbered(applied)
