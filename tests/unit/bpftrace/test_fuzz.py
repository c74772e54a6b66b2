# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes are in the keys that bpftrace prints, and whatever it prints: the page is good."""

import json
import os
from random import Random
from typing import Any

from exporter import kinds
from exporter.bpftrace.output import Parser
from exporter.bpftrace.totals import OfMap, shown
from exporter.probe import Label, Metric, ScriptMap
from tests.unit.bpftrace.test_output import CALIBRATION, block
from tests.unit.support import samples

CASES = int(os.environ.get("EBPF_EXPORTER_TEST_FUZZ", "8000")) // 10
KEYS = 20  # of a map
TYPES = {"@count": "counter", "@max": "gauge", "@stats": "summary", "@hist": "histogram"}
SPECIAL = b'"\\\n\r\t{}[],:u=# %\0\x1b\x7f\x85\xc2\xc3\xa9\xe2\x80\xa8\xed\xa0\xf0\x9f\xff'


def maps() -> dict[str, OfMap]:
    """All types of map, each with a text and a number as its key."""
    labels = tuple(Label(name, kinds.parse("string(256)")) for name in ("comm", "pid"))
    return {
        name: shown(ScriptMap(name, Metric(f"ebpf_{kind}", kind, "Help.", labels), (2, 0)), KEYS * 3 // 4)
        for name, kind in TYPES.items()
    }


def escaped(data: bytes) -> bytes:
    """A text as bpftrace prints it on x86: what is not ASCII reads as a signed number."""
    plain = {34: b'\\"', 92: b"\\\\", 10: b"\\n", 13: b"\\r", 9: b"\\t"}
    return b"".join(
        plain.get(one) or (b"\\uffffff%02x" % one if one > 126 else b"\\u%04x" % one if one < 32 else bytes([one]))
        for one in data
    )


def value(chance: Random, kind: str, number: int) -> Any:
    match kind:
        case "summary":
            return {"count": 1, "average": number, "total": number}
        case "histogram":
            return [
                {"min": number, "max": 2 * number, "count": 3},
                {"min": 2 * number + 1, "count": chance.randrange(9)},
            ]
        case _:
            return number


def printed(chance: Random) -> tuple[bytes, int]:
    """Returns what bpftrace prints of all maps, and the sum of the counters."""
    lines, total = [], 0
    for name, kind in TYPES.items():
        numbers = [chance.randrange(1 << 40) for _ in range(KEYS)]
        total += sum(numbers) if kind == "counter" else 0
        entries = []
        for at, number in enumerate(numbers):
            key = escaped(bytes(chance.choices(SPECIAL, k=chance.randrange(30))))
            entries.append(b'"%s,%d": %s' % (key, at, json.dumps(value(chance, kind, number)).encode()))
        form = {"summary": b"stats", "histogram": b"hist"}.get(kind, b"map")
        lines.append(b'{"type": "%s", "data": {"%s": {%s}}}' % (form, name.encode(), b", ".join(entries)))
    return block(*lines, calibration=CALIBRATION), total


def taken(chance: Random, data: bytes) -> dict[str, OfMap]:
    """Has what was printed parsed, in pieces, and taken by each map."""
    found, parser = maps(), Parser("m4rk", dict.fromkeys(TYPES, True))
    while data:
        size = chance.choice((1, 100, 10_000))
        for one in parser.feed(data[:size]):
            for name, entries in one.maps.items():
                if entries is not None:
                    found[name].take(entries)
        data = data[size:]
    return found


def page(found: dict[str, OfMap]) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    text = "".join(lines.decode() for one in found.values() for _, lines in one.render())
    assert [line for line in text.removesuffix("\n").split("\n") if line and not line.startswith("ebpf_")] == []
    return samples(text)


def test_any_bytes_in_keys() -> None:
    """What processes are called may be anything: the sum is that of the map."""
    chance = Random(9)
    for _ in range(CASES // 8):
        data, total = printed(chance)
        found = page(taken(chance, data))
        assert sum(found["ebpf_counter"].values()) == total
        assert sum(found["ebpf_summary_count"].values()) == KEYS


def test_damaged_lines() -> None:
    """Other numbers, torn lines, bytes of any sort: what can't be read is left out."""
    chance, read = Random(10), 0
    for _ in range(CASES // 4):
        changed = bytearray(printed(chance)[0])
        for _ in range(chance.choice((1, 2, 8))):
            at = chance.randrange(len(changed))
            piece = chance.choice((b"", b"\n", b'"', b"}", b"9" * 400, b"-1", b"null", b"[", b"1e999", b"\xff", b"\\u"))
            changed[at : at + chance.choice((0, 1, 9))] = piece
        read += len(page(taken(chance, bytes(changed)))) > 0
    assert read > CASES // 8
