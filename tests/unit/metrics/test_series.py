# SPDX-License-Identifier: Apache-2.0
"""metrics/series.py: totals never lie, whatever the budget; lines are what Prometheus reads."""

import math
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import cgroups, kinds
from exporter.metrics.series import Series
from exporter.probe import OTHER, Table

from ..support import bounded_key, counter, gauge, histogram, key, label, numbers, probe, samples

OP = ["read", "write"]
IO = Table(
    (
        counter("ebpf_bytes_total", label("op", OP), label("comm", "comm")),
        counter("ebpf_calls_total", label("op", OP), label("comm", "comm")),
    )
)
PLAIN = Table((counter("ebpf_events_total"),))
OPS = Table((counter("ebpf_ops_total", label("result", "errno")),))
COMMS = Table((counter("ebpf_comms_total", label("comm", "comm")),))
LATENCY = Table((histogram("ebpf_latency_seconds", (1, 3), label("op", OP), label("comm", "comm"), scale=0.5),))


def io(series: Series, op: int, comm: str, size: int, calls: int = 1) -> None:
    series.add(key(IO, op=op, comm=comm), numbers(size, calls))


def text(series: Series) -> str:
    return b"".join(lines for _, lines in series.render()).decode()


def calls(series: Series) -> dict[tuple[str, str], float]:
    """(op, comm) -> calls"""
    return {
        (dict(labels)["op"], dict(labels)["comm"]): value
        for labels, value in samples(text(series))["ebpf_calls_total"].items()
    }


def test_adds() -> None:
    """What drains bring is added up, series by series and metric by metric."""
    series = Series(IO, 10)
    series.add(
        key(IO, op=0, comm="cat") + key(IO, op=1, comm="dd") + key(IO, op=0, comm="dd"),
        numbers(100, 1) + numbers(200, 2) + numbers(300, 3),
    )
    io(series, 0, "cat", 1000, 10)
    assert samples(text(series)) == {
        "ebpf_bytes_total": {
            (("comm", "cat"), ("op", "read")): 1100.0,
            (("comm", "dd"), ("op", "read")): 300.0,
            (("comm", "dd"), ("op", "write")): 200.0,
        },
        "ebpf_calls_total": {
            (("comm", "cat"), ("op", "read")): 11.0,
            (("comm", "dd"), ("op", "read")): 3.0,
            (("comm", "dd"), ("op", "write")): 2.0,
        },
    }
    assert (len(series), series.folded, series.overflowed) == (3, 0, 0)


def test_lines_change_with_their_values() -> None:
    """A page that is asked for again shows what came since, and is the same where nothing came."""
    series = Series(OPS, 10)
    assert text(series) == ""
    series.add(key(OPS, result=0), numbers(1))
    assert text(series) == 'ebpf_ops_total{result="ok"} 1\n'
    series.add(key(OPS, result=2) + key(OPS, result=0), numbers(5) + numbers(7))
    assert text(series) == 'ebpf_ops_total{result="ok"} 8\nebpf_ops_total{result="ENOENT"} 5\n'
    assert text(series) == 'ebpf_ops_total{result="ok"} 8\nebpf_ops_total{result="ENOENT"} 5\n'


def test_large_totals_are_exact() -> None:
    """Totals are integers without an end: no bit is lost above 2**53, none overflows at 2**64."""
    series = Series(PLAIN, 10)
    for _ in range(3):
        series.add(key(PLAIN), numbers(2**64 - 1))
    assert text(series) == f"ebpf_events_total {3 * (2**64 - 1)}\n"


def test_a_metric_that_is_left_out_has_no_lines() -> None:
    """Of metrics that share a table only the chosen ones are rendered, each with its own values."""
    table = Table((counter("ebpf_a_total", chosen=False), counter("ebpf_b_total")))
    series = Series(table, 10)
    series.add(key(table), numbers(3, 4))
    assert text(series) == "ebpf_b_total 4\n"


