# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: what a probe is, once its two files and the config are read. Frozen, and free of the kernel.

A ``Probe`` has ``Mechanism``s, tried in order; a mechanism has ``Program``s, each a C function with its ``Hook``s.
It has ``Metric``s; those of one type with the same labels share a ``Table``: one key, one pair of kernel maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from exporter.expression import Expression
from exporter.kinds import Kind
from exporter.rules.rule import DROP, Rule

FAMILIES = (
    "kprobe", "kretprobe", "fentry", "fexit", "tracepoint", "rawtracepoint", "uprobe", "uretprobe", "usdt",
    "profile", "software", "hardware", "tc", "xdp",
)  # fmt: skip
ON_INTERFACES = ("tc", "xdp")  # of these, a hook alone does not say where: that are the probe's interfaces
# among those: the interface of the default route, and the host's ends of all that leads into containers
AUTO, CONTAINERS = "auto", "containers"

OTHER = "(other)"  # what an unbounded label reads where its true value has no series

CPU_PERCENT = 5.0  # of one core, that a probe's programs may take, unless told otherwise

MAP_ENTRIES = 10_240  # keys that a map can take between two reads, unless there may be more series than that
OVERFLOW_ENTRIES = 1_024  # combinations of bounded labels, but for those of rules
MAX_RULE_NAMES = 65_536  # since the start, with (other): a rule's number in the kernel has 16 bits


def map_entries(max_series: int) -> int:
    """Returns how many keys each half of a table's maps holds: room for all series to change between two reads."""
    return max(MAP_ENTRIES, max_series)


@dataclass(frozen=True)
class Hook:
    """Where a program is attached, named as ``bpftrace -l`` prints it: ``family:target``. Of an interface: ``xdp``,
    ``tc:ingress``, ``tc:egress``.

    An optional hook may be absent from this kernel (a system call that arm64 never had) without any harm. arguments
    means of a USDT probe only the places whose note describes its arguments so.
    """

    family: str
    target: str
    optional: bool = False
    arguments: str | None = None

    def __str__(self) -> str:
        return f"{self.family}:{self.target}" if self.target else self.family


@dataclass(frozen=True)
class Program:
    """A C function and its hooks. needed_for names the labels and metrics without which it is not attached at all."""

    name: str
    hooks: tuple[Hook, ...]
    needed_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mechanism:
    """Programs that do a probe's work together; the first mechanism that loads and attaches whole is used."""

    programs: tuple[Program, ...]


@dataclass(frozen=True)
class Label:
    """A label that a metric can have; chosen says whether this config wants it. value gives it, where no C does."""

    name: str
    kind: Kind
    chosen: bool = True
    value: Expression | None = None


@dataclass(frozen=True)
class Metric:
    """A metric that a probe can have; chosen says whether this config wants it.

    A histogram's bounds are inclusive and in the kernel's unit; above the last there is one bucket more. les are the
    bounds as the page has them. scale takes the kernel's unit (nanoseconds, say) to the exposed base unit (seconds). A
    gauge keeps the last value, or the max. value gives what is counted, where no C does; without it, events are.
    """

    name: str
    type: str
    help: str
    labels: tuple[Label, ...]
    chosen: bool = True
    scale: float = 1.0
    bounds: tuple[int, ...] = ()
    les: tuple[str, ...] = ()
    keep: str = ""
    value: Expression | None = None

    @property
    def short_name(self) -> str:
        """The name that the generated C gives it: ``ebpf_file_io_bytes_total`` -> ``file_io_bytes``."""
        return self.name.removeprefix("ebpf_").removesuffix("_total")


def powers_of_two(first: int, last: int, scale: float = 1.0) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns a histogram's bounds and les: 2**first … 2**last."""
    return tuple(2**number for number in range(first, last + 1)), tuple(
        repr(2**number * scale) for number in range(first, last + 1)
    )


@dataclass(frozen=True)
class Field:
    """A field of a key in the kernel: a label, the bucket of a histogram, or padding. offset and size in bytes."""

    name: str
    kind: Kind | None
    offset: int
    size: int


BUCKET = Kind("bucket", "u8", 1, 1, True)


