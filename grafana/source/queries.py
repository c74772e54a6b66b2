# SPDX-License-Identifier: Apache-2.0
"""PromQL for one node or a hundred: sums over the nodes that are chosen, and the largest of what is many.

What has no series of its own is ``(other)``: it is never one among the largest, and never left out.
"""

from collections.abc import Sequence

OTHER = "(other)"
MOST = 10  # of what a panel shows over time
ROWS = 25  # of a table
SELECTOR = 'job=~"$job",instance=~"$instance"'
INTERVAL = "$__rate_interval"


def select(metric: str, *matchers: str) -> str:
    """Returns a metric's series of the chosen nodes; matchers are further ones, such as ``op="read"``."""
    return f"{metric}{{{','.join([SELECTOR, *matchers])}}}"


def total(expression: str, by: Sequence[str] = ()) -> str:
    """Returns the sum of an expression's series, by labels."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def rate(metric: str, by: Sequence[str] = (), *matchers: str, at: str = "") -> str:
    """Returns how fast a counter grows, per second, by labels; at is a moment, such as ``@ end()``."""
    return total(f"rate({select(metric, *matchers)}[{INTERVAL}]{at and f' {at}'})", by)


def top(metric: str, by: Sequence[str], wide: str, *matchers: str) -> str:
    """Returns the largest rates now, by labels of which the wide one may read (other), and what is (other)."""
    own, other = f'{wide}!="{OTHER}"', f'{wide}="{OTHER}"'
    return f"topk({ROWS}, {rate(metric, by, *matchers, own)}) or {rate(metric, by, *matchers, other)}"


def trend(metric: str, by: Sequence[str], wide: str, *matchers: str) -> str:
    """Returns the course of the rates that are the largest at the end of the time shown, and of what is (other)."""
    own, other = f'{wide}!="{OTHER}"', f'{wide}="{OTHER}"'
    largest = f"topk({MOST}, {rate(metric, by, *matchers, own, at='@ end()')})"
    return f"{rate(metric, by, *matchers)} and {largest} or {rate(metric, by, *matchers, other)}"


def counted(metric: str, by: Sequence[str] = (), *matchers: str) -> str:
    """Returns how many events there were in the time shown, each of them: of a series that began in that time, what it
    has counted. increase() alone leaves out a series' first value, which of rare events is most of them. What was not
    scraped for a moment is not new: so a quarter of an hour is looked at."""
    series = select(metric, *matchers)
    return total(f"({series} unless last_over_time({series}[15m] offset $__range)) or increase({series}[$__range])", by)


def new(metric: str, by: Sequence[str], wide: str) -> str:
    """Returns what was counted in the last hour and not in the day before, by labels, with how often. Of that day a
    value every five minutes will do: what has been counted is there to stay, and samples are dear."""
    series = select(metric, f'{wide}!="{OTHER}"')
    return f"{total(series, by)} unless {total(f'last_over_time({series}[1d:5m] offset 1h)', by)}"