def test_without_labels_a_metric_starts_at_zero() -> None:
    """A metric of one series is there before anything happens; one with labels can't be."""
    latency = Table((histogram("ebpf_h", (0, 1)),))
    assert text(Series(PLAIN, 10)) == "ebpf_events_total 0\n"
    assert text(Series(OPS, 10)) == ""
    assert text(Series(latency, 10)) == (
        'ebpf_h_bucket{le="1.0"} 0\nebpf_h_bucket{le="2.0"} 0\nebpf_h_bucket{le="+Inf"} 0\n'
        "ebpf_h_sum 0\nebpf_h_count 0\n"
    )


def test_two_keys_of_one_text_are_one_series() -> None:
    """Keys that differ in what is not shown, behind the end of a string, are counted together, once in the budget."""
    series = Series(COMMS, 2)
    series.add(key(COMMS, comm=b"sh\0old") + key(COMMS, comm=b"sh\0rest") + key(COMMS, comm=b"ls"), numbers(1, 2, 4))
    assert text(series) == 'ebpf_comms_total{comm="sh"} 3\nebpf_comms_total{comm="ls"} 4\n'
    assert (len(series), series.folded) == (2, 0)


def test_beyond_the_budget_keys_are_counted_under_other() -> None:
    """A key for which there is no series left loses its unbounded labels and keeps its bounded ones."""
    series = Series(IO, 2)
    for op, comm, size in ((0, "a", 1), (1, "b", 2), (0, "c", 4), (1, "d", 8), (1, "e", 16), (0, "a", 32)):
        io(series, op, comm, size)
    assert samples(text(series))["ebpf_bytes_total"] == {
        (("comm", "a"), ("op", "read")): 33.0,
        (("comm", "b"), ("op", "write")): 2.0,
        (("comm", OTHER), ("op", "read")): 4.0,
        (("comm", OTHER), ("op", "write")): 24.0,
    }
    assert (len(series), series.folded) == (4, 3)


def test_bounded_labels_are_never_folded() -> None:
    """Where all labels are bounded nothing reads (other), and nothing is counted as folded, whatever the budget."""
    series = Series(OPS, 1)
    for result in (0, 2, 13, 2):
        series.add(key(OPS, result=result), numbers(1))
    assert samples(text(series))["ebpf_ops_total"] == {
        (("result", "ok"),): 1.0,
        (("result", "ENOENT"),): 2.0,
        (("result", "EACCES"),): 1.0,
    }


def test_a_process_that_is_called_other() -> None:
    """A value that reads like what is folded is counted with it: one line, and the sum is true."""
    series = Series(IO, 1)
    io(series, 0, OTHER, 1)
    io(series, 0, "b", 2)
    io(series, 0, OTHER, 4)
    assert calls(series) == {("read", OTHER): 2.0, ("read", "b"): 1.0}  # it takes nobody's place in the budget


def test_nobody_is_lost_with_a_process_that_is_called_other() -> None:
    """With the budget full, and the series of that name where all others are folded, every sum goes on."""
    series = Series(IO, 2)
    names = [OTHER, "a", "b", "c", "d"]
    total = 0.0
    for read in range(12):
        amounts = {OTHER: 1, "a": 50, "b": 40, "c": 1 if read < 4 else 500, "d": 3}
        total += sum(amounts.values())
        for name in names:
            io(series, 0, name, amounts[name])
        series.settle()
        assert sum(samples(text(series))["ebpf_bytes_total"].values()) == total
    assert ("read", "c") in calls(series)


def test_keys_that_share_a_series_are_forgotten_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cgroups come and go; what they counted stays, and so do the series."""
    monkeypatch.setattr("exporter.metrics.series._MOST_KEYS", 10)
    monkeypatch.setattr("exporter.kinds._DECODERS", kinds._DECODERS | {"unit": lambda *_: "one.service"})
    table = Table((counter("ebpf_units_total", label("unit", "unit")),))
    series = Series(table, 5)
    for number in range(100):
        series.add(key(table, unit=number), numbers(1))
        series.settle()
    assert text(series) == 'ebpf_units_total{unit="one.service"} 100\n'
    assert len(series._of_key) <= 16


def test_overflow_keeps_bounded_labels() -> None:
    """What found the kernel's map full is counted under its bounded labels, with the number of its events."""
    series = Series(IO, 10)
    series.add_overflow(bounded_key(IO, op=1) + bounded_key(IO, op=0), numbers(100, 3, 3) + numbers(50, 2, 2))
    series.add_overflow(bounded_key(IO, op=1), numbers(1, 1, 1))
    assert calls(series) == {("write", OTHER): 4.0, ("read", OTHER): 2.0}
    assert (series.overflowed, series.folded) == (6, 0)


