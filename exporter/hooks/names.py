# SPDX-License-Identifier: Apache-2.0
"""Words for a name that is not there."""

import difflib
from collections.abc import Iterable

_LENGTH_APART = 3  # names that differ more in length are not looked at: among 60,000 functions that is what takes time


def nearest(name: str, names: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Returns the names that are written most like one, best first: ``tcp_sendmgs`` -> ``tcp_sendmsg``, …"""
    near = [other for other in names if abs(len(other) - len(name)) <= _LENGTH_APART]
    return tuple(difflib.get_close_matches(name, near, count, 0.75))


def did_you_mean(near: Iterable[str]) -> str:
    """Returns the end of a message: ``; did you mean tcp_send_reset?``, or nothing."""
    words = " or ".join(near)
    return f"; did you mean {words}?" if words else ""
