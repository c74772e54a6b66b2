# SPDX-License-Identifier: Apache-2.0
"""Text for a terminal: what anybody may have named something, made safe to print, and its width in columns."""

import functools
import math
import unicodedata

_CUT = "…"
_LRM = "\u200e"  # left-to-right mark, without width: what follows is not drawn into a right-to-left name before it
_MOST_MARKS = 3  # combining marks on a sign, which is what scripts need; more of them are drawn over other lines
_HUGE = 1e20  # numbers that no counter of 64 bits has
_RIGHT_TO_LEFT = {"R", "AL", "AN"}
_PLAIN = {ord(_CUT): "~", ord(_LRM): None}


def safe(text: str, encoding: str = "utf-8") -> str:
    """Returns the text with escapes for all that is not drawn, obeyed by terminals, or not of the encoding.

    Control characters, marks that turn the direction of text, lone surrogates and unassigned code points: ``\\x1b``,
    ``\\u202e``. Combining marks are kept on a sign of the text's own, and few of them. What is written right to left
    ends with a mark that keeps what follows in its place.
    """
    if text.isascii() and text.isprintable():
        return text
    signs = []
    marks = _MOST_MARKS  # there is no sign yet that one could be on
    for sign in text:
        mark = unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Me")
        marks = marks + 1 if mark else 0
        drawn = sign.isprintable() and marks <= _MOST_MARKS and _has(encoding, sign)
        signs.append(sign if drawn else sign.encode("unicode_escape").decode("ascii"))
    made = "".join(signs)
    return made + _LRM if any(unicodedata.bidirectional(sign) in _RIGHT_TO_LEFT for sign in made) else made


@functools.lru_cache(4096)
def _has(encoding: str, sign: str) -> bool:
    try:
        sign.encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True


def of(encoding: str, text: str) -> str:
    """Returns what was made safe and cut, for a terminal of an encoding that may lack the signs this module adds."""
    return text if _has(encoding, _CUT) and _has(encoding, _LRM) else text.translate(_PLAIN)


@functools.lru_cache(4096)
def _columns(sign: str) -> int:
    if sign == _LRM or unicodedata.category(sign) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in ("W", "F") else 1


def width(text: str) -> int:
    """Returns how many columns a safe text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _head(text: str, columns: int) -> str:
    """Returns as much of a text as fits."""
    if text.isascii():
        return text[:columns]
    taken = 0
    for at, sign in enumerate(text):
        taken += _columns(sign)
        if taken > columns:
            return text[:at]
    return text


def fit(text: str, columns: int, right: bool = False) -> str:
    """Returns a safe text in exactly so many columns: cut, which shows, or filled with spaces, left where right."""
    if width(text) > columns:
        mark = _LRM if text.endswith(_LRM) else ""
        text = f"{_head(text, columns - 1)}{_CUT}{mark}" if columns > 0 else ""
    fill = " " * (columns - width(text))
    return fill + text if right else text + fill


def wrapped(text: str, columns: int, lines: int) -> list[str]:
    """Returns a safe text in at most so many lines, broken at spaces where there are some; the last is cut."""
    found: list[str] = []
    while text and len(found) < lines - 1 and width(text) > columns:
        head = _head(text, columns)
        at = head.rfind(" ") if text[len(head)] != " " else len(head)
        at = at if at > 0 else len(head)
        if not at:  # no sign fits
            break
        found.append(text[:at])
        text = text[at:].lstrip(" ")
    return [fit(line, columns) for line in (*found, text)] if text else [fit(line, columns) for line in found]


def number(value: float | None) -> str:
    """Returns three digits and a power of 1000: 0.025, 12.3k, 4.00M. None is ``-``."""
    if value is None or math.isnan(value):
        return "-"
    if abs(value) >= _HUGE:
        return f"{value:.2e}"
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        digits = sum(abs(value) < bound for bound in (0.0995, 9.995, 99.95))
        if round(abs(value), digits) < 1000:
            if 0 < abs(value) < 0.0005:
                return "<0.001" if value > 0 else ">-0.001"
            return "0" if value == 0 else f"{value:.{digits}f}{unit}"
        value /= 1000
    raise AssertionError("it is smaller than huge")


def percent(value: float | None) -> str:
    """0.0312 -> 0.03; None is ``-``."""
    return "-" if value is None else f"{value:.2f}"


def whole(value: float | None) -> str:
    """1234567 -> 1,234,567; None is ``-``."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) < _HUGE else number(value)


def plain(value: float | None) -> str:
    """Returns a value with all its digits that matter: 1,234,567 or 0.125; None is ``-``."""
    if value is None or math.isnan(value):
        return "-"
    if abs(value) >= _HUGE:
        return number(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def duration(seconds: float | None) -> str:
    """0.00125 -> 1.25ms; None is ``-``."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    for unit, size in (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3)):
        if abs(seconds) < 999.5 * size:
            return f"{number(seconds / size)}{unit}"
    return f"{number(seconds)}s"