def test_folded_and_overflowed_are_one_series() -> None:
    """What is folded for the budget and what overflowed in the kernel have the same labels, and one line."""
    series = Series(IO, 1)
    io(series, 0, "a", 1)
    io(series, 0, "b", 1)
    series.add_overflow(bounded_key(IO, op=0), numbers(1, 1, 1))
    assert calls(series) == {("read", "a"): 1.0, ("read", OTHER): 2.0}


def test_the_rest_is_added_under_other() -> None:
    """What the last cell held goes to the series whose labels all read (other); an empty one makes no series."""
    series = Series(IO, 10)
    series.add_rest(numbers(0, 0, 0))
    assert len(series) == 0
    series.add_rest(numbers(100, 2, 2))
    series.add_rest(numbers(50, 1, 1))
    assert samples(text(series)) == {
        "ebpf_bytes_total": {(("comm", OTHER), ("op", OTHER)): 150.0},
        "ebpf_calls_total": {(("comm", OTHER), ("op", OTHER)): 3.0},
    }
    assert series.overflowed == 3


def test_the_rest_of_a_table_without_labels() -> None:
    """Where there are no labels the rest is the one series."""
    series = Series(PLAIN, 10)
    series.add(key(PLAIN), numbers(5))
    series.add_rest(numbers(2, 2))
    assert text(series) == "ebpf_events_total 7\n"


def observe(series: Series, table: Table, op: int, comm: str, values: Iterable[int]) -> None:
    """As the kernel does it: the bucket of a value is that of the smallest bound not below it."""
    for value in values:
        bucket = sum(value > bound for bound in table.metrics[0].bounds)
        series.add(key(table, op=op, comm=comm, bucket=bucket), numbers(1, value))


def test_histogram() -> None:
    """Buckets are cumulative, their bounds inclusive and in the exposed unit; +Inf is the count; the sum is true."""
    series = Series(LATENCY, 10)
    observe(series, LATENCY, 0, "cat", [0, 1, 2, 3, 4, 5, 8, 9, 1000])
    assert text(series) == (
        'ebpf_latency_seconds_bucket{op="read",comm="cat",le="1.0"} 3\n'
        'ebpf_latency_seconds_bucket{op="read",comm="cat",le="2.0"} 5\n'
        'ebpf_latency_seconds_bucket{op="read",comm="cat",le="4.0"} 7\n'
        'ebpf_latency_seconds_bucket{op="read",comm="cat",le="+Inf"} 9\n'
        'ebpf_latency_seconds_sum{op="read",comm="cat"} 516.0\n'
        'ebpf_latency_seconds_count{op="read",comm="cat"} 9\n'
    )


def test_histogram_without_scale_has_a_sum_of_integers() -> None:
    """Without a scale the sum is exact, and a budget counts series, not buckets."""
    table = Table((histogram("ebpf_size_bytes", (0, 1), label("op", OP), label("comm", "comm")),))
    series = Series(table, 1)
    observe(series, table, 0, "cat", [1, 2, 2**60, 2**60 + 1])
    assert 'ebpf_size_bytes_sum{op="read",comm="cat"} 2305843009213693956\n' in text(series)
    assert (len(series), series.folded) == (1, 0)


