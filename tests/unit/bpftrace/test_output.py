# SPDX-License-Identifier: Apache-2.0
"""What bpftrace printed, as it was recorded from 0.17 and 0.23, and what might come in its place."""

import pytest

from exporter.bpftrace import output
from exporter.bpftrace.output import Block, Pairs, Parser, split
from exporter.bpftrace.script import FIRST_SIGNAL

MAPS = {"@a": False, "@b": True, "@c": True}
CALIBRATION = rb'{"type": "map", "data": {"@ebpf_exporter": {"\n": 1}}}'
CALIBRATION_TWICE = rb'{"type": "map", "data": {"@ebpf_exporter": {"\\n": 1}}}'


def mark(word: str, token: int = 3) -> bytes:
    return b'{"type": "printf", "data": "m4rk %s %d\\n"}' % (word.encode(), FIRST_SIGNAL + token)


def block(*lines: bytes, calibration: bytes = CALIBRATION) -> bytes:
    return b"\n".join([mark("begin"), calibration, *lines, mark("end"), b""])


def parse(data: bytes) -> list[Block]:
    return Parser("m4rk", MAPS).feed(data)


def only(*lines: bytes, calibration: bytes = CALIBRATION) -> Block:
    [found] = parse(block(*lines, calibration=calibration))
    return found


def test_a_block_of_all_kinds_of_maps() -> None:
    """A value without a key has an empty one; objects keep their order and all their keys."""
    found = only(
        b'{"type": "map", "data": {"@a": 18446744073709551615}}',
        b'{"type": "stats", "data": {"@b": {"a": {"count": 1, "average": 4, "total": 4}}}}',
        b'{"type": "hist", "data": {"@c": {"a,1": [{"max": -1, "count": 2}, {"min": 0, "max": 0, "count": 3}]}}}',
    )
    stats, buckets = (
        Pairs([("count", 1), ("average", 4), ("total", 4)]),
        [Pairs([("max", -1), ("count", 2)]), Pairs([("min", 0), ("max", 0), ("count", 3)])],
    )
    assert found == Block(3, {"@a": [(b"", 2**64 - 1)], "@b": [(b"a", stats)], "@c": [(b"a,1", buckets)]})


def test_stats_without_a_key_and_avg_of_such_keys() -> None:
    """The same JSON; whether the script gives the map a key tells them apart."""
    for name, expected in (("@a", [b""]), ("@b", [b"count", b"average", b"total"])):
        found = only(b'{"type": "stats", "data": {"%s": {"count": 2, "average": 4, "total": 9}}}' % name.encode())
        entries = found.maps[name]
        assert entries is not None
        assert [key for key, _ in entries] == expected


@pytest.mark.parametrize(
    ("once", "twice", "expected"),
    [
        (rb"bash", rb"bash", b"bash"),
        (rb"a\"b", rb"a\\\"b", b'a"b'),
        (rb"a\\b", rb"a\\\\b", b"a\\b"),
        (rb"a\nb", rb"a\\nb", b"a\nb"),
        (rb"\u001b[31m", rb"\\u001b[31m", b"\x1b[31m"),
        (rb"py\uffffffc3\uffffffa9", rb"py\\uffffffc3\\uffffffa9", "pyé".encode()),
        (rb"\uffffffff\ufffffffe", rb"\\uffffffff\\ufffffffe", b"\xff\xfe"),
        (rb"\\uffffffc3", rb"\\\\uffffffc3", b"\\uffffffc3"),
        (b"raw\xff\xc3\xa9", b"raw\xff\xc3\xa9", b"raw\xff\xc3\xa9"),
        (b"<script>,1", b"<script>,1", b"<script>,1"),
    ],
)
def test_hostile_keys(once: bytes, twice: bytes, expected: bytes) -> None:
    """As 0.17 escapes them, and as 0.23 does, twice, which our own map's key shows."""
    for key, calibration in ((once, CALIBRATION), (twice, CALIBRATION_TWICE)):
        found = only(b'{"type": "map", "data": {"@b": {"%s": 1}}}' % key, calibration=calibration)
        assert found.maps["@b"] == [(expected, 1)]


