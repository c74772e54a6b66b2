# SPDX-License-Identifier: Apache-2.0
"""probe.py: how keys are laid out, which metrics share a table, which programs are needed."""

import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.probe import (
    Field,
    Hook,
    Label,
    Mechanism,
    Metric,
    Probe,
    Program,
    Table,
    differ_in_rules_alone,
    numbered,
)
from exporter.rules.rule import Rule

from .support import counter, histogram, label, probe

OP = ["read", "write"]


def layout(table: Table) -> list[tuple[str, int, int]]:
    """Fields as (name, offset, size)."""
    return [(field.name, field.offset, field.size) for field in table.fields]


@pytest.mark.parametrize(
    ("metric", "fields", "key_size", "bounded_size"),
    [
        # without labels: a key of zeros
        (counter("ebpf_a_total"), [("_none", 0, 4)], 4, 0),
        # the bounded ones first, those of the widest alignment first, up to a multiple of 4
        (
            counter("ebpf_a_total", label("comm", "comm"), label("op", OP), label("result", "errno")),
            [("result", 0, 2), ("op", 2, 1), ("_pad3", 3, 1), ("comm", 4, 16)],
            20,
            4,
        ),
        # only bounded, only unbounded
        (counter("ebpf_a_total", label("op", OP)), [("op", 0, 1), ("_pad1", 1, 3)], 4, 4),
        (counter("ebpf_a_total", label("file", "string(6)")), [("file", 0, 6), ("_pad6", 6, 2)], 8, 0),
        # padding ahead of a wide field is a field
        (
            counter("ebpf_a_total", label("op", OP), label("inode", "u64")),
            [("op", 0, 1), ("_pad1", 1, 3), ("_pad4", 4, 4), ("inode", 8, 8)],
            16,
            4,
        ),
        # what is left out comes last, beyond the key; a string that is left out is not there at all
        (
            counter("ebpf_a_total", label("op", OP, False), label("user", "user"), label("comm", "comm", False)),
            [("user", 0, 4), ("op", 4, 1), ("_pad5", 5, 3)],
            4,
            0,
        ),
        (
            counter("ebpf_a_total", label("inode", "u64", False)),
            [("_none", 0, 4), ("_pad4", 4, 4), ("inode", 8, 8)],
            4,
            0,
        ),
        # a histogram's key holds the bucket
        (histogram("ebpf_a", (3, 5)), [("bucket", 0, 1), ("_pad1", 1, 3)], 4, 4),
        (
            histogram("ebpf_a", (3, 5), label("nic", "interface"), label("comm", "comm")),
            [("nic", 0, 4), ("bucket", 4, 1), ("_pad5", 5, 3), ("comm", 8, 16)],
            24,
            8,
        ),
    ],
)
def test_layout(metric: Metric, fields: list[tuple[str, int, int]], key_size: int, bounded_size: int) -> None:
    """The layout of keys, field by field."""
    table = Table((metric,))
    assert (layout(table), table.key_size, table.bounded_size) == (fields, key_size, bounded_size)


KINDS = st.one_of(
    st.sampled_from(["comm", "user", "pid", "cpu", "errno", "interface", "protocol", "u32", "u64"]),
    st.integers(2, 256).map("string({})".format),
    st.integers(1, 255).map(lambda count: [f"v{number}" for number in range(count)]),
)
LABELS = st.lists(st.tuples(KINDS, st.booleans()), max_size=8).map(
    lambda shapes: tuple(label(f"l{index}", kind, chosen) for index, (kind, chosen) in enumerate(shapes))
)


def table_of(labels: tuple[Label, ...], is_histogram: bool) -> Table:
    return Table((histogram("ebpf_a", (0, 9), *labels) if is_histogram else counter("ebpf_a_total", *labels),))