def test_histogram_beyond_the_budget() -> None:
    """What is folded or overflows keeps its bucket; of the rest only the count and the sum are known."""
    series = Series(LATENCY, 1)
    observe(series, LATENCY, 0, "a", [1])
    observe(series, LATENCY, 0, "b", [3, 1000])
    series.add_overflow(bounded_key(LATENCY, op=1, bucket=1), numbers(2, 8, 2))
    series.add_rest(numbers(3, 30, 3))
    found = samples(text(series))
    buckets = {
        (dict(labels)["op"], dict(labels)["comm"], dict(labels)["le"]): value
        for labels, value in found["ebpf_latency_seconds_bucket"].items()
    }
    les = ("1.0", "2.0", "4.0", "+Inf")
    assert [buckets["read", "a", le] for le in les] == [1, 1, 1, 1]
    assert [buckets["read", OTHER, le] for le in les] == [0, 1, 1, 2]
    assert [buckets["write", OTHER, le] for le in les] == [0, 2, 2, 2]
    assert [buckets[OTHER, OTHER, le] for le in les] == [0, 0, 0, 3]
    assert sum(found["ebpf_latency_seconds_sum"].values()) == (1 + 1003 + 8 + 30) / 2
    assert series.overflowed == 5


def rounds(series: Series, *amounts: dict[str, int]) -> list[dict[tuple[str, str], float]]:
    """Reads in which commands read so many bytes; the page's bytes by (op, comm) after each."""
    pages = []
    for read in amounts:
        for comm, times in read.items():
            io(series, 0, comm, times)
        series.settle()
        found = samples(text(series))["ebpf_bytes_total"].items()
        pages.append({(dict(labels)["op"], dict(labels)["comm"]): value for labels, value in found})
    return pages


def test_a_more_active_key_has_its_series_within_three_reads() -> None:
    """With the budget full, who is more active than the least active series takes its place; sums stay as they were."""
    series = Series(IO, 2)
    all_three = {"a": 10, "b": 2, "c": 3}
    pages = rounds(series, {"a": 10, "b": 2}, all_three, all_three, all_three, {"c": 3})
    assert ("read", "c") not in pages[2]
    assert pages[3] == {("read", "a"): 40.0, ("read", "c"): 0.0, ("read", OTHER): 17.0}
    assert pages[4] == {("read", "a"): 40.0, ("read", "c"): 3.0, ("read", OTHER): 17.0}


def test_a_less_active_key_displaces_nobody() -> None:
    """Who is less active than all series stays under (other), for ever."""
    series = Series(IO, 2)
    pages = rounds(series, *[{"a": 10, "b": 4, "c": 3}] * 20)
    assert pages[-1] == {("read", "a"): 200.0, ("read", "b"): 80.0, ("read", OTHER): 60.0}


def test_a_flood_of_keys_seen_once_displaces_nobody() -> None:
    """However many keys come once each, and however much each counts, who had a series keeps it."""
    series = Series(IO, 3)
    before = rounds(series, {"a": 1, "b": 1, "c": 1})[0]
    floods = [{f"flood{read}-{number}": 1000 for number in range(500)} for read in range(20)]
    after = rounds(series, *floods)[-1]
    assert after == before | {("read", OTHER): 20 * 500 * 1000.0}


def test_a_heavy_hitter_is_found_in_a_flood() -> None:
    """In the midst of more keys seen once than candidates are kept, one that is really active gets its series."""
    series = Series(IO, 1)
    reads = [{f"f{read}-{number}": 1 for number in range(3000)} | {"heavy": 50} for read in range(4)]
    pages = rounds(series, {"a": 1}, *reads)
    assert ("read", "heavy") in pages[-1]
    assert sum(pages[-1].values()) == 1 + 4 * 3050


def test_activity_is_measured_for_years() -> None:
    """After thousands of reads the weights are still numbers, and the order is still right."""
    series = Series(IO, 2)
    pages = rounds(series, *[{"a": 10, "b": 4, "c": 3}] * 3000, *[{"a": 10, "b": 4, "c": 5}] * 3)
    assert set(pages[2999]) == {("read", "a"), ("read", "b"), ("read", OTHER)}
    assert set(pages[-1]) == {("read", "a"), ("read", "c"), ("read", OTHER)}


