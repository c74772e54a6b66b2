# SPDX-License-Identifier: Apache-2.0
"""What a probe may cost: its programs' time, from the kernel's BPF statistics, against its share of a core."""

from collections import deque

WINDOW = 60.0  # seconds, for which a probe has to be above its limit
EVERY = 10.0  # seconds between two looks
FIRST_PAUSE, LAST_PAUSE = 600.0, 3600.0  # seconds, until a probe that was detached is tried again


class Overhead:
    """The time that one probe's programs took, over the last minute."""

    def __init__(self, limit: float) -> None:
        """limit is in percent of one core; 0 is none."""
        self.limit = limit
        self._seen: deque[tuple[float, int]] = deque()

    def exceeded(self, now: float, nanoseconds: int) -> float | None:
        """Takes what the programs have taken in all, by a clock in seconds.

        Returns the percentage of a core where that was above the limit, on average over a minute; else None.
        """
        self._seen.append((now, nanoseconds))
        while len(self._seen) > 1 and now - self._seen[1][0] >= WINDOW:
            self._seen.popleft()
        began, before = self._seen[0]
        if not self.limit or now - began < WINDOW:
            return None
        percent = (nanoseconds - before) / (now - began) / 1e7
        return percent if percent > self.limit else None
