# SPDX-License-Identifier: Apache-2.0
"""When to look at the host's interfaces: soon after they changed, and now and then while something is lacking."""

import math
import selectors
import time
from collections.abc import Callable

from exporter.network.interfaces import Changes

SETTLE_SECONDS = 0.1  # interfaces and routes come in crowds: they are looked at once
RETRY_SECONDS = 5.0  # for what is degraded: that another's XDP program went is told by nobody


class Watch:
    """Calls ``look`` when it is due."""

    def __init__(self, selector: selectors.BaseSelector, look: Callable[[], None]) -> None:
        self._selector = selector
        self._look = look
        self._changes: Changes | None = None
        self.deadline = math.inf  # by the monotonic clock

    def begin(self, routes: bool) -> None:
        """Follows the host's interfaces from now on, and its routes, if what is attached depends on those."""
        if self._changes is None:
            self._changes = Changes()
            self._selector.register(self._changes, selectors.EVENT_READ, self._changed)
        if routes:
            self._changes.follow_routes()

    def looked(self, lacking: bool, unfinished: bool) -> None:
        """All has been looked at. lacking says whether to try again, unfinished whether to go on at once."""
        self.deadline = math.inf
        if unfinished or lacking:
            self.deadline = time.monotonic() + (0.0 if unfinished else RETRY_SECONDS)

    def tick(self) -> None:
        """Looks, if it is due."""
        if time.monotonic() >= self.deadline:
            self._look()

    def _changed(self) -> None:
        assert self._changes is not None
        self._changes.clear()
        self.deadline = min(self.deadline, time.monotonic() + SETTLE_SECONDS)