def test_a_displaced_histogram_moves_bucket_by_bucket() -> None:
    """All buckets of a series that gives way are found in those of (other), and those of its successor are its own."""
    series = Series(LATENCY, 1)
    observe(series, LATENCY, 0, "old", [1, 3, 1000])
    series.settle()
    for _ in range(3):
        observe(series, LATENCY, 0, "new", [1, 1, 3, 3])
        series.settle()
    observe(series, LATENCY, 0, "new", [1, 3])
    found = samples(text(series))
    counts = {dict(labels)["comm"]: value for labels, value in found["ebpf_latency_seconds_count"].items()}
    assert counts == {"new": 2.0, OTHER: 15.0}
    buckets = {
        (dict(labels)["comm"], dict(labels)["le"]): value
        for labels, value in found["ebpf_latency_seconds_bucket"].items()
    }
    assert [buckets["new", le] for le in ("1.0", "2.0", "4.0", "+Inf")] == [1, 2, 2, 2]
    assert [buckets[OTHER, le] for le in ("1.0", "2.0", "4.0", "+Inf")] == [7, 14, 14, 15]


def test_a_histogram_is_as_active_as_all_its_buckets_together() -> None:
    """Who observes more than the least active series takes its place by the third read, in however many buckets."""
    series = Series(LATENCY, 1)
    for _ in range(4):
        observe(series, LATENCY, 0, "old", [1] * 6)
        observe(series, LATENCY, 0, "new", [1, 1, 1, 3, 3, 3, 1000, 1000, 1000])
        series.settle()
    found = samples(text(series))["ebpf_latency_seconds_count"]
    assert {dict(labels)["comm"]: value for labels, value in found.items()} == {"new": 9.0, OTHER: 51.0}


LEVELS = Table((gauge("ebpf_level", label("op", OP), label("comm", "comm")),))
PEAKS = Table((gauge("ebpf_peak", label("op", OP), label("comm", "comm"), keep="max"),))


def level(series: Series, comm: str, value: int) -> None:
    series.add(key(series.table, op=0, comm=comm), numbers(value % 2**64))
    series.settle()


@pytest.mark.parametrize(
    ("table", "values", "shown"),
    [
        (LEVELS, [5, 3], "3"),
        (LEVELS, [5, -3], "-3"),
        (LEVELS, [2**63 - 1], str(2**63 - 1)),
        (PEAKS, [5, 3], "5"),
        (PEAKS, [-5, -9], "-5"),
        (PEAKS, [3, 5, 4], "5"),
    ],
)
def test_a_gauge_keeps_the_last_value_or_the_largest(table: Table, values: list[int], shown: str) -> None:
    """Each read brings a value, which has a sign."""
    series = Series(table, 10)
    for value in values:
        level(series, "sh", value)
    assert text(series) == f'{table.metrics[0].name}{{op="read",comm="sh"}} {shown}\n'


def test_a_gauge_has_no_value_before_its_first() -> None:
    """Without labels it is not there either until something was seen: no zero that was never measured."""
    table = Table((gauge("ebpf_level", scale=1e-9),))
    series = Series(table, 10)
    assert text(series) == ""
    series.add(key(table), numbers(1500))
    assert text(series) == "ebpf_level 1.5e-06\n"


def test_a_gauge_beyond_the_budget() -> None:
    """What has no series of its own shows under (other): of the last the last, of the largest the largest."""
    for table, shown in ((LEVELS, "2"), (PEAKS, "9")):
        series = Series(table, 1)
        for comm, value in (("a", 1), ("b", 9), ("c", 2)):
            level(series, comm, value)
        name = table.metrics[0].name
        assert text(series) == f'{name}{{op="read",comm="a"}} 1\n{name}{{op="read",comm="{OTHER}"}} {shown}\n'


COMM = st.sampled_from(["", "a", "b", "c", "ü", OTHER, '"', "d", "e"])
EVENTS = st.lists(st.tuples(st.integers(0, 3), COMM, st.integers(0, 2**40)), max_size=60)
BUDGETS = st.integers(1, 8)
PATHS = st.lists(st.sampled_from(["map", "map", "map", "overflow", "render", "settle"]), min_size=60, max_size=60)