@dataclass(frozen=True)
class Table:
    """Metrics of one type with the same labels: they share one key and so one pair of kernel maps.

    A key is laid out bounded labels first, so that its first ``bounded_size`` bytes are the key of the overflow map.
    Fields that are left out come last, beyond ``key_size``: the C may assign to them, and it counts for nothing.
    """

    metrics: tuple[Metric, ...]

    @property
    def name(self) -> str:
        return self.metrics[0].short_name

    @property
    def histogram(self) -> bool:
        return self.metrics[0].type == "histogram"

    @property
    def keep(self) -> str:
        """Of gauges, ``last`` or ``max``; else the values are added up."""
        return self.metrics[0].keep

    @property
    def chosen(self) -> bool:
        return any(metric.chosen for metric in self.metrics)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The chosen labels, in the YAML's order."""
        return tuple(label for label in self.metrics[0].labels if label.chosen)

    @property
    def values(self) -> tuple[str, ...]:
        """The names of a map value's u64 fields."""
        return ("count", "sum") if self.histogram else tuple(metric.short_name for metric in self.metrics)

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The key's fields in order, with all padding made explicit; those left out are at the end."""
        declared = self.metrics[0].labels
        bucket = [("bucket", BUCKET)] if self.histogram else []
        bounded = bucket + [(label.name, label.kind) for label in declared if label.chosen and label.kind.bounded]
        unbounded = [(label.name, label.kind) for label in declared if label.chosen and not label.kind.bounded]
        absent = [
            (label.name, label.kind) for label in declared if not label.chosen and label.kind.align == label.kind.size
        ]
        fields: list[Field] = []
        offset = 0

        def pad(to: int) -> None:
            nonlocal offset
            if missing := -offset % to:
                fields.append(Field(f"_pad{offset}", None, offset, missing))
                offset += missing

        for group in (bounded, unbounded, absent):
            for name, kind in sorted(group, key=lambda item: -item[1].align):
                pad(kind.align)
                fields.append(Field(name, kind, offset, kind.size))
                offset += kind.size
            pad(4)  # the kernel hashes whole words faster
            if group is unbounded and not offset:
                fields.append(Field("_none", None, 0, 4))
                offset = 4
        pad(max((item.kind.align for item in fields if item.kind), default=4))
        return tuple(fields)

    def _end(self, bounded_only: bool) -> int:
        names = {label.name for label in self.labels if label.kind.bounded or not bounded_only}
        if self.histogram:
            names.add("bucket")
        ends = [item.offset + item.size for item in self.fields if item.name in names]
        return (max(ends, default=0) + 3) & ~3

    @cached_property
    def key_size(self) -> int:
        """Bytes of a key in the kernel's map. A table without labels still needs one: four zero bytes."""
        return self._end(bounded_only=False) or 4

    @cached_property
    def bounded_size(self) -> int:
        """Bytes of a key in the overflow map; 0 where no label is bounded."""
        return self._end(bounded_only=True)

    @property
    def combinations(self) -> int:
        """How many combinations of bounded labels there is room for: of rules each in some places, in powers of two."""
        rules = max((len(label.kind.values) for label in self.labels if label.kind.name == "rule"), default=0)
        return max(OVERFLOW_ENTRIES, 4 << rules.bit_length())


@dataclass(frozen=True)
class Selftest:
    """A command, as the words it is run with, that makes a probe's counters move; terminal is what is typed to it."""

    command: tuple[str, ...]
    terminal: str | None = None


@dataclass(frozen=True)
class ScriptMap:
    """A map of a bpftrace script and the metric that it becomes.

    texts says of each part of its key how likely it is a text, which may have a comma in it: 0 it is a number, 1 it may
    be one, 2 it is a text. deletes says whether the script deletes keys of it.
    """

    name: str
    metric: Metric
    texts: tuple[int, ...]
    deletes: bool = False


@dataclass(frozen=True)
class Script:
    """A bpftrace script. file is what messages call it; ends says whether it may end by itself, by exit()."""

    text: str
    file: str
    folder: Path
    maps: tuple[ScriptMap, ...]
    ends: bool


