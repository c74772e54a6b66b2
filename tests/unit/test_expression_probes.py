# SPDX-License-Identifier: Apache-2.0
"""Probes in YAML alone: what they become, and each fault with its file, line, place and words."""

from pathlib import Path

import pytest

from exporter import catalog, config
from exporter.errors import ConfigError
from exporter.expression import Binary, Number, Word
from exporter.loader import context, script
from exporter.probe import Hook, Mechanism, Probe, Program

from .conftest import Write

GOOD = """\
probes:
  resets:
    attach: tracepoint:tcp:tcp_send_reset
    where: args.family == 2
    metrics:
      ebpf_resets_total:
        type: counter
        help: Resets.
        labels: {comm: comm, port: args.dport}
"""


def load(write: Write, text: str) -> list[Probe]:
    return catalog.load(config.load(write("config.yaml", text)))


def problems(write: Write, text: str) -> list[str]:
    """The problems of a config, without the path of the test's folder."""
    with pytest.raises(ConfigError) as caught:
        load(write, text)
    folder = write("x", "").parent
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_a_probe_in_the_config(write: Write, tmp_path: Path) -> None:
    """It has its hook, its condition and its labels as trees, no C, and a purpose where none is told."""
    [found] = load(write, GOOD)
    assert (found.name, found.source, found.declaration) == ("resets", None, tmp_path / "config.yaml")
    assert found.purpose == "Events of tracepoint:tcp:tcp_send_reset."
    assert found.mechanisms == (Mechanism((Program("on_event", (Hook("tracepoint", "tcp:tcp_send_reset"),)),)),)
    assert found.where
    assert found.where.tree == Binary("==", Word(("args", "family")), Number(2))
    [metric] = found.metrics
    assert [(label.name, label.value and str(label.value.tree)) for label in metric.labels] == [
        ("comm", "comm"),
        ("port", "args.dport"),
    ]


