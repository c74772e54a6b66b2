# SPDX-License-Identifier: Apache-2.0
"""A probe's YAML, and its C, to a ``Probe``: every fault with its line."""

import dataclasses
import math
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from exporter import document, forms, kinds
from exporter.document import Document, Where
from exporter.errors import CompileError, ConfigError, Problem, one_of
from exporter.expression import Expression, ExpressionError, Word
from exporter.grammar import parse
from exporter.hooks import events
from exporter.loader import context, script
from exporter.probe import AUTO, ON_INTERFACES, Hook, Label, Mechanism, Metric, Probe, Program, Selftest, powers_of_two

_C_KEYWORDS = frozenset(
    "asm auto break case char const continue default do double else enum extern float for goto i386 if inline int "
    "linux long register restrict return short signed sizeof static struct switch typedef typeof union unix unsigned "
    "void volatile while".split()
)


def read(name: str, declared: Document, beside: Path | None = None) -> Probe:
    """Returns a probe from its declaration: a file of its own, or a part of the config.

    Its C is the file that ``source`` names, or the one beside the declaration. Without C, its programs are made from
    expressions. Raises ConfigError with every problem.
    """
    value = declared.value
    source = _source(declared, beside)
    scripted = source is None and _is_event(value.get("attach") if isinstance(value, dict) else None)
    problems = document.validate(declared, forms.IN_YAML if scripted else forms.IN_C)
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
        interfaces=tuple(value.get("interfaces", [AUTO])) if families(mechanisms) & set(ON_INTERFACES) else (),
        mode=value.get("mode", Probe.mode),
        where=_expression(declared, ("where",), value.get("where"), problems) if scripted else None,
        selftest=_selftest(value.get("selftest")),
        rule_metric=value.get("rules", ""),
    )
    problems.extend(_rule_problems(probe, declared))
    problems.extend(_hook_problems(probe, declared))
    problems.extend(interface_problems(probe, value, declared, ()))
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


def families(mechanisms: Iterable[Mechanism]) -> set[str]:
    return {hook.family for mechanism in mechanisms for program in mechanism.programs for hook in program.hooks}


def interface_problems(probe: Probe, said: Collection[str], of: Document, where: Where) -> Iterator[Problem]:
    """What is said of interfaces for a probe that is on none."""
    if "interfaces" in said and not probe.interfaces:
        yield of.problem((*where, "interfaces"), f"{probe.name} is not attached to interfaces")
    if "mode" in said and "xdp" not in families(probe.mechanisms):
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


_EVENTS = {"software": events.SOFTWARE, "hardware": events.HARDWARE}


def _hook_problems(probe: Probe, declared: Document) -> Iterator[Problem]:
    """What can be known of a hook's name without a kernel."""
    for mechanism in probe.mechanisms:
        for program in mechanism.programs:
            for hook in program.hooks:
                family = forms.AS.get(hook.family, hook.family)
                if re.fullmatch(forms.TARGETS[family], hook.target) is None:
                    expected = f"expected {forms.form_of(hook.family)}; a probe names its hooks one by one"
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
    if probe.rule_metric and families(probe.mechanisms) - set(ON_INTERFACES):
        yield declared.problem(("rules",), f"is for probes whose hooks are {' or '.join(ON_INTERFACES)} alone")
