# SPDX-License-Identifier: Apache-2.0
"""What an exporter answers under ``/probes`` and ``/probes/NAME``, as frozen values.

All of it may be anything: it comes from the network. What has not the form raises ValueError.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_MOST = 1e300  # of a number: differences of two of them are numbers as well


@dataclass(frozen=True)
class Totals:
    """What a probe's programs had run at a time, in Unix seconds; None: the kernel does not tell."""

    time: float
    events: float | None
    run_seconds: float | None


@dataclass(frozen=True)
class Probe:
    """A probe as it stands. history are former totals, the oldest first; numbers are None where they are not known."""

    name: str
    state: str
    mechanism: str
    reason: str
    purpose: str
    events: float | None
    run_seconds: float | None
    missed: float | None
    overflowed: float | None
    folded: float | None
    series: float | None
    max_series: float | None
    history: tuple[Totals, ...] = ()


@dataclass(frozen=True)
class Probes:
    """All probes at a time, in Unix seconds."""

    time: float
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Distribution:
    """A histogram's series, or a summary's, which has no buckets: pairs of an upper bound and the cumulative count."""

    count: float
    sum: float | None
    buckets: tuple[tuple[float, float], ...]


Value = float | Distribution | None
Labels = tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """A metric with its series, by the values of its labels. type is counter, gauge, histogram or summary."""

    name: str
    type: str
    help: str
    labels: Labels
    series: Mapping[Labels, Value]


@dataclass(frozen=True)
class Series:
    """A probe's metrics at a time, in Unix seconds."""

    time: float
    name: str
    metrics: tuple[Metric, ...]


def _form(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Whatever an answer lacks, or has of another type: it is a ValueError."""

    @functools.wraps(function)
    def read(answer: Any) -> T:
        try:
            return function(answer)
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    return read


@_form
def probes(answer: Any) -> Probes:
    """Reads what ``/probes`` answers."""
    return Probes(_number(answer["time"]), tuple(map(_probe, answer["probes"])))


@_form
def series(answer: Any) -> Series:
    """Reads what ``/probes/NAME`` answers."""
    return Series(_number(answer["time"]), _text(answer["name"]), tuple(map(_metric, answer["metrics"])))


def _probe(answer: Any) -> Probe:
    return Probe(
        name=_text(answer["name"]),
        state=_text(answer["state"]),
        mechanism=_text(answer["mechanism"]),
        reason=_text(answer["reason"]),
        purpose=_text(answer["purpose"]),
        events=_or_none(answer["events_total"]),
        run_seconds=_or_none(answer["run_seconds_total"]),
        missed=_or_none(answer["missed_total"]),
        overflowed=_or_none(answer["overflowed_total"]),
        folded=_or_none(answer["folded_total"]),
        series=_or_none(answer["series"]),
        max_series=_or_none(answer["max_series"]),
        history=tuple(Totals(_number(at), _or_none(runs), _or_none(spent)) for at, runs, spent in answer["history"]),
    )


def _metric(answer: Any) -> Metric:
    name, kind, words = (_text(answer[key]) for key in ("name", "type", "help"))
    labels = tuple(map(_text, answer["labels"]))
    found = {tuple(map(_text, values)): _value(value) for values, value in answer["series"]}
    if any(len(values) != len(labels) for values in found):
        raise ValueError(f"{name}: a series has not the labels of its metric")
    return Metric(name, kind, words, labels, found)


def _value(answer: Any) -> Value:
    if not isinstance(answer, dict):
        return _or_none(answer)
    buckets = tuple((float(le), _number(count)) for le, count in answer["buckets"])
    return Distribution(_number(answer["count"]), _or_none(answer["sum"]), buckets)


def _text(answer: Any) -> str:
    if not isinstance(answer, str):
        raise ValueError(f"{answer!r:.100} is no text")
    return answer


def _number(answer: Any) -> float:
    if isinstance(answer, bool) or not isinstance(answer, int | float) or abs(answer) > _MOST:
        raise ValueError(f"{answer!r:.100} is no number")
    return answer


def _or_none(answer: Any) -> float | None:
    return None if answer is None or answer != answer else _number(answer)  # NaN is no value either