def test_spans_and_alternatives(write: Write) -> None:
    """Each alternative has programs of its own; a span has one for its start and one for its end."""
    [found] = load(
        write,
        GOOD.replace(
            "tracepoint:tcp:tcp_send_reset", "[{start: 'kprobe:f', end: 'kretprobe:f'}, tracepoint:tcp:tcp_send_reset]"
        ).replace("args.family == 2", "pid == 2"),
    )
    assert [[program.name for program in one.programs] for one in found.mechanisms] == [
        ["on_start", "on_end"],
        ["on_event_2"],
    ]
    assert found.purpose == "What is between kprobe:f and kretprobe:f."


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("args.family == 2", "args.family = 2", "4: probes.resets.where: '=': write '==' to compare"),
        ("args.family == 2", "comm", "4: probes.resets.where: comm is a text, where a number must be"),
        ("args.family == 2", "pid == 'x'", "4: probes.resets.where: pid is a number, 'x' is a text"),
        ("args.family == 2", "user == 'root'", "4: probes.resets.where: user is a name, 'root' is a text; use uid"),
        ("args.family == 2", "unit + 1", "4: probes.resets.where: unit is a name, where a number must be; use cgroup"),
        (
            "args.family == 2",
            "\"'a' == 'b'\"",
            "4: probes.resets.where: 'a' and 'b': two texts are compared that never change",
        ),
        ("args.family == 2", "comm < 'b'", "4: probes.resets.where: comm is a text, where a number must be"),
        (
            "args.family == 2",
            "comm == 'sixteen letters!'",
            "4: probes.resets.where: 'sixteen letters!' is too long: comm has at most 15 bytes",
        ),
        (
            "args.family == 2",
            "str(args.x, 4) == 'abcd'",
            "4: probes.resets.where: 'abcd' is too long: str(…) has at most 3 bytes; ask for more, str(…, 5)",
        ),
        (
            "args.family == 2",
            "str(args.x, 257) == ''",
            "4: probes.resets.where: str: 257 bytes; from 2 to 256 are allowed",
        ),
        ("args.family == 2", "ip(args.a) == '1.2.3'", "4: probes.resets.where: '1.2.3' is no IP address"),
        ("args.family == 2", "u8(pid, 2)", "4: probes.resets.where: u8 takes one value"),
        ("args.family == 2", "comm.x == 1", "4: probes.resets.where: comm.x: comm has no members"),
        (
            "args.family == 2",
            "elapsed > 5",
            "4: probes.resets.where: elapsed: only between two hooks, attach: {start: …, end: …}",
        ),
        (
            "args.family == 2",
            "strr(args.x) == ''",
            "4: probes.resets.where: strr: no such function; did you mean 'str'? "
            "allowed: str, ustr, ip, ksym, s8, s16, s32, s64, u8, u16, u32, u64",
        ),
        (
            "args.dport",
            "usr",
            "9: probes.resets.metrics.ebpf_resets_total.labels.port: usr: no such word at "
            "tracepoint:tcp:tcp_send_reset; did you mean 'user'? allowed: comm, pid, tid, uid, gid, cpu, cgroup, user, "
            "unit, container, args.…",
        ),
        ("args.dport", "7", "9: probes.resets.metrics.ebpf_resets_total.labels.port: what never changes is no label"),
        ("args.dport", "''", "9: probes.resets.metrics.ebpf_resets_total.labels.port: is empty"),
        (
            "args.dport",
            "\"'a'\"",
            "9: probes.resets.metrics.ebpf_resets_total.labels.port: what never changes is no label",
        ),
        (
            "port:",
            "le:",
            "9: probes.resets.metrics.ebpf_resets_total.labels.le: is the name of a histogram's own label",
        ),
        (
            "port:",
            "int:",
            "9: probes.resets.metrics.ebpf_resets_total.labels.int: is a word of C: no field of a key can "
            "have this name",
        ),
        (
            "port:",
            "__name__:",
            "9: probes.resets.metrics.ebpf_resets_total.labels.__name__: not a valid name; "
            "expected a name of small letters, digits and _",
        ),
        (
            "ebpf_resets_total",
            "ebpf_resets-sent_total",
            "6: probes.resets.metrics.ebpf_resets-sent_total: not a valid name; "
            "expected a metric's name: ebpf_ and then small letters, digits and _",
        ),
        (
            "ebpf_resets_total",
            "ebpf_resets",
            "6: probes.resets.metrics.ebpf_resets: the name of a counter, and of nothing else, ends in _total",
        ),
        (
            "type: counter",
            "type: gauge",
            "6: probes.resets.metrics.ebpf_resets_total: a gauge needs a value: such as {value: retval}",
        ),
        (
            "ebpf_resets_total:\n        type: counter",
            "ebpf_resets_sum:\n        type: gauge\n        value: pid",
            "6: probes.resets.metrics.ebpf_resets_sum: a name that ends in _bucket, _sum, _count, _created, _info says "
            "what it is not",
        ),
        (
            "type: counter",
            "type: counter\n        keep: max",
            "8: probes.resets.metrics.ebpf_resets_total.keep: is for gauges",
        ),
        (
            "type: counter",
            "type: counter\n        bounds: [1, 2]",
            "6: probes.resets.metrics.ebpf_resets_total: exponents and bounds are for histograms",
        ),
        (
            "type: counter",
            "type: counter\n        value: comm",
            "8: probes.resets.metrics.ebpf_resets_total.value: comm is a text, where a number must be",
        ),
        (
            "tracepoint:tcp:tcp_send_reset",
            "kretprobe:f",
            "4: probes.resets.where: args.family: no such word at kretprobe:f; allowed: comm, pid, tid, uid, gid, cpu, "
            "cgroup, user, unit, container, retval",
        ),
        (
            "tracepoint:tcp:tcp_send_reset",
            "tracepoint:tcp_send_reset",
            "3: probes.resets.attach: tracepoint:tcp_send_reset: expected tracepoint:CATEGORY:EVENT; "
            "a probe names its hooks one by one",
        ),
        ("tracepoint:tcp:tcp_send_reset", "xdp", "3: probes.resets.attach: xdp needs C: an expression has no packets"),
    ],
)
def test_faults(write: Write, before: str, after: str, expected: str) -> None:
    """Each is told with the line and the place that it stands at."""
    assert before in GOOD
    assert f"config.yaml:{expected}" in problems(write, GOOD.replace(before, after))


