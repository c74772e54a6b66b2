# SPDX-License-Identifier: Apache-2.0
"""From what a map holds, read after read, to what the page shows."""

from typing import Any

from exporter import kinds
from exporter.bpftrace.output import Pairs
from exporter.bpftrace.totals import OfMap, shown
from exporter.probe import Label, Metric, ScriptMap
from tests.unit.support import samples


def series(kind: str, *labels: str, texts: tuple[int, ...] = (), max_series: int = 10, deletes: bool = False) -> OfMap:
    named = tuple(Label(label, kinds.parse("string(256)")) for label in labels)
    return shown(ScriptMap("@x", Metric("ebpf_x", kind, "Help.", named), texts, deletes), max_series)


def page(found: OfMap) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    return samples("".join(lines.decode() for _, lines in found.render()))


def values(found: OfMap, label: str = "key") -> dict[str, float]:
    return {dict(labels)[label]: value for labels, value in page(found).get("ebpf_x", {}).items()}


def test_a_counter_never_goes_down() -> None:
    """Less than before is a map that began anew; so is what was not there, and a bpftrace that was started again."""
    found = series("counter", "key", texts=(2,))
    seen = []
    for entries in ([(b"a", 5)], [(b"a", 7)], [(b"a", 2)], [], [(b"a", 3)]):
        found.take(entries)
        seen.append(values(found)["a"])
    found.forget()
    found.take([(b"a", 4)])
    assert [*seen, values(found)["a"]] == [5, 7, 9, 9, 12, 16]


def test_a_counter_without_labels_is_there_from_the_beginning() -> None:
    """With 0."""
    found = series("counter")
    assert page(found) == {"ebpf_x": {(): 0}}
    found.take([(b"", 3)])
    assert page(found) == {"ebpf_x": {(): 3}}


def test_keys_that_read_the_same_are_one_series() -> None:
    """Their sum; but where a script deletes keys, the same key may have come twice."""
    for deletes, expected in ((False, 5), (True, 3)):
        found = series("counter", "key", texts=(2,), deletes=deletes)
        found.take([(b"a", 2), (b"a", 3)])
        assert values(found) == {"a": expected}


def test_what_is_no_number_is_not_shown() -> None:
    """Texts, lists, truth values, what is below 0 of a counter, long keys."""
    for kind in ("counter", "gauge"):
        found = series(kind, "key", texts=(2,))
        entries: list[tuple[bytes, Any]] = [(b"a", "text"), (b"b", [1]), (b"c", True), (b"d", Pairs()), (b"e", None)]
        found.take([*entries, (b"y" * 300, 1)])
        assert values(found) == {"y" * (255 if kind == "counter" else 300): 1}


def test_a_gauge_is_what_the_map_holds_now() -> None:
    """Up, down, and gone."""
    found = series("gauge", "key", texts=(1,), max_series=2)
    found.take([(b"a", 5), (b"b", -3), (b"c", 1)])
    assert values(found) == {"a": 5, "b": -3}
    assert found.folded == 1
    found.take([(b"b", 2)])
    assert values(found) == {"b": 2}


def stats(count: int, total: int) -> Pairs:
    return Pairs([("count", count), ("average", total // count), ("total", total)])


def test_a_summary_of_values_below_zero() -> None:
    """The sum may fall; a count that falls is a map that began anew."""
    found = series("summary")
    seen = []
    for value in (stats(2, 10), stats(3, -10), stats(1, 7)):
        found.take([(b"", value)])
        seen.append((page(found)["ebpf_x_count"][()], page(found)["ebpf_x_sum"][()]))
    assert seen == [(2, 10), (3, -10), (4, -3)]


def bucket(count: int, **bounds: int) -> Pairs:
    return Pairs([*bounds.items(), ("count", count)])


def les(found: OfMap, **labels: str) -> dict[str, float]:
    return {
        dict(has)["le"]: value
        for has, value in page(found)["ebpf_x_bucket"].items()
        if labels.items() <= dict(has).items()
    }


def test_a_buckets_bound_is_its_greatest_value() -> None:
    """Inclusive, as le is; what has no greatest value is below infinity."""
    found = series("histogram")
    found.take([(b"", [bucket(1, max=-1), bucket(2, min=0, max=9), bucket(0, min=10, max=19), bucket(4, min=20)])])
    assert les(found) == {"-1.0": 1, "9.0": 3, "19.0": 3, "+Inf": 7}
    assert set(page(found)) == {"ebpf_x_bucket"}


def test_all_series_of_a_histogram_have_the_same_bounds() -> None:
    """So that they can be added, though bpftrace leaves out what is empty at the ends."""
    found = series("histogram", "key", texts=(2,))
    found.take([(b"a", [bucket(1, min=0, max=0)]), (b"b", [bucket(2, min=4, max=7)])])
    assert les(found, key="a") == {"0.0": 1, "7.0": 1, "+Inf": 1}
    assert les(found, key="b") == {"0.0": 0, "7.0": 2, "+Inf": 2}


def test_the_last_bucket_of_old_bpftraces_has_no_end() -> None:
    """Up to 0.19 hist() has one for all from 2**31 on, and prints nonsense for its bounds."""
    found = series("histogram")
    found.take([(b"", [bucket(1, min=2**30, max=2**31 - 1), bucket(3, min=-(2**31), max=0)])])
    assert les(found) == {"2147483647.0": 1, "+Inf": 4}


def test_a_histogram_that_began_anew_is_added() -> None:
    """As soon as one bucket has less than before."""
    found = series("histogram")
    found.take([(b"", [bucket(5, min=1, max=1)])])
    found.take([(b"", [bucket(2, min=1, max=1), bucket(1, min=2, max=3)])])
    assert les(found) == {"1.0": 7, "3.0": 8, "+Inf": 8}


def test_beyond_the_budget_is_other() -> None:
    """Sums hold, for all but gauges."""
    keys = [b"%d" % number for number in range(7)]
    counters, histograms = (series(kind, "key", texts=(0,), max_series=3) for kind in ("counter", "histogram"))
    counters.take([(key, 2) for key in keys])
    histograms.take([(key, [bucket(2, min=1, max=1)]) for key in keys])
    assert values(counters) == {"0": 2, "1": 2, "2": 2, "(other)": 8}
    assert les(histograms, key="(other)")["+Inf"] == 8
    assert (counters.folded, histograms.folded) == (4, 4)


def test_hostile_labels_are_escaped() -> None:
    """In counters as in the others."""
    for kind in ("counter", "gauge"):
        found = series(kind, "comm", "n", texts=(2, 0))
        found.take([(b'"}\n\\,\xff<b>,7', 1)])
        assert list(page(found)["ebpf_x"]) == [(("comm", '"}\n\\,\\xff<b>'), ("n", "7"))]
