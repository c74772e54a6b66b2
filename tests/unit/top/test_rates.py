# SPDX-License-Identifier: Apache-2.0
"""top/rates.py: differences over time, as the truth is known."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.top import rates
from exporter.top.answers import Distribution, Totals
from exporter.top.rates import ProbeRate, Rate

from .support import metric, probe, probes, series


def test_a_probe() -> None:
    """1,000 events in 2 s that took 0.5 ms: 500 a second, 500 ns each, 0.025 % of a core."""
    before = probe(events_total=4000, run_seconds_total=1.0)
    now = probe(events_total=5000, run_seconds_total=1.0005)
    [rate] = rates.of_probes(probes(10, before), probes(12, now))
    assert (rate.events, round(rate.nanoseconds or 0, 6), round(rate.percent or 0, 9)) == (500, 500, 0.025)


def test_a_probe_from_its_history() -> None:
    """At the first look it is since the last read before."""
    history = (Totals(4, 0, 0), Totals(6, 100, 0), Totals(10, 300, 0))
    now = probe(events_total=300, history=[[one.time, one.events, one.run_seconds] for one in history])
    assert rates.of_probes(None, probes(10, now))[0].events == 50


def test_what_is_not_known_of_a_probe() -> None:
    """Without an earlier look, or statistics, there is no rate; with no event there is no time that one took."""
    new = probe()
    assert rates.of_probes(None, probes(10, new)) == [ProbeRate(new)]
    assert rates.of_probes(probes(10, new), probes(10, new)) == [ProbeRate(new)]
    assert rates.of_probes(probes(9, probe("other")), probes(10, new)) == [ProbeRate(new)]
    blind = probe(events_total=None, run_seconds_total=None)
    assert rates.of_probes(probes(9, blind), probes(10, blind)) == [ProbeRate(blind)]
    assert rates.of_probes(probes(9, new), probes(10, new)) == [ProbeRate(new, 0, None, 0)]


def test_counters_that_began_anew() -> None:
    """A total that is smaller than before began at 0, as after a restart."""
    rate = rates.of_probes(probes(0, probe(events_total=900)), probes(2, probe(events_total=30)))[0]
    assert rate.events == 15
    before, now = metric({("a",): 900, ("(other)",): 50}), metric({("a",): 30, ("(other)",): 4})
    [group] = rates.of_series(series(0, before), series(2, now))
    assert {key: rate.per_second for key, (rate,) in group.rows.items()} == {("a",): 15, ("(other)",): 2}


def test_counters() -> None:
    """By how much each grew; a series that was not there has grown from 0; before a second look nothing is known."""
    before, now = metric({("a",): 10, ("b",): 5}), metric({("a",): 30, ("b",): 5, ("c",): 8})
    [group] = rates.of_series(series(0, before), series(4, now))
    assert group.rows == {("a",): (Rate(30, 5),), ("b",): (Rate(5, 0),), ("c",): (Rate(8, 2),)}
    [group] = rates.of_series(None, series(4, now))
    assert group.rows[("a",)] == (Rate(30),)


def test_gauges() -> None:
    """A gauge is what it is."""
    [group] = rates.of_series(
        series(0, metric({("a",): 1}, kind="gauge")), series(1, metric({("a",): 3, ("b",): None}, kind="gauge"))
    )
    assert group.rows == {("a",): (Rate(3),), ("b",): (Rate(None),)}


def test_metrics_with_the_same_labels_are_one_group() -> None:
    """Their series stand in one row; one that another metric lacks is not known there."""
    a = metric({("x",): 1, ("y",): 2}, "a_total")
    b = metric({("x",): 3}, "b_total")
    c = metric({("read", "x"): 4}, "c_total", ("op", "comm"))
    groups = rates.of_series(None, series(0, a, c, b))
    assert [[one.name for one in group.metrics] for group in groups] == [["a_total", "b_total"], ["c_total"]]
    assert groups[0].rows == {("x",): (Rate(1), Rate(3)), ("y",): (Rate(2), Rate(None))}


def test_what_moves_to_other_is_no_event() -> None:
    """A series that gives way leaves its 70 in the (other) that is most like it: of what that grew by, 5 came anew."""
    labels = ("op", "comm")
    before = metric({("r", "a"): 70, ("w", "b"): 9, ("r", "(other)"): 10, ("(other)", "(other)"): 1}, labels=labels)
    now = metric({("w", "b"): 9, ("r", "(other)"): 85, ("(other)", "(other)"): 1, ("r", "c"): 3}, labels=labels)
    [group] = rates.of_series(series(0, before), series(1, now))
    found = {key: rate.per_second for key, (rate,) in group.rows.items()}
    assert found == {("w", "b"): 0, ("r", "(other)"): 5, ("(other)", "(other)"): 0, ("r", "c"): 3}


COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1000))


@given(COUNTS, COUNTS, st.sets(st.sampled_from("abcdef")), st.integers(0, 50))
def test_rates_add_up(had: dict[str, int], new: dict[str, int], give_way: set[str], other: int) -> None:
    """Whatever gives way, and whatever comes, the rates of all series are that of all events."""
    before = {(key,): value for key, value in had.items()} | {("(other)",): other}
    now = dict(before)
    for key in give_way & had.keys():
        now[("(other)",)] += now.pop((key,))
    for key, value in new.items():
        now[(key,)] = now.get((key,), 0) + value
    # one that came back with more than it had before can't be told from one that never went
    if any((key,) in now and now[(key,)] >= had[key] for key in give_way & had.keys()):
        return
    [group] = rates.of_series(series(0, metric(before)), series(1, metric(now)))
    assert sum(rate.per_second or 0 for (rate,) in group.rows.values()) == sum(new.values())


def test_histograms() -> None:
    """What came in between: 100 in 2 s, mean and 99th percentile of these alone."""
    inf = float("inf")
    before = Distribution(1000, 1000.0, ((1.0, 1000), (2.0, 1000), (inf, 1000)))
    now = Distribution(1100, 1150.0, ((1.0, 1050), (2.0, 1100), (inf, 1100)))
    [group] = rates.of_series(
        series(0, metric({("a",): before}, kind="histogram")), series(2, metric({("a",): now}, kind="histogram"))
    )
    [[rate]] = group.rows.values()
    assert (rate.value, rate.per_second, rate.mean, round(rate.p99 or 0, 9)) == (1100, 50, 1.5, 1.98)


def test_histograms_that_tell_less() -> None:
    """A summary has no buckets; a histogram may have none but one; and one that began anew began at 0."""
    kinds = [Distribution(4, 8.0, ()), Distribution(4, None, ((float("inf"), 4),)), Distribution(2, 3.0, ())]
    found = []
    for now in kinds:
        before = metric({("a",): Distribution(3, 1.0, ())}, kind="histogram")
        [group] = rates.of_series(series(0, before), series(1, metric({("a",): now}, kind="histogram")))
        [[rate]] = group.rows.values()
        found.append(rate)
    assert found == [Rate(4, 1, 7.0, None), Rate(4, 1, None, 0.0), Rate(2, 2, 1.5, None)]


def test_quantile() -> None:
    """As histogram_quantile: linear within a bucket; above all bounds the largest; of nothing none."""
    buckets = [(1.0, 0.0), (2.0, 10.0), (4.0, 20.0), (float("inf"), 40.0)]
    assert [rates.quantile(q, buckets) for q in (0.125, 0.25, 0.375, 0.99)] == [1.5, 2.0, 3.0, 4.0]
    assert (rates.quantile(0.5, []), rates.quantile(0.5, [(1.0, 0.0)])) == (None, None)
