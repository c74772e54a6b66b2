# SPDX-License-Identifier: Apache-2.0
"""kinds.py: bytes of a key to the text of a label, for every kind."""

import pickle
import socket
import sys
from pathlib import Path

import pytest

from exporter import cgroups, kinds, users
from exporter.probe import BUCKET


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, sys.byteorder)


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("comm", b"bash".ljust(16, b"\0"), "bash"),
        ("comm", b"sixteen bytes ok", "sixteen bytes ok"),
        ("comm", b"a\0garbage".ljust(16, b"\0"), "a"),
        ("comm", bytes(16), ""),
        ("comm", b"\xff\xfea".ljust(16, b"\0"), "\\xff\\xfea"),
        ("comm", "grün".encode().ljust(16, b"\0"), "grün"),
        ("comm", "aaaaaaaaaaaaaaaü".encode()[:16], "aaaaaaaaaaaaaaa\\xc3"),  # cut within a character
        ("string(64)", b"/etc/passwd".ljust(64, b"\0"), "/etc/passwd"),
        ("string(256)", b"x" * 255 + b"\0", "x" * 255),
        ("string(8)", b'a"b\\c\n\x1b\0', 'a"b\\c\n\x1b'),
        ("pid", number(4194304, 4), "4194304"),
        ("cpu", number(127, 4), "127"),
        ("u32", number(2**32 - 1, 4), "4294967295"),
        ("u64", number(2**64 - 1, 8), "18446744073709551615"),
        ("s64", number(2**64 - 1, 8), "-1"),
        ("bool", number(1, 1), "true"),
        ("ip", bytes(10) + b"\xff\xff\xc0\x00\x02\x01", "192.0.2.1"),
        ("ip", bytes.fromhex("20010db8000000000000000000000001"), "2001:db8::1"),
        ("errno", number(0, 2), "ok"),
        ("errno", number(2, 2), "ENOENT"),
        ("errno", number(13, 2), "EACCES"),
        ("errno", number(9999, 2), "9999"),
        ("protocol", number(6, 2), "tcp"),
        ("protocol", number(17, 2), "udp"),
        ("protocol", number(58, 2), "icmpv6"),
        ("protocol", number(255, 2), "255"),
        ("protocol", number(256, 2), "arp"),
        ("protocol", number(258, 2), "truncated"),
        (["read", "write"], number(0, 1), "read"),
        (["read", "write"], number(1, 1), "write"),
        (["read", "write"], number(2, 1), "2"),
        (["read", "write"], number(255, 1), "255"),
        ("interface", number(1, 4), "lo"),
        ("interface", number(2**31 - 1, 4), "2147483647"),
    ],
)
def test_decode(kind: str | list[str], data: bytes, text: str) -> None:
    """A field's bytes read as people write them; what has no name reads as its number, what is no UTF-8 as \\xNN."""
    assert kinds.parse(kind).decode(data) == text


def test_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user reads as the name in the passwd file, else as the number."""
    passwd = tmp_path / "passwd"
    passwd.write_text("alice:x:1007:100::/home/alice:/bin/sh\n")
    monkeypatch.setattr(users, "PASSWD", passwd)
    user = kinds.parse("user")
    assert [user.decode(number(uid, 4)) for uid in (1007, 1008, 2**32 - 1)] == ["alice", "1008", "4294967295"]


def test_kinds_of_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    """One id reads as a path, a unit and a container; what is not known reads alike for all three."""
    paths = cgroups.Paths()
    monkeypatch.setattr(cgroups, "PATHS", paths)
    monkeypatch.setattr(cgroups, "found", lambda: iter([(1, b"/"), (7, b"/system.slice/docker-" + b"ab" * 32)]))
    decoded = {name: [kinds.parse(name).decode(number(at, 8)) for at in (1, 7, 8)] for name in kinds.OF_CGROUPS}
    assert decoded == {
        "cgroup": ["/", f"/system.slice/docker-{'ab' * 32}", "(unknown)"],
        "unit": ["", "system.slice", "(unknown)"],
        "container": ["", "abababababab", "(unknown)"],
    }


def test_ksym_without_a_table() -> None:
    """An address that is in no function known reads as the number."""
    assert kinds.parse("ksym").decode(number(2**64 - 16, 8)) == "0xfffffffffffffff0"


def test_interface_name_that_is_no_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interface's name may hold any bytes; on the page they must be text."""
    monkeypatch.setattr(socket, "if_indextoname", lambda _: b"eth\xff".decode("utf-8", "surrogateescape"))
    assert kinds.parse("interface").decode(number(7, 4)) == "eth\\xff"


