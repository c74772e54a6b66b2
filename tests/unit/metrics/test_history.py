# SPDX-License-Identifier: Apache-2.0
"""metrics/history.py: what is kept of the last minutes."""

from itertools import pairwise

from exporter.metrics.history import ENTRIES, STEP, History


def test_each_read_is_the_last_entry() -> None:
    """However near reads are, the last entry is the last read's; others lie apart, and there are not too many."""
    history = History()
    assert history.last is None
    for number in range(10_000):
        history.add((number * STEP / 5, number, number / 10))
        assert history.last == (number * STEP / 5, number, number / 10)
    times = [time for time, _, _ in history]
    assert len(times) == ENTRIES
    assert all(after - before >= STEP for before, after in pairwise(times[:-1]))


def test_reads_that_lie_apart_are_all_kept() -> None:
    """With the default interval nothing is left out, but what is older than all that is kept."""
    history = History()
    entries = [(5.0 * number, number, 0.0) for number in range(ENTRIES + 7)]
    for entry in entries:
        history.add(entry)
    assert list(history) == entries[7:]