@given(labels=LABELS, is_histogram=st.booleans())
def test_fields_fill_the_key_and_do_not_overlap(labels: tuple[Label, ...], is_histogram: bool) -> None:
    """Field follows field without a gap, each where C puts it, and the whole is as long as C's structure."""
    fields = table_of(labels, is_histogram).fields
    ends = [0, *(field.offset + field.size for field in fields)]
    assert [field.offset for field in fields] == ends[:-1]
    aligns = [(field, field.kind.align) for field in fields if field.kind]
    assert [field for field, align in aligns if field.offset % align] == []
    assert ends[-1] % max((align for _, align in aligns), default=4) == 0
    assert len({field.name for field in fields}) == len(fields)


@given(labels=LABELS, is_histogram=st.booleans())
def test_what_is_chosen_is_in_the_key(labels: tuple[Label, ...], is_histogram: bool) -> None:
    """The map's key has all chosen labels, the overflow map's the chosen bounded ones, and neither has any other."""
    table = table_of(labels, is_histogram)
    assert table.key_size % 4 == 0
    assert table.bounded_size % 4 == 0
    assert table.key_size >= max(table.bounded_size, 4)

    def within(size: int) -> set[str]:
        return {field.name for field in table.fields if field.kind and field.offset + field.size <= size}

    bucket = {"bucket"} if is_histogram else set()
    assert within(table.key_size) == {item.name for item in labels if item.chosen} | bucket
    assert within(table.bounded_size) == {item.name for item in labels if item.chosen and item.kind.bounded} | bucket
    # nothing but padding lies across an end
    straddling = [item for item in table.fields if item.kind and item.offset < table.key_size < item.offset + item.size]
    assert straddling == []


def test_metrics_of_the_same_labels_share_a_table() -> None:
    """Counters with the same labels share a table, whatever the config leaves out; each histogram has its own."""
    op, comm = label("op", OP), label("comm", "comm")
    tables = probe(
        counter("ebpf_a_total", op, comm),
        histogram("ebpf_b_seconds", (1, 2), op, comm),
        counter("ebpf_c_total", op),
        counter("ebpf_d_total", op, label("comm", "comm", chosen=False), chosen=False),
        histogram("ebpf_e_seconds", (1, 2), op, comm),
        counter("ebpf_f_total", op, label("comm", "string(16)")),
    ).tables
    assert [[metric.name for metric in table.metrics] for table in tables] == [
        ["ebpf_a_total", "ebpf_d_total"],
        ["ebpf_b_seconds"],
        ["ebpf_c_total"],
        ["ebpf_e_seconds"],
        ["ebpf_f_total"],
    ]
    assert [table.values for table in tables[:2]] == [("a", "d"), ("count", "sum")]


def test_a_table_is_chosen_if_one_of_its_metrics_is() -> None:
    """A table of which one metric is wanted is read; one of which none is, is not."""
    off = counter("ebpf_b_total", chosen=False)
    assert Table((counter("ebpf_a_total"), off)).chosen
    assert not Table((off,)).chosen


def programs(wanted: Probe) -> list[str]:
    return [program.name for program in wanted.programs(wanted.mechanisms[0])]


@pytest.mark.parametrize(
    ("file_chosen", "b_chosen", "expected"),
    [
        (True, True, ["always", "for_file", "for_b", "for_both"]),
        (True, False, ["always", "for_file", "for_both"]),
        (False, True, ["always", "for_b", "for_both"]),
        (False, False, ["always"]),
    ],
)
def test_programs_that_are_needed(file_chosen: bool, b_chosen: bool, expected: list[str]) -> None:
    """A program runs if anything that it is for is wanted; one that is for nothing special always runs."""
    hooks = (Hook("xdp", ""),)
    mechanism = Mechanism(
        (
            Program("always", hooks),
            Program("for_file", hooks, ("file",)),
            Program("for_b", hooks, ("ebpf_b_total",)),
            Program("for_both", hooks, ("file", "ebpf_b_total")),
        )
    )
    base = probe(counter("ebpf_a_total", label("file", "comm", file_chosen)), counter("ebpf_b_total", chosen=b_chosen))
    assert programs(Probe("p", "", base.declaration, base.source, (mechanism,), base.metrics)) == expected


