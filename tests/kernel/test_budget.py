# SPDX-License-Identifier: Apache-2.0
"""Many keys and few series: who has one, what each says, and what the exporter's own metrics say of that.

Each number is compared with a model that knows all events. A page is one read here, as nobody else asks for one.
"""

import random
from collections.abc import Mapping

import pytest

from exporter.probe import MAP_ENTRIES, OTHER
from tests.kernel.daemon import Daemon, Samples, by, count
from tests.kernel.readahead import CALLS, SECTORS, ask, counting

pytestmark = pytest.mark.anywhere

COUNTS = {CALLS: CALLS, SECTORS: f"{SECTORS}_count"}  # a counter and a histogram; of which each series has one


class Reader:
    """Causes events, reads the page that shows them, and compares it with what is known."""

    def __init__(self, daemon: Daemon, max_series: int) -> None:
        self.came_back = 0  # series that had given way before
        self._daemon = daemon
        self._max_series = max_series
        self._events = 0
        self._overflowed = 0
        self._folded = dict.fromkeys(COUNTS, 0)
        self._own: dict[str, dict[str, float]] = {metric: {} for metric in COUNTS}  # of the last page: size -> value
        self._ever: set[str] = set()

    def read(self, calls: Mapping[int, int]) -> Samples:
        """Calls with each size so many times, size by size; returns the page after that."""
        for size, times in calls.items():
            ask(size, times)
        sizes = [str(size) for size in calls]
        drained = dict(zip(sizes[:MAP_ENTRIES], calls.values(), strict=False))  # for the others the map has no room
        self._events += sum(calls.values())
        self._overflowed += sum(calls.values()) - sum(drained.values())
        page = self._daemon.samples()
        for metric in COUNTS:
            self._compare(page, metric, drained)
        return page

    def _compare(self, page: Samples, metric: str, drained: Mapping[str, int]) -> None:
        values = by(page, "size", COUNTS[metric])
        assert sum(values.values()) == self._events
        own = {size: value for size, value in values.items() if size != OTHER}
        before = self._own[metric]
        self._own[metric] = own

        strangers = drained.keys() - before.keys()
        room = self._max_series - len(before)
        assert len(own) == len(before) + min(room, len(strangers))
        self._folded[metric] += max(0, len(strangers) - room)
        assert count(page, "ebpf_exporter_series", metric=metric) == sum(name == COUNTS[metric] for name, _ in page)
        assert count(page, "ebpf_exporter_series_folded_total", metric=metric) == self._folded[metric]
        assert count(page, "ebpf_exporter_events_overflowed_total", metric=metric) == self._overflowed

        for size, value in own.items():
            if size in before:
                assert value == before[size] + drained.get(size, 0)
            else:  # a series that another one gave way to starts at 0: what its key had counted stays where it was
                assert value == (drained[size] if room else 0)
                self.came_back += size in self._ever
        self._ever |= own.keys()


def test_who_has_a_series_is_told_while_all_change_places() -> None:
    """With 7 series for 30 keys whose activity changes all the time, each number on each page is the truth; a key that
    comes back after it gave way has a series that starts at 0, as a counter does that was reset."""
    chance = random.Random(7)
    with counting([CALLS, SECTORS], labels=["size"], max_series=7) as daemon:
        reader = Reader(daemon, 7)
        for number in range(60):
            busy = number // 6 % 5  # for 6 reads, 6 keys are busier than the rest
            reader.read(
                {
                    size: chance.randint(20, 29) if size // 6 == busy else chance.randint(1, 9)
                    for size in chance.sample(range(30), 20)
                }
            )
    assert reader.came_back > 7


def test_a_flood_of_keys_seen_once_displaces_nobody() -> None:
    """Read by read more keys than the kernel's map holds, each seen in one read only and busier than all that have a
    series: those keep it, every event is counted, and what found no room is told to the last event."""
    active = dict.fromkeys(range(5), 1)
    fresh = iter(range(1000, 2**62))
    with counting([CALLS, SECTORS], labels=["size"], max_series=5) as daemon:
        reader = Reader(daemon, 5)
        reader.read(active)
        for _ in range(5):
            flood = {next(fresh): 3 for _ in range(MAP_ENTRIES + 997)}
            page = reader.read(active | flood)
            assert by(page, "size", CALLS).keys() == {*map(str, active), OTHER}
        told = {
            what: count(page, f"ebpf_exporter_{what}_total", metric=CALLS)
            for what in ("series_folded", "events_overflowed")
        }
    assert told == {"series_folded": 5 * (MAP_ENTRIES - 5), "events_overflowed": 5 * 3 * (997 + 5)}
    assert by(page, "size", CALLS)[OTHER] == 3 * told["series_folded"] + told["events_overflowed"]


def test_in_a_flood_a_busier_key_takes_the_least_active_ones_place() -> None:
    """A key that is busier than the least active series has its place by its third read, and all others keep theirs."""
    active = {size: 2 + size for size in range(5)}
    fresh = iter(range(1000, 2**62))
    with counting([CALLS, SECTORS], labels=["size"], max_series=5) as daemon:
        reader = Reader(daemon, 5)
        reader.read(active)
        for number in range(6):
            newcomer = {77: 3} if number >= 3 else {}
            page = reader.read(active | newcomer | {next(fresh): 53 for _ in range(997)})
            if number < 3:
                assert {*map(str, active), OTHER} == by(page, "size", CALLS).keys()
        for name in COUNTS.values():
            assert by(page, "size", name).keys() == {"77", *map(str, range(1, 5)), OTHER}
