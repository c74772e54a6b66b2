# SPDX-License-Identifier: Apache-2.0
"""When a probe costs too much: the average of a minute, no less."""

import pytest

from exporter.supervisor.overhead import EVERY, Overhead


def run(limit: float, seconds_per_look: list[float]) -> list[float | None]:
    """Looks again and again; between two looks the programs ran so long. Returns what each look found."""
    overhead, total = Overhead(limit), 0.0
    found = [overhead.exceeded(1000.0, 0)]
    for number, took in enumerate(seconds_per_look, 1):
        total += took
        found.append(overhead.exceeded(1000.0 + number * EVERY, int(total * 1e9)))
    return found


def test_a_minute_above_the_limit_is_told_with_the_percentage() -> None:
    assert run(5, [0.6] * 6) == [None] * 6 + [pytest.approx(6.0)]


def test_a_minute_at_the_limit_is_good() -> None:
    assert run(5, [0.5] * 20) == [None] * 21


def test_a_crowd_of_ten_seconds_is_none_of_a_minute() -> None:
    assert run(5, [0, 0, 0, 0, 0, 2.9, 0, 0]) == [None] * 9


def test_several_cores_are_more_than_a_hundred_percent() -> None:
    assert run(5, [25.0] * 6)[-1] == pytest.approx(250.0)


def test_it_is_the_last_minute_that_counts() -> None:
    found = run(5, [9.0] * 6 + [0.1] * 6)
    assert [one is None for one in found] == [True] * 6 + [False] * 6 + [True]


def test_no_limit_is_none() -> None:
    assert run(0, [10.0] * 12) == [None] * 13
