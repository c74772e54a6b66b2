# SPDX-License-Identifier: Apache-2.0
"""The log: one line a fact, with its fields, for people, for journald and for programs.

A fact is a message that is the same each time, and fields by their names: ``log.error("probe failed",
extra={"probe": name, "reason": why})`` reads ``ERROR probe failed probe=file_io reason="cannot compile: …"``, or is an
object of JSON. Whatever the kernel, a compiler or a user's file put into a field, it is one line.
"""

import json
import logging
import os
import sys
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any, TextIO

from exporter.errors import one_line

REPEAT_SECONDS = 60.0  # a line that is the same as one of the last so many seconds is left out, and counted
_REMEMBERED = 256  # lines

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}  # what logging itself puts into a record


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Returns a record's fields, in the order in which they were given; an exception's traceback is the last."""
    found = {key: value for key, value in vars(record).items() if key not in _OWN}
    if record.exc_info and record.exc_info[0]:
        found["traceback"] = logging.Formatter().formatException(record.exc_info)
    return found


class Text(logging.Formatter):
    """``WARNING probe degraded probe=xdp reason="there is no default route"``. For journald ``<4>`` comes ahead of it,
    by which it knows the level (sd-daemon(3))."""

    def __init__(self, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        words = [record.levelname, one_line(record.getMessage())]
        words += [f"{key}={_value(value)}" for key, value in fields(record).items() if value not in ("", None)]
        ahead = f"<{_PRIORITIES.get(record.levelno, 6)}>" if self._journal else ""
        return ahead + " ".join(words)


class Json(logging.Formatter):
    """An object a line: time (RFC 3339, UTC), level, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fact = {"time": when, "level": record.levelname.lower(), "message": record.getMessage(), **fields(record)}
        return json.dumps(fact, default=str)


class Repeats(logging.Filter):
    """Lets a line through once in a while; ``repeated`` says how many like it were left out before it."""

    def __init__(self, seconds: float = REPEAT_SECONDS) -> None:
        super().__init__()
        self._seconds = seconds
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # line -> when it was let through, left out

    def filter(self, record: logging.LogRecord) -> bool:
        line = f"{record.levelno} {record.getMessage()} {fields(record)}"
        now = time.monotonic()
        at, left_out = self._seen.pop(line, (-self._seconds, 0))
        if now - at < self._seconds:
            self._seen[line] = at, left_out + 1
            return False
        self._seen[line] = now, 0
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        if left_out:
            record.repeated = left_out
        return True


def begin(form: str = "text", stream: TextIO = sys.stderr) -> None:
    """Makes all log lines of this process, and of those forked from it, go to a stream, as ``text`` or ``json``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Json() if form == "json" else Text(_is_journal(stream)))
    handler.addFilter(Repeats())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _is_journal(stream: TextIO) -> bool:
    """Whether a stream leads to journald, which says so in $JOURNAL_STREAM as device:inode (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _value(value: Any) -> str:
    """A word as it is; all else in quotes, with escapes as JSON has them."""
    text = str(value)
    plain = text.isascii() and text.isprintable() and not any(sign in text for sign in ' "=')
    return text if plain else json.dumps(text)