@pytest.mark.parametrize(
    ("kind", "c_type", "size", "align", "bounded"),
    [
        ("comm", "char[16]", 16, 1, False),
        ("user", "u32", 4, 4, False),
        ("pid", "u32", 4, 4, False),
        ("cpu", "u32", 4, 4, True),
        ("errno", "u16", 2, 2, True),
        ("interface", "u32", 4, 4, True),
        ("veth", "u32", 4, 4, False),
        ("veth_container", "u32", 4, 4, False),
        ("protocol", "u16", 2, 2, True),
        ("u32", "u32", 4, 4, False),
        ("u64", "u64", 8, 8, False),
        ("s64", "s64", 8, 8, False),
        ("ip", "u8[16]", 16, 1, False),
        ("bool", "u8", 1, 1, True),
        ("rule", "u16", 2, 2, True),
        ("cgroup", "u64", 8, 8, False),
        ("unit", "u64", 8, 8, False),
        ("container", "u64", 8, 8, False),
        ("ksym", "u64", 8, 8, False),
        ("string(2)", "char[2]", 2, 1, False),
        ("string(256)", "char[256]", 256, 1, False),
        (["a"], "u8", 1, 1, True),
        ([f"v{n}" for n in range(255)], "u8", 1, 1, True),
    ],
)
def test_parse(kind: str | list[str], c_type: str, size: int, align: int, bounded: bool) -> None:
    """A kind has its type in C, size and alignment; those with few values by nature are bounded."""
    found = kinds.parse(kind)
    assert (found.c_type, found.size, found.align, found.bounded) == (c_type, size, align, bounded)


def test_every_kind_is_in_the_tables_above() -> None:
    """A kind that is added gets a row in each table."""
    simple = [kind.split("(")[0] for kind in kinds.ALLOWED.split(", or")[0].split(" with")[0].split(", ")]
    table = [
        "comm",
        "user",
        "pid",
        "cpu",
        "errno",
        "interface",
        "veth",
        "veth_container",
        "protocol",
        "u32",
        "u64",
        "s64",
        "ip",
        "bool",
        "rule",
        "cgroup",
        "unit",
        "container",
        "ksym",
        "string",
    ]
    assert simple == table


@pytest.mark.parametrize(
    "name",
    ["", "com", "COMM", "string", "string()", "string(1)", "string(257)", "string(-3)", "string(x)", "string(0064)",
     [], ["a", "a"], [f"v{n}" for n in range(256)]],
)  # fmt: skip
def test_what_is_no_kind(name: str | list[str]) -> None:
    """Anything else is refused with the list of what is allowed."""
    with pytest.raises(ValueError, match="is no kind of label") as caught:
        kinds.parse(name)
    assert str(caught.value) == f"{name!r} is no kind of label; allowed: {kinds.ALLOWED}"


@pytest.mark.parametrize("kind", ["comm", "user", "errno", "interface", "u64", "string(64)", ["read", "write"]])
def test_kinds_are_picklable(kind: str | list[str]) -> None:
    """A kind goes from process to process, and is equal there."""
    found = kinds.parse(kind)
    assert pickle.loads(pickle.dumps(found)) == found
    assert pickle.loads(pickle.dumps(BUCKET)) == BUCKET