def test_a_label_of_a_metric_that_is_left_out_needs_nothing() -> None:
    """A chosen label counts only if its metric is chosen too."""
    assert probe(counter("ebpf_a_total", label("file", "comm"), chosen=False)).chosen_names == frozenset()


@pytest.mark.parametrize(
    ("hooks", "name"),
    [
        ([Hook("kretprobe", "a"), Hook("kprobe", "a")], "kprobe+kretprobe"),
        ([Hook("tracepoint", "a:b"), Hook("tracepoint", "a:c")], "tracepoint"),
        ([Hook("xdp", "")], "xdp"),
    ],
)
def test_name_of_a_mechanism(hooks: list[Hook], name: str) -> None:
    """A mechanism is named by its hooks' families, without those of programs that are not wanted."""
    unneeded = Program("unneeded", (Hook("fentry", "c"),), ("absent",))
    mechanism = Mechanism((*(Program(f"p{hook}", (hook,)) for hook in hooks), unneeded))
    assert probe(counter("ebpf_a_total")).mechanism_name(mechanism) == name


def test_hooks_are_named_as_bpftrace_does() -> None:
    """family:target, or the family alone."""
    assert [str(Hook("kprobe", "vfs_read")), str(Hook("xdp", ""))] == ["kprobe:vfs_read", "xdp"]


def test_short_names() -> None:
    """The name in C lacks what all metrics, or all counters, have."""
    assert [counter("ebpf_a_bytes_total").short_name, histogram("ebpf_a_seconds", (0, 1)).short_name] == [
        "a_bytes",
        "a_seconds",
    ]


def test_a_probe_is_picklable() -> None:
    """A probe goes from process to process, also after its layout was made."""
    one = probe(counter("ebpf_a_total", label("op", OP), label("comm", "comm")))
    assert one.tables[0].fields[0] == Field("op", one.metrics[0].labels[0].kind, 0, 1)
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert again.tables[0].fields == one.tables[0].fields


RULED = dataclasses.replace(
    probe(counter("ebpf_a_total", label("action", ["pass", "drop"])), counter("ebpf_b_total", label("rule", "rule"))),
    rule_metric="ebpf_b_total",
)


def ruled(*names: str) -> Probe:
    return dataclasses.replace(RULED, rules=tuple(Rule(name, "count") for name in names))


def test_probes_that_differ_in_their_rules_alone() -> None:
    """Those of whose rules each name has the number that it had, with nothing else that is another."""
    before = numbered(ruled("a", "b"))
    for names in (("b", "a"), ("a",), (), ("c", "a", "b"), ("c",)):
        after = numbered(ruled(*names), before.rule_names)
        assert differ_in_rules_alone(before, after)
        assert not differ_in_rules_alone(before, dataclasses.replace(after, max_series=7))
        assert not differ_in_rules_alone(before, dataclasses.replace(after, interfaces=("eth0",)))
    assert not differ_in_rules_alone(before, before)
    assert not differ_in_rules_alone(before, numbered(ruled("b", "a")))  # whose numbers are others


def test_more_rules_than_the_maps_have_room_for() -> None:
    """Maps that are too small for so many names are not those of the next rules."""
    before = numbered(ruled("a"))
    few, many = (numbered(ruled(*map(str, range(count))), before.rule_names) for count in (100, 300))
    assert (differ_in_rules_alone(before, few), differ_in_rules_alone(before, many)) == (True, False)


@pytest.mark.parametrize(
    ("asked", "actions", "percent"),
    [(None, (), 5), (None, ("count", "pass"), 5), (None, ("count", "drop"), 0), (7, ("drop",), 7), (0, (), 0)],
)
def test_what_drops_packets_has_no_limit_of_cost_by_default(
    asked: float | None, actions: tuple[str, ...], percent: float
) -> None:
    """What was asked for holds; without that there is a limit, but where a flood would end what is to stop it."""
    rules = tuple(Rule(action, action) for action in actions)
    assert dataclasses.replace(probe(), max_cpu_percent=asked, rules=rules).cpu_percent == percent