def test_all_faults_at_once(write: Write) -> None:
    """One expression's fault hides no other's."""
    text = GOOD.replace("args.family == 2", "comm").replace("args.dport", "usr").replace("comm: comm", "comm: 1.5")
    assert [problem.split(": ")[1] for problem in problems(write, text)] == [
        "probes.resets.metrics.ebpf_resets_total.labels.comm",
    ]
    text = GOOD.replace("args.family == 2", "comm").replace("args.dport", "usr")
    assert [problem.split(": ")[1] for problem in problems(write, text)] == [
        "probes.resets.where",
        "probes.resets.metrics.ebpf_resets_total.labels.port",
    ]


def test_what_a_program_cannot_hold(write: Write) -> None:
    """Labels that take more than a program's stack are refused before anything is compiled."""
    labels = ", ".join(f"l{at}: 'str(args.a{at}, 128)'" for at in range(4))
    # what a tracepoint's fields are only the kernel knows; what an argument is, nobody needs to know
    text = GOOD.replace("comm: comm, port: args.dport", labels.replace("args.a", "arg"))
    text = text.replace("tracepoint:tcp:tcp_send_reset", "uprobe:c:getenv").replace("args.family", "arg0")
    assert problems(write, text) == [
        "config.yaml:2: probes.resets: labels, values and texts take 560 bytes of a program's stack, of which "
        "384 are free: ask for shorter texts, str(…, 32), or fewer"
    ]


def metric(write: Write, declared: str) -> tuple[tuple[int, ...], tuple[str, ...], float, str]:
    """The bounds, les, scale and keep of a metric, whose declaration is YAML in one line."""
    head = "attach: {start: 'kprobe:f', end: 'kretprobe:f'}"
    [found] = load(write, f"probes: {{p: {{{head}, metrics: {{ebpf_p: {{help: H., {declared}}}}}}}}}\n")
    [one] = found.metrics
    return one.bounds, one.les, one.scale, one.keep


@pytest.mark.parametrize(
    ("declared", "bounds", "les", "scale"),
    [
        ("type: histogram, value: retval, exponents: [0, 2]", (1, 2, 4), ("1.0", "2.0", "4.0"), 1.0),
        ("type: histogram, value: retval, bounds: [0, 10, 2.5e+3]", (0, 10, 2500), ("0.0", "10.0", "2500.0"), 1.0),
        # what is at most 2.5 is, of whole numbers, at most 2
        ("type: histogram, value: retval, bounds: [2.5, 3]", (2, 3), ("2.5", "3.0"), 1.0),
        ("type: histogram, value: elapsed, bounds: [0.001, 0.1]", (10**6, 10**8), ("0.001", "0.1"), 1e-9),
        ("type: histogram, value: retval, scale: 1024, bounds: [4096]", (4,), ("4096.0",), 1024.0),
        ("type: histogram, value: retval, scale: 0.1, bounds: [0.3, 0.7]", (3, 7), ("0.3", "0.7"), 0.1),
    ],
)
def test_bounds(write: Write, declared: str, bounds: tuple[int, ...], les: tuple[str, ...], scale: float) -> None:
    """Bounds are written in the metric's unit, and compared in the kernel's, without an error of floats."""
    assert metric(write, declared)[:3] == (bounds, les, scale)


def test_bounds_where_none_are_told(write: Write) -> None:
    """Of a time from a microsecond to 17 seconds; of any other number from 1 to 2**24."""
    bounds, les, scale, _ = metric(write, "type: histogram, value: elapsed")
    assert (bounds[0], bounds[-1], les[0], scale) == (2**10, 2**34, "1.024e-06", 1e-9)
    bounds, _, scale, _ = metric(write, "type: histogram, value: retval")
    assert (bounds[0], bounds[-1], scale) == (1, 2**24, 1.0)