@given(events=EVENTS, budget=BUDGETS, paths=PATHS)
def test_sums_are_those_of_the_events(events: list[tuple[int, str, int]], budget: int, paths: list[str]) -> None:
    """In all and by each bounded label the series add up to what happened, whatever the budget and the way."""
    series = Series(IO, budget)
    truth: Counter[str] = Counter()
    own: set[tuple[int, str]] = set()
    for (op, comm, size), path in zip(events, paths, strict=False):
        truth[IO.metrics[0].labels[0].kind.decode(bytes([op]))] += size
        if path == "overflow":
            series.add_overflow(bounded_key(IO, op=op), numbers(size, 1, 1))
        else:
            own.add((op, comm))
            io(series, op, comm, size)
        if path == "render":
            text(series)
        elif path == "settle":
            series.settle()
    found = samples(text(series)).get("ebpf_bytes_total", {})
    by_op: Counter[str] = Counter()
    for labels, value in found.items():
        by_op[dict(labels)["op"]] += int(value)
    assert by_op == truth
    assert by_op.total() == sum(size for _, _, size in events[: len(paths)])
    assert sum(dict(labels)["comm"] != OTHER for labels in found) <= budget
    assert len(series) == len(found) <= budget + 4
    if len(own) <= budget:
        assert series.folded == 0


@given(events=EVENTS, budget=BUDGETS)
def test_histograms_add_up(events: list[tuple[int, str, int]], budget: int) -> None:
    """Over all series each bucket holds the events up to its bound, the count all events, the sum all values."""
    series = Series(LATENCY, budget)
    for op, comm, value in events:
        observe(series, LATENCY, op, comm, [value])
    found = samples(text(series))
    for bound, limit in (("1.0", 2), ("2.0", 4), ("4.0", 8), ("+Inf", math.inf)):
        expected = sum(value <= limit for _, _, value in events)
        buckets = found.get("ebpf_latency_seconds_bucket", {})
        assert sum(value for labels, value in buckets.items() if dict(labels)["le"] == bound) == expected
    assert sum(found.get("ebpf_latency_seconds_count", {}).values()) == len(events)
    assert sum(found.get("ebpf_latency_seconds_sum", {}).values()) == sum(value for _, _, value in events) / 2


@pytest.mark.parametrize("table", [IO, OPS, COMMS, PLAIN, LATENCY])
def test_views_of_a_buffer_will_do(table: Table) -> None:
    """Keys and values may be views of buffers that are used again afterwards."""
    keys, values = bytearray(key(table)), bytearray(numbers(*([1] * len(table.values))))
    series = Series(table, 10)
    series.add(memoryview(keys), memoryview(values))
    before = text(series)
    keys[:] = b"\xff" * len(keys)
    values[:] = bytes(len(values))
    assert text(series) == before


def test_many_numbers_of_one_text_are_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cgroups of a unit are one series, as are all that are not known; with the budget full, new ones join it.

    What becomes known later takes nothing away from what was counted as unknown.
    """
    paths = cgroups.Paths()
    monkeypatch.setattr(cgroups, "PATHS", paths)
    monkeypatch.setattr(cgroups, "found", lambda: iter(()))
    paths.learn(1, b"/a.service/x")
    paths.learn(2, b"/a.service/y")
    [table] = probe(counter("ebpf_a_total", label("unit", "unit"))).tables
    series = Series(table, 2)

    def count(*units: int) -> dict[str, float]:
        keys = b"".join(key(table, unit=unit) for unit in units)
        series.add(keys, numbers(*range(1, len(units) + 1)))
        series.settle()
        text = b"".join(lines for _, lines in series.render()).decode()
        return {dict(labels)["unit"]: value for labels, value in samples(text)["ebpf_a_total"].items()}

    assert count(1, 2, 7, 8) == {"a.service": 3, "(unknown)": 7}
    paths.learn(3, b"/a.service/z")
    paths.learn(7, b"/late.service")
    paths.learn(4, b"/b.service")
    assert count(3, 7, 9, 4) == {"a.service": 4, "(unknown)": 12, "(other)": 4}
    assert series.folded == 1
