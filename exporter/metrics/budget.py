# SPDX-License-Identifier: Apache-2.0
"""Which keys deserve a series when there are more keys than series: the more active ones, measured alike for all.

Activity is what a key counted, halved with each read. To halve nothing, a read's amounts weigh twice as much as the
last read's (forward decay). A key without a series leaves two marks where it is first seen; seen again within two reads
it is a candidate, and seen once more it may win: so a flood of keys seen once displaces nobody, and is not kept in
memory. A candidate's activity is taken as if it had always been as active as in the reads since it is one: so what is
more active than a series has its place after three reads.
"""

import heapq
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from exporter.probe import map_entries

_REBASE = 2.0**500
_CANDIDATES_AT_LEAST = 4096
_MARKS_PER_KEY = 16  # so that few keys find both their marks left by others, which makes them candidates too early
_STAMPS = 255  # a mark is the number of a read, modulo this, plus 1; 0 is no mark
_REMEMBERED = 2  # reads


@dataclass(slots=True)
class _Candidate:
    score: float
    first: int  # the number of the read since which it is one
    last: int
    reads: int  # in how many it was seen since


class Budget:
    """The activity of series, by their numbers, and of candidates, by their keys. Costs nothing until there are more
    keys than series."""

    def __init__(self, max_series: int) -> None:
        self._most_candidates = max(_CANDIDATES_AT_LEAST, max_series // 8)
        self._candidates: dict[bytes, _Candidate] = {}
        self._mask = (1 << (_MARKS_PER_KEY * map_entries(max_series)).bit_length()) - 1
        self._marks = bytearray()
        self._activity = array("d")
        self._weight = 1.0
        self._read = 0
        self._refused = 0  # the last read in which a key was without a series
        self._since: int | None = None  # the first read in which the activity of series was measured

    @property
    def contested(self) -> bool:
        """Whether the activity of series is to be measured: since the read after the first refusal."""
        return self._since is not None

    def seen(self, key: bytes, amount: int) -> None:
        """A key without a series counted an amount in this read."""
        self._refused = self._read
        found = self._candidates.get(key)
        if found is None:
            if self._marked(key):
                if len(self._candidates) >= self._most_candidates:
                    self._prune()
                self._candidates[key] = _Candidate(amount * self._weight, self._read, self._read, 1)
            return
        found.score += amount * self._weight
        if found.last != self._read:
            found.last = self._read
            found.reads += 1

    def _marked(self, key: bytes) -> bool:
        """Whether a key was seen in the last reads; marks it as seen in this one."""
        if not self._marks:
            self._marks = bytearray(self._mask + 1)
        number, stamp, known = hash(key), self._read % _STAMPS + 1, True
        for at in (number & self._mask, number >> 32 & self._mask):
            before, self._marks[at] = self._marks[at], stamp
            known &= before > 0 and 1 <= (stamp - before) % _STAMPS <= _REMEMBERED
        return known

    def active(self, numbers: list[int], amounts: Iterable[int]) -> None:
        """Series counted amounts in this read."""
        if (missing := max(numbers, default=-1) + 1 - len(self._activity)) > 0:
            self._activity.frombytes(bytes(8 * missing))
        activity, weight = self._activity, self._weight
        for number, amount in zip(numbers, amounts, strict=True):
            activity[number] += amount * weight

    def _activity_of(self, number: int) -> float:
        return self._activity[number] if number < len(self._activity) else 0.0

    def winners(self, numbers: list[int]) -> list[tuple[bytes, int]]:
        """Returns which key takes the place of which of these series, the most active key that of the least active."""
        if self._since is None:
            return []
        rising = [
            (self._steady(found.score, found.first), key)
            for key, found in self._candidates.items()
            if found.reads > 1 and found.score > 0
        ]
        if not rising:
            return []
        rising.sort(reverse=True)
        falling = heapq.nsmallest(len(rising), numbers, key=self._activity_of)
        result: list[tuple[bytes, int]] = []
        for (score, key), number in zip(rising, falling, strict=False):
            if score <= self._steady(self._activity_of(number), self._since):
                break
            result.append((key, number))
            self._candidates.pop(key)
            self.active([number], [0])
            self._activity[number] = score / self._steady(1.0, self._since)
        return result

    def end_read(self) -> None:
        """The next amounts are of the next read. Candidates not seen in two reads are none any more."""
        self._read += 1
        self._weight *= 2.0
        oldest = self._read - _REMEMBERED
        if self._refused >= oldest and self._marks:
            self._since = self._read if self._since is None else self._since
            if self._candidates:
                self._candidates = {key: found for key, found in self._candidates.items() if found.last >= oldest}
        elif self._since is not None:
            self._since = None
            self._candidates.clear()
            self._activity, self._marks = array("d"), bytearray()
        if self._weight >= _REBASE:
            for found in self._candidates.values():
                found.score /= self._weight
            self._activity = array("d", [activity / self._weight for activity in self._activity])
            self._weight = 1.0

    def _steady(self, score: float, first: int) -> float:
        """Brings a score, 1 + 1/2 + 1/4 … of the reads since the first, to what it were if there had been no first."""
        return score / (1.0 - 0.5 ** (self._read - first + 1))

    def _prune(self) -> None:
        """Keeps the better half: those seen in several reads, then those with more activity."""
        ranked = heapq.nlargest(
            self._most_candidates // 2,
            self._candidates.items(),
            key=lambda item: (item[1].reads, item[1].score),
        )
        self._candidates = dict(ranked)