def test_a_key_that_stands_there_twice_is_there_twice() -> None:
    """Two keys of the kernel's may read the same."""
    assert only(b'{"type": "map", "data": {"@b": {"x": 1, "x": 2}}}').maps["@b"] == [(b"x", 1), (b"x", 2)]


@pytest.mark.parametrize(
    "line",
    [
        b'{"type": "map", "data": {"@b": {"x": 1}',
        b'{"type": "map", "data": {"@b": 02:46:46}}',
        b'{"type": "map", "data": {"@b": {"x": }}}',
        b'{"type": "map", "data": {"@b": 7}}',
        b'{"type": "map", "data": {"@b": {"x": ' + b"9" * 5000 + b"}}}",
        b'{"type": "map", "data": {"@b": ' + b"[" * 100_000,
    ],
)
def test_a_map_that_cannot_be_read_is_none_of_others(line: bytes) -> None:
    """Torn lines, what is no JSON, numbers and depths without end."""
    found = only(b'{"type": "map", "data": {"@a": 1}}', line, b'{"type": "map", "data": {"@c": {"y": 2}}}')
    assert found.maps == {"@a": [(b"", 1)], "@b": None, "@c": [(b"y", 2)]}


def test_what_the_script_prints_by_itself_is_not_ours() -> None:
    """Maps outside of the marks, text, marks of others; inside, a map twice or out of order makes the block torn."""
    a, b = b'{"type": "map", "data": {"@a": 1}}', b'{"type": "map", "data": {"@b": {"x": 1}}}'
    other = b'{"type": "printf", "data": "other begin 39\\n"}'
    assert parse(b"\n".join([a, mark("end"), other, b'{"type": "printf", "data": "m4rk"}', a, b""])) == []
    assert only(a, other, b).torn is False
    assert only(b, a).torn
    assert only(a, a).torn
    assert only(a, b'{"type": "lost_events", "data": {"events": 7}}').torn


def test_pieces_of_any_size() -> None:
    """Byte by byte it is the same; a piece of a line at the beginning is left out."""
    data = b'ap", "data": {"@a": 1}}\n' + block(b'{"type": "map", "data": {"@a": 5}}')
    parser = Parser("m4rk", MAPS)
    found = [block for at in range(len(data)) for block in parser.feed(data[at : at + 1])]
    assert found == parse(data) == [Block(3, {"@a": [(b"", 5)]})]


def test_a_line_without_end_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with it the block it stands in; what comes after is read again."""
    monkeypatch.setattr(output, "MAX_LINE", 1000)
    parser = Parser("m4rk", MAPS)
    good = block(b'{"type": "map", "data": {"@a": 5}}')
    assert parser.feed(good[:100]) == []
    for _ in range(50):
        assert parser.feed(b"x" * 100) == []
    assert parser.feed(b"\n" + mark("end") + b"\n") == []
    assert parser.feed(good) == [Block(3, {"@a": [(b"", 5)]})]


def test_lost_events_are_counted() -> None:
    """Wherever they are told."""
    parser = Parser("m4rk", MAPS)
    parser.feed(b'{"type": "lost_events", "data": {"events": 7}}\n' * 2)
    assert parser.lost == 14


def test_what_bpftrace_prints_at_its_end() -> None:
    """Two empty lines, then all maps, without marks."""
    parser = Parser("m4rk", MAPS)
    assert parser.end() is None
    assert parser.feed(b'\n\n{"type": "map", "data": {"@a": 1}}\n') == []
    assert parser.end() == Block(None, {"@a": [(b"", 1)]})


@pytest.mark.parametrize(
    ("key", "texts", "parts"),
    [
        (b"", (), []),
        (b"bash,0", (2, 0), [b"bash", b"0"]),
        (b"a,b,0", (2, 0), [b"a,b", b"0"]),
        (b"7,a,b", (0, 1), [b"7", b"a,b"]),
        (b"1,a,,2", (1, 2, 1), [b"1", b"a,", b"2"]),
        (b"a,b,c", (2, 2), [b"a,b", b"c"]),
        (b"alone", (2, 0), [b"alone", b""]),
        (b"a,b", (1,), [b"a,b"]),
    ],
)
def test_keys_are_split_where_the_script_has_parts(key: bytes, texts: tuple[int, ...], parts: list[bytes]) -> None:
    """Commas too many are the text's."""
    assert split(key, texts) == parts