@pytest.mark.parametrize(("declared", "keep"), [("", "last"), (", keep: last", "last"), (", keep: max", "max")])
def test_gauges(write: Write, declared: str, keep: str) -> None:
    """A gauge keeps the last value, if nothing else is said."""
    assert metric(write, f"type: gauge, value: retval{declared}")[3] == keep


@pytest.mark.parametrize(
    ("declared", "place", "message"),
    [
        ("bounds: [1, 1]", ".bounds", "each is to be above the one before"),
        ("bounds: [2, 1]", ".bounds", "each is to be above the one before"),
        ("bounds: [1, .inf]", ".bounds", "each is to be above the one before"),
        ("bounds: [9007199254740992, 9007199254740993]", ".bounds", "each is to be above the one before"),
        (f"bounds: [1, {10**400}]", ".bounds", "each is to be above the one before"),
        ("bounds: [1.0e+20]", ".bounds", "the last is beyond 64 bits in the kernel's unit"),
        ("bounds: [1], exponents: [1, 2]", "", "has exponents and bounds: one of them is enough"),
        ("exponents: [3, 2]", ".exponents", "the first is above the last"),
        (f"scale: {10**400}", ".scale", "expected a factor such as 1.0e-9"),
        ("scale: 1.0e+308", ".scale", "takes the last bound beyond all numbers"),
    ],
)
def test_faults_of_bounds(write: Write, declared: str, place: str, message: str) -> None:
    """Bounds that are no bounds, or would be one another's on the page."""
    one = f"{{type: histogram, help: H., value: retval, {declared}}}"
    text = f"probes: {{p: {{attach: 'kretprobe:f', metrics: {{ebpf_p: {one}}}}}}}\n"
    assert f"config.yaml:1: probes.p.metrics.ebpf_p{place}: {message}" in problems(write, text)


def test_metrics_of_the_same_labels_share_a_table(write: Write) -> None:
    """One key, one lookup for all of them: whatever the place that their labels are written at."""
    more = "      ebpf_more_total: {type: counter, help: H., value: args.x, labels: {comm: comm, port: args.dport}}\n"
    others = "      ebpf_others_total: {type: counter, help: H., labels: {comm: comm, port: args.sport}}\n"
    [found] = load(write, GOOD + more + others)
    assert [[one.name for one in table.metrics] for table in found.tables] == [
        ["ebpf_resets_total", "ebpf_more_total"],
        ["ebpf_others_total"],
    ]


def test_kinds_of_labels(write: Write) -> None:
    """A label's kind is what its expression gives: a truth, a number with a sign or without, a text, an address."""
    labels = {
        "comm": "comm", "user": "user", "pid": "pid", "cpu": "cpu", "truth": "not pid", "number": "pid + 1",
        "large": "u64(pid)", "text": "str(arg0, 32)", "cut": "str(comm, 8)", "address": "ip(arg0)",
    }  # fmt: skip
    listed = ", ".join(f'{name}: "{text}"' for name, text in labels.items())
    text = GOOD.replace("comm: comm, port: args.dport", listed).replace("args.family", "arg0")
    [found] = load(write, text.replace("tracepoint:tcp:tcp_send_reset", "uprobe:c:getenv"))
    resolved = script.resolve(found, context.offline).probe
    assert [(label.name, label.kind.name, label.kind.size) for label in resolved.metrics[0].labels] == [
        ("comm", "comm", 16),
        ("user", "user", 4),
        ("pid", "pid", 4),
        ("cpu", "cpu", 4),
        ("truth", "bool", 1),
        ("number", "s64", 8),
        ("large", "u64", 8),
        ("text", "string", 32),
        ("cut", "string", 8),
        ("address", "ip", 16),
    ]


def test_what_comes_after_a_condition_that_does_not_hold_is_not_computed(write: Write) -> None:
    """Of conditions with and between them each is asked for by itself."""
    [found] = load(write, GOOD.replace("args.family == 2", "uid == 7 and pid != 8 and (gid or tid)"))
    assert script.resolve(found, context.offline).c.count("if (!wanted) return 0;") == 3
