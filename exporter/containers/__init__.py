# SPDX-License-Identifier: Apache-2.0
"""Who is behind the host's interfaces, and what containers are called. In the privileged process.

``Containers`` is kept up to date by events alone: of links (netlink), of cgroups and of network namespaces (inotify).
"""

import math
from collections.abc import Callable

from exporter.places import Place


class Containers:
    """The links of this host's network namespace that lead into others, and its containers."""

    deadline = math.inf  # of the monotonic clock: when ``look`` has something to do, beside what events bring

    def handlers(self) -> list[tuple[int, Callable[[], None]]]:
        """Returns descriptors, each with what is to be called when it is readable: it sets ``deadline``."""
        raise NotImplementedError

    def look(self) -> bool:
        """Finds out what can be found out now; to be called at ``deadline``. Returns whether anything has changed."""
        raise NotImplementedError

    def places(self) -> dict[int, Place]:
        """Returns the interfaces that lead into other network namespaces, by index: the host's ends of veth pairs.

        One whose container is "" is new, and will have its last word in two seconds.
        """
        raise NotImplementedError

    def told(self) -> tuple[dict[int, Place], dict[str, str]]:
        """Returns what the worker is to know: all interfaces, also those gone of late, and names by short id."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
