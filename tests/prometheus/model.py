# SPDX-License-Identifier: Apache-2.0
"""What an expression should say, from the samples that Prometheus has: computed here, without its functions."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import inf

from exporter.probe import OTHER
from tests.kernel.prometheus import Prometheus

Labels = dict[str, str]
Range = tuple[float, float]  # a value lies in it
Key = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Result:
    """Values by labels. Where most is set, only the largest of them are told, and besides those whose label wide reads
    (other)."""

    values: dict[Key, Range]
    most: int | None = None
    wide: str = ""

    def check(self, found: dict[Key, float], what: str) -> None:
        """Fails where what was found is something else."""
        for key, value in found.items():
            assert key in self.values, f"{what}: not expected: {dict(key)}"
            low, high = self.values[key]
            assert low * (1 - 1e-6) - 1e-12 <= value <= high * (1 + 1e-6) + 1e-12, f"{what}: {dict(key)}: {low}…{high}"
        missing = self.values.keys() - found.keys()
        if self.most is None:
            assert not missing, f"{what}: lacking: {missing}"
            return
        own = {key for key in self.values if (self.wide, OTHER) not in key}
        assert not missing - own, f"{what}: (other) is lacking"
        assert len(found.keys() & own) == min(self.most, len(own)), what
        least = min((found[key] for key in found.keys() & own), default=inf)
        assert all(self.values[key][0] <= least * (1 + 1e-6) for key in missing), f"{what}: not the largest"


class Moment:
    """A Prometheus server at one time, and the seconds before it in which what was done was done."""

    def __init__(self, server: Prometheus, at: float, seconds: float, instances: list[str]) -> None:
        """instances are those that are chosen."""
        self._server, self.at, self.seconds, self._instances = server, at, seconds, instances

    def found(self, expression: str) -> dict[Key, float]:
        """Returns what Prometheus says."""
        found = self._server.query(expression, time=self.at)
        result = {frozenset(one["metric"].items()): float(one["value"][1]) for one in found}
        assert len(result) == len(found)
        return result

    def courses(self, metric: str, seconds: float) -> Iterator[tuple[Labels, list[tuple[float, float]]]]:
        """Yields the samples of each series of the chosen instances in the last seconds, as time and value."""
        for labels, values in self._raw(f"{metric}[{round(seconds * 1000)}ms]"):
            if labels.get("instance") in self._instances:
                yield labels, values

    @cache  # noqa: B019 - it lives as long as its test
    def _raw(self, selector: str) -> list[tuple[Labels, list[tuple[float, float]]]]:
        found = self._server.query(selector, time=self.at)
        return [(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in found]

    def current(self, metric: str) -> Iterator[tuple[Labels, float]]:
        """Yields each series that is there, and its value."""
        for one in self._server.query(metric, time=self.at):
            if one["metric"].get("instance") in self._instances:
                yield one["metric"], float(one["value"][1])


Expected = Callable[[Moment], Result]


def growth(values: list[tuple[float, float]]) -> float:
    """Returns by how much a counter grew; one that is less than before began anew."""
    return sum(later - earlier if later >= earlier else later for (_, earlier), (_, later) in pairwise(values))


def _matches(labels: Labels, where: Labels) -> bool:
    """A value that begins with ! is one that a label has not."""
    return all(
        labels.get(name, "") != value[1:] if value.startswith("!") else labels.get(name, "") == value
        for name, value in where.items()
    )


def _key(labels: Labels, by: tuple[str, ...]) -> Key:
    return frozenset((name, labels[name]) for name in by if name in labels)


def _summed(parts: Iterator[tuple[Key, Range]]) -> dict[Key, Range]:
    sums: dict[Key, Range] = defaultdict(lambda: (0.0, 0.0))
    for key, (low, high) in parts:
        sums[key] = sums[key][0] + low, sums[key][1] + high
    return dict(sums)


def _rate(values: list[tuple[float, float]], began: float, ended: float) -> Range:
    """Prometheus takes it that a counter grew as fast before its first sample and after its last one: as far as the
    time asked for reaches or, where that is more than 1.1 times the time between two samples, for half of that; and not
    from below 0, which older versions look at first, newer ones last (extrapolatedRate in its promql/functions.go)."""
    grown, first, last = growth(values), values[0], values[-1]
    spanned = last[0] - first[0]
    between = spanned / (len(values) - 1)

    def reach(distance: float) -> float:
        return distance if distance < 1.1 * between else between / 2

    zero = spanned * first[1] / grown if grown else inf
    starts = (reach(min(first[0] - began, zero)), min(reach(first[0] - began), zero))
    found = [grown * (spanned + start + reach(ended - last[0])) / spanned / (ended - began) for start in starts]
    return min(found), max(found)


def rates(metric: str, *by: str, most: int | None = None, seconds: float = 0, **where: str) -> Expected:
    """How fast counters grow, by labels; of which the first that is wide may be (other)."""

    def of(moment: Moment) -> Result:
        range_ = seconds or moment.seconds
        parts = (
            (_key(labels, by), _rate(values, moment.at - range_, moment.at))
            for labels, values in moment.courses(metric, range_)
            if len(values) > 1 and _matches(labels, where)
        )
        return Result(_summed(parts), most, _wide(by))

    return of


def _wide(by: tuple[str, ...]) -> str:
    order = ("rule", "command", "comm", "container", "interface", "user")
    return next((label for label in order if label in by), "")


def counted(metric: str, *by: str, most: int | None = None, **where: str) -> Expected:
    """How many events there were, by labels: of a series that was not there before, all that it has counted."""

    def of(moment: Moment) -> Result:
        began = moment.at - moment.seconds
        before = {
            frozenset(labels.items())
            for labels, values in moment.courses(metric, moment.seconds + 900)
            if any(at <= began for at, _ in values)
        }
        parts: list[tuple[Key, Range]] = []
        for labels, values in moment.courses(metric, moment.seconds):
            if _matches(labels, where):
                if frozenset(labels.items()) not in before:
                    parts.append((_key(labels, by), (values[-1][1],) * 2))
                elif len(values) > 1:
                    low, high = _rate(values, began, moment.at)
                    parts.append((_key(labels, by), (low * moment.seconds, high * moment.seconds)))
        return Result(_summed(iter(parts)), most, _wide(by))

    return of


def present(metric: str, *by: str, most: int | None = None, **where: str) -> Expected:
    """The sum of values as they are now, by labels."""

    def of(moment: Moment) -> Result:
        found = moment.current(metric)
        parts = ((_key(labels, by), (value, value)) for labels, value in found if _matches(labels, where))
        return Result(_summed(parts), most)

    return of


def largest(expected: Expected, *by: str) -> Expected:
    """The largest of the values that have these labels in common."""

    def of(moment: Moment) -> Result:
        groups: dict[Key, list[Range]] = defaultdict(list)
        for key, value in expected(moment).values.items():
            groups[_key(dict(key), by)].append(value)
        return Result(
            {key: (max(low for low, _ in all_), max(high for _, high in all_)) for key, all_ in groups.items()}
        )

    return of


def how_many(expected: Expected) -> Expected:
    """The number of series."""
    return lambda moment: Result({frozenset(): (len(expected(moment).values),) * 2})


def share(part: Expected, whole: Expected, most: int | None = None, none: float | None = None) -> Expected:
    """The one as a share of the other, for the labels that the parts have; none is a part that is not there."""

    def of(moment: Moment) -> Result:
        parts, wholes = part(moment).values, whole(moment).values
        if none is not None:
            parts = {key: parts.get(key, (none, none)) for key in wholes}
        return Result(
            {
                key: (low / wholes[key][1] if wholes[key][1] else inf, high / wholes[key][0] if wholes[key][0] else inf)
                for key, (low, high) in parts.items()
                if key in wholes
            },
            most,
        )

    return of


def quantile(share_: float, metric: str) -> Expected:
    """The bucket in which a share of a histogram's values ends, by op."""

    def of(moment: Moment) -> Result:
        buckets: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for key, (low, _) in rates(metric, "le", "op")(moment).values.items():
            labels = dict(key)
            buckets[labels["op"]].append((float(labels["le"]), low))
        result: dict[Key, Range] = {}
        for op, found in buckets.items():
            found.sort()
            all_ = found[-1][1]
            # nodes are scraped at different times: what lies at a bound may be in the next bucket
            first = next(number for number, (_, rate) in enumerate(found) if rate >= all_ * share_ * 0.98)
            last = next(number for number, (_, rate) in enumerate(found) if rate >= min(all_, all_ * share_ * 1.02))
            lowest = found[first - 1][0] if first else 0.0
            result[frozenset({("op", op)})] = lowest, found[min(last, len(found) - 2)][0]
        return Result(result)

    return of