@dataclass(frozen=True)
class Probe:
    """A probe with the config applied. declaration is its YAML; source is the file of its C, None where expressions say
    it all, and c what that file had in it when the config was read.

    where, an expression, says which events count. max_cpu_percent is what was asked for, if anything. selftest is None
    where nobody knows how to make its events happen. rule_metric names the metric that counts packets by rule: only a
    probe with one takes rules.
    """

    name: str
    purpose: str
    declaration: Path
    source: Path | None
    mechanisms: tuple[Mechanism, ...]
    metrics: tuple[Metric, ...]
    options: tuple[tuple[str, int], ...] = ()
    max_series: int = 1000
    max_cpu_percent: float | None = None
    interfaces: tuple[str, ...] = ()
    mode: str = "auto"
    where: Expression | None = None
    selftest: Selftest | None = None
    script: Script | None = None
    c: str = ""
    rule_metric: str = ""
    rules: tuple[Rule, ...] = ()

    @property
    def cpu_percent(self) -> float:
        """How much of a core its programs may take. 0 is no limit, as of rules that drop: a flood may not end them."""
        if self.max_cpu_percent is not None:
            return self.max_cpu_percent
        return 0.0 if any(rule.action == DROP for rule in self.rules) else CPU_PERCENT

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The metrics, grouped by type and declared labels. What the config leaves out does not change the groups."""
        groups: dict[object, list[Metric]] = {}
        for metric in self.metrics:
            shape = tuple((label.name, label.kind, label.value and label.value.tree) for label in metric.labels)
            alone = metric.name if metric.type == "histogram" else ""
            groups.setdefault((metric.type, metric.keep, shape, alone), []).append(metric)
        return tuple(Table(tuple(metrics)) for metrics in groups.values())

    @property
    def chosen_names(self) -> frozenset[str]:
        """Names of the chosen metrics and of their chosen labels: what a program can be needed for."""
        metrics = [metric for metric in self.metrics if metric.chosen]
        return frozenset({metric.name for metric in metrics} | {
            label.name for metric in metrics for label in metric.labels if label.chosen
        })  # fmt: skip

    @property
    def chosen_kinds(self) -> frozenset[str]:
        """Names of the kinds of the labels that are on the page."""
        return frozenset(label.kind.name for table in self.tables if table.chosen for label in table.labels)

    @property
    def rule_names(self) -> tuple[str, ...]:
        """The names that rules have had, each at the place of its number; (other) is at 0."""
        kinds = [label.kind for metric in self.metrics for label in metric.labels if label.kind.name == "rule"]
        return kinds[0].values if kinds and kinds[0].values else (OTHER,)

    def mechanism_name(self, mechanism: Mechanism) -> str:
        """Returns the families of the hooks that a mechanism takes for this config, such as ``kprobe+kretprobe``."""
        return "+".join(sorted({hook.family for program in self.programs(mechanism) for hook in program.hooks}))

    def programs(self, mechanism: Mechanism) -> Sequence[Program]:
        """Returns the programs of a mechanism that the chosen labels and metrics need."""
        return [
            program
            for program in mechanism.programs
            if not program.needed_for or self.chosen_names.intersection(program.needed_for)
        ]


def numbered(probe: Probe, names: Sequence[str] = (OTHER,)) -> Probe:
    """Returns a probe whose rules have their numbers, and whose labels know their names.

    names are those that rules have had so far, each at the place of its number: a name keeps it. Raises ValueError
    where all numbers are taken.
    """
    known = tuple(dict.fromkeys([*names, *(rule.name for rule in probe.rules)]))
    if len(known) > MAX_RULE_NAMES:
        raise ValueError(f"rules have had {MAX_RULE_NAMES - 1} names since the exporter started: start it again")
    numbers = {name: number for number, name in enumerate(known)}
    metrics = tuple(
        replace(metric, labels=tuple(_with_names(label, known) for label in metric.labels)) for metric in probe.metrics
    )
    return replace(
        probe, metrics=metrics, rules=tuple(replace(rule, number=numbers[rule.name]) for rule in probe.rules)
    )


def differ_in_rules_alone(one: Probe, other: Probe) -> bool:
    """Whether two probes differ in nothing but their rules, so that what the one has counted is the other's too.

    Names of rules have to have the numbers that they had; and maps have room for so many names: with more of them, they
    are others.
    """
    if other.rule_names[: len(one.rule_names)] != one.rule_names:
        return False
    bare = numbered(replace(one, rules=()), other.rule_names)
    room = [table.combinations for table in one.tables] == [table.combinations for table in other.tables]
    return one != other and room and bare == replace(other, rules=())


def _with_names(label: Label, names: tuple[str, ...]) -> Label:
    return replace(label, kind=replace(label.kind, values=names)) if label.kind.name == "rule" else label
