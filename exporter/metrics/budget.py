# SPDX-License-Identifier: Apache-2.0
"""Which keys deserve a series when there are more keys than series: the more active ones, measured alike for all.

Activity is what a key counted, halved with each read. To halve nothing, a read's amounts weigh twice as much as the
last read's (forward decay). A key without a series is a candidate. It is to have been there in two reads, so that a
flood of keys seen once displaces nobody, and its activity is taken as if it had always been as active as in the reads
since it came: so what is more active than a series is seen to be within three reads.
"""

import heapq
from dataclasses import dataclass

_REBASE = 2.0**500
_CANDIDATES_PER_SERIES = 4
_CANDIDATES_AT_LEAST = 4096


@dataclass(slots=True)
class _Candidate:
    score: float
    first: int  # the number of the read that it was first seen in
    last: int
    reads: int  # in how many it was seen


class Budget:
    """The activity of series, by their numbers, and of candidates, by their keys. Costs nothing until there are more
    keys than series."""

    def __init__(self, max_series: int) -> None:
        self._most_candidates = max(_CANDIDATES_AT_LEAST, _CANDIDATES_PER_SERIES * max_series)
        self._candidates: dict[bytes, _Candidate] = {}
        self._activity: dict[int, float] = {}
        self._weight = 1.0
        self._read = 0
        self._since: int | None = None  # the first read in which the activity of series was measured

    @property
    def contested(self) -> bool:
        """Whether the activity of series is to be measured: since the read after the first candidate's."""
        return self._since is not None

    def seen(self, key: bytes, amount: int) -> None:
        """A key without a series counted an amount in this read."""
        found = self._candidates.get(key)
        if found is None:
            if len(self._candidates) >= self._most_candidates:
                self._prune()
            self._candidates[key] = _Candidate(amount * self._weight, self._read, self._read, 1)
            return
        found.score += amount * self._weight
        if found.last != self._read:
            found.last = self._read
            found.reads += 1

    def active(self, number: int, amount: int) -> None:
        """A series counted an amount in this read."""
        self._activity[number] = self._activity.get(number, 0.0) + amount * self._weight

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
        falling = heapq.nsmallest(len(rising), numbers, key=lambda number: self._activity.get(number, 0.0))
        result: list[tuple[bytes, int]] = []
        for (score, key), number in zip(rising, falling, strict=False):
            if score <= self._steady(self._activity.get(number, 0.0), self._since):
                break
            result.append((key, number))
            self._candidates.pop(key)
            self._activity[number] = score / self._steady(1.0, self._since)
        return result

    def end_read(self) -> None:
        """The next amounts are of the next read. Candidates not seen in two reads are none any more."""
        self._read += 1
        self._weight *= 2.0
        if self._candidates:
            self._since = self._read if self._since is None else self._since
            self._candidates = {key: found for key, found in self._candidates.items() if found.last >= self._read - 2}
        else:
            self._since = None
            self._activity.clear()
        if self._weight >= _REBASE:
            for found in self._candidates.values():
                found.score /= self._weight
            self._activity = {number: activity / self._weight for number, activity in self._activity.items()}
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
