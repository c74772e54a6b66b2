# SPDX-License-Identifier: Apache-2.0
"""What bpftrace prints, parsed: bytes in, blocks of maps out.

All of it is to be distrusted. A key may hold whatever a process called itself; a line may be torn, as the pipe was
read by another before; what the script prints by itself stands between our lines. Keys are joined with commas, and what
is not ASCII reads ``\\uffffffc3`` on x86 (a signed char as an int); in 0.23 keys are escaped twice. As the same key
text may come from two keys of the kernel's, a map's entries are a list.

One line each, from 0.17 to 0.23::

    {"type": "map", "data": {"@opens": {"bash,0": 3}}}
    {"type": "hist", "data": {"@us": [{"max": -1, "count": 1}, {"min": 0, "max": 9, "count": 2}]}}
    {"type": "stats", "data": {"@ns": {"count": 2, "average": 4, "total": 9}}}
    {"type": "lost_events", "data": {"events": 7}}
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from exporter.bpftrace.script import FIRST_SIGNAL, OWN_MAP

MAX_LINE = 64 << 20  # bytes; a map of 100,000 keys with histograms is smaller

_MAP_LINE = re.compile(rb'\{"type": "(?:map|hist|stats)", "data": \{"(@\w*)": ')
_LOST = re.compile(rb'\{"type": "lost_events", "data": \{"events": (\d{1,18})\}\}')
_ESCAPE = re.compile(rb"\\(?:uffffff([0-9a-f]{2})|.)", re.DOTALL)

Entries = list[tuple[bytes, Any]]  # a key's text and its value; b"" is the key of a map without one


class Pairs(list[tuple[str, Any]]):
    """A JSON object as it stands there, keys that come twice included."""


@dataclass
class Block:
    """All maps as bpftrace printed them in one go, by their names. Those that are empty are not among them; None stands
    for one that could not be read. token says who asked; without one, it is what bpftrace prints at its end."""

    token: int | None
    maps: dict[str, Entries | None] = field(default_factory=dict)
    torn: bool = False  # something of the script's own stands in it, or something was lost


class Parser:
    """Takes what comes from bpftrace in pieces of any size. ``lost`` counts the events that it says were lost.

    maps says of those that are printed, in their order, whether they have keys: stats() of a map without, and avg() of
    processes named count, average and total, read the same.
    """

    def __init__(self, marker: str, maps: Mapping[str, bool]) -> None:
        self.lost = 0
        self._keyed = {OWN_MAP: True, **maps}
        self._mark = re.compile(rb'\{"type": "printf", "data": "%s (begin|end) (\d+)\\n"\}' % marker.encode())
        self._order = {name: at for at, name in enumerate(self._keyed)}
        self._rest = bytearray()
        self._seen = 0  # of the rest, the bytes that have no end of a line
        self._skipping = False
        self._block: Block | None = None
        self._last = 0
        self._final: Block | None = None
        self._twice = False

    def feed(self, data: bytes) -> list[Block]:
        """Returns the blocks that are complete with this piece."""
        self._rest += data
        return [block for line in self._lines() if (block := self._line(line)) is not None]

    def end(self) -> Block | None:
        """Returns what bpftrace printed when it ended by itself, if it did."""
        return self._final

    def _lines(self) -> Iterator[bytes]:
        start = 0
        while (stop := self._rest.find(b"\n", max(start, self._seen))) >= 0:
            if not self._skipping:
                yield bytes(memoryview(self._rest)[start:stop])
            self._skipping, start = False, stop + 1
        del self._rest[:start]
        self._seen = len(self._rest)
        if self._seen > MAX_LINE:
            self._rest.clear()
            self._seen, self._skipping, self._block = 0, True, None

    def _line(self, line: bytes) -> Block | None:
        if found := self._mark.fullmatch(line):
            token = int(found[2]) - FIRST_SIGNAL
            if found[1] == b"begin":
                self._block, self._last = Block(token), -1
                return None
            block, self._block = self._block, None
            return block if block is not None and block.token == token else None
        if not line:  # two empty lines, and then all maps: the end
            self._final = Block(None)
        elif found := _LOST.fullmatch(line):
            self.lost += int(found[1])
            if self._block is not None:
                self._block.torn = True  # what was lost may have been the word to print a map
        elif found := _MAP_LINE.match(line):
            self._map(found[1].decode(), line)
        return None

    def _map(self, name: str, line: bytes) -> None:
        block = self._block or self._final
        at = self._order.get(name)
        if block is None or at is None:
            return
        if block is self._block:
            block.torn |= at <= self._last
            self._last = at
        entries = self._entries(name, line)
        if name == OWN_MAP:
            self._twice = bool(entries) and entries[0][0] == b"\\n"  # type: ignore[index]  # not empty
        else:
            block.maps[name] = entries

    def _entries(self, name: str, line: bytes) -> Entries | None:
        try:
            [(_, _), (_, [(_, value)])] = _load(line)
        except (ValueError, TypeError, RecursionError):
            return None
        if not self._keyed[name]:
            return [(b"", value)]
        if not isinstance(value, Pairs):
            return None
        twice = self._twice and name != OWN_MAP
        return [(_again(key) if twice else _bytes(key), one) for key, one in value]


def _load(line: bytes) -> Any:
    def unescaped(found: re.Match[bytes]) -> bytes:
        return bytes.fromhex(found[1].decode()) if found[1] else found[0]

    if b"\\uffffff" in line:
        line = _ESCAPE.sub(unescaped, line)
    text = line.decode("utf-8", "surrogateescape")
    return json.loads(text, object_pairs_hook=Pairs, parse_int=_number, strict=False)


def _number(digits: str) -> int:
    """A number of 64 bits, as all of bpftrace's are. Raises ValueError for any other."""
    number = int(digits)
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"a number of {len(digits)} digits")
    return number


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape" if not re.search("[\ud800-\udc7f\udd00-\udfff]", text) else "replace")


def _again(key: str) -> bytes:
    """Undoes the second escape of a key."""
    try:
        return _bytes(_load(b'"%s"' % _bytes(key)))
    except (ValueError, TypeError):
        return _bytes(key)


def split(key: bytes, texts: tuple[int, ...]) -> list[bytes]:
    """Splits a key into its parts. Of more commas than there should be, the others are the text's.

    >>> split(b"a,b,7", (2, 0))
    [b'a,b', b'7']
    """
    if not texts:
        return []
    parts = key.split(b",")
    more = len(parts) - len(texts)
    if more > 0:
        at = texts.index(max(texts))
        parts[at : at + more + 1] = [b",".join(parts[at : at + more + 1])]
    return parts + [b""] * -more
