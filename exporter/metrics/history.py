# SPDX-License-Identifier: Apache-2.0
"""What a probe's programs have done, at the reads of the last minutes: who looks sees a trend at once.

Nothing is read for it that is not read anyhow but the kernel's statistics of the programs: a system call each.
"""

from collections import deque
from collections.abc import Iterator

STEP = 2.5  # seconds; entries but the last two lie at least so far apart, however often is read
ENTRIES = 120  # five minutes at the least; ten with the default interval

Entry = tuple[float, int, float]  # Unix time of the read; runs of all programs, and their seconds


class History:
    """Totals by time, the last read's at the end."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=ENTRIES)

    def add(self, entry: Entry) -> None:
        """Takes what there is at a read; gives up the one before it where that is too near to the one before that."""
        if len(self._entries) > 1 and self._entries[-1][0] - self._entries[-2][0] < STEP:
            self._entries.pop()
        self._entries.append(entry)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def last(self) -> Entry | None:
        """None before the first read."""
        return self._entries[-1] if self._entries else None
