# SPDX-License-Identifier: Apache-2.0
"""The words of rules: what each means, and each fault by its words."""

from collections.abc import Callable
from typing import Any

import pytest

from exporter.rules import words
from exporter.rules.words import Fault

GOOD: list[tuple[Callable[[Any], Any], Any, Any]] = [
    (words.name, "big-icmp_2.x", "big-icmp_2.x"),
    (words.name, "a" * 63, "a" * 63),
    (words.network, "192.0.2.0/24", bytes([192, 0, 2, 0, 24])),
    (words.network, "0.0.0.0/0", bytes(5)),
    (words.network, "192.0.2.1", bytes([192, 0, 2, 1, 32])),
    (words.network, "2001:db8::/32", b"\x20\x01\x0d\xb8" + bytes(12) + b"\x20"),
    (words.network, "::1", bytes(15) + b"\x01\x80"),
    (words.protocol, "tcp", 6),
    (words.protocol, "arp", 256),
    (words.protocol, "truncated", 258),
    (words.protocol, 47, 47),
    (words.protocol, 0, 0),
    (words.ports, 53, (53, 53)),
    (words.ports, 0, (0, 0)),
    (words.ports, 65_535, (65_535, 65_535)),
    (words.ports, "1000-2000", (1000, 2000)),
    (words.ports, "5-5", (5, 5)),
    (words.length, {"min": 1000}, (1000, None)),
    (words.length, {"max": 64}, (0, 64)),
    (words.length, {"min": 64, "max": 65_534}, (64, 65_534)),
    (words.tcp_flags, ["syn"], (2, 0)),
    (words.tcp_flags, ["syn", "not ack"], (2, 16)),
    (words.tcp_flags, ["fin", "cwr", "not  ece"], (1 | 128, 64)),
    (words.glob, "web-*", "web-*"),
]


@pytest.mark.parametrize(("read", "word", "meaning"), GOOD)
def test_what_words_mean(read: Callable[[Any], Any], word: Any, meaning: Any) -> None:
    """A word becomes what packets are compared with."""
    assert read(word) == meaning


NETWORK = "expected a network such as 192.0.2.0/24 or 2001:db8::/32, or an address; found "
PORT = "expected a port from 0 to 65535 or a range such as 1000-2000, found "
LENGTH = "expected {min: BYTES, max: BYTES} or one of them, found "
BAD: list[tuple[Callable[[Any], Any], Any, str]] = [
    (words.name, "", "expected a name of up to 63 letters, digits, _, . and -, found ''"),
    (words.name, "-a", "expected a name of up to 63 letters, digits, _, . and -, found '-a'"),
    (words.name, "a b", "expected a name of up to 63 letters, digits, _, . and -, found 'a b'"),
    (words.name, "a\n", "expected a name of up to 63 letters, digits, _, . and -, found 'a\\n'"),
    (words.name, "a" * 64, f"expected a name of up to 63 letters, digits, _, . and -, found '{'a' * 64}'"),
    (words.name, 7, "expected a name of up to 63 letters, digits, _, . and -, found 7"),
    (words.network, "192.0.2.1/24", "192.0.2.1/24: has bits beyond its prefix; 192.0.2.0/24 is the network, "
                                    "192.0.2.1 the address"),
    (words.network, "2001:db8::1/32", "2001:db8::1/32: has bits beyond its prefix; 2001:db8::/32 is the network, "
                                      "2001:db8::1 the address"),
    (words.network, "192.0.2/24", "192.0.2/24: is no network: '192.0.2/24' does not appear to be an IPv4 or IPv6 "
                                  "interface"),
    (words.network, "192.0.2.0/33", "192.0.2.0/33: is no network: '192.0.2.0/33' does not appear to be an IPv4 or "
                                    "IPv6 interface"),
    (words.network, "10.0.0.0/255.0.0.0", f"{NETWORK}'10.0.0.0/255.0.0.0'"),
    (words.network, "fe80::1%eth0", f"{NETWORK}'fe80::1%eth0'"),
    (words.network, "example.org", f"{NETWORK}'example.org'"),
    (words.network, 10, f"{NETWORK}10"),
    (words.network, None, f"{NETWORK}nothing"),
    (words.ports, 65_536, f"{PORT}65536"),
    (words.ports, -1, f"{PORT}-1"),
    (words.ports, True, f"{PORT}True"),
    (words.ports, "http", f"{PORT}'http'"),
    (words.ports, "1-70000", f"{PORT}'1-70000'"),
    (words.ports, "2000-1000", "2000-1000: the first port is above the last"),
    (words.length, {}, f"{LENGTH}{{}}"),
    (words.length, 60, f"{LENGTH}60"),
    (words.length, {"least": 1}, f"{LENGTH}{{'least': 1}}"),
    (words.length, {"min": 0}, "min: expected a number of bytes from 1 to 65534, found 0"),
    (words.length, {"max": 65_535}, "max: expected a number of bytes from 1 to 65534, found 65535"),
    (words.length, {"min": 2, "max": 1}, "min 2 is above max 1"),
    (words.tcp_flags, ["syn", "not syn"], "asks for syn and for not syn"),
    (words.tcp_flags, ["sym"], "'sym' is no flag such as syn or not ack; did you mean 'syn'? "
                               "allowed: fin, syn, rst, psh, ack, urg, ece, cwr"),
    (words.tcp_flags, ["not"], "'not' is no flag such as syn or not ack; allowed: fin, syn, rst, psh, ack, urg, ece, "
                               "cwr"),
    (words.tcp_flags, [2], "2 is no flag such as syn or not ack; allowed: fin, syn, rst, psh, ack, urg, ece, cwr"),
    (words.glob, "", "expected a container's name or a glob such as web-*, found ''"),
]  # fmt: skip


@pytest.mark.parametrize(("read", "word", "message"), BAD)
def test_what_is_wrong_with_words(read: Callable[[Any], Any], word: Any, message: str) -> None:
    """A fault shows the word, and what could stand there."""
    with pytest.raises(Fault) as caught:
        read(word)
    assert str(caught.value) == message


@pytest.mark.parametrize("word", ["tpc", 256, -1, True, None, ["tcp"]])
def test_what_is_no_protocol(word: Any) -> None:
    """Protocols have the names of the label, or numbers of one byte."""
    with pytest.raises(Fault, match=r"is no protocol; .*allowed: hopopt, .*, truncated, and numbers from 0 to 255"):
        words.protocol(word)


def test_choice() -> None:
    """Of a few words, one; the likely one is offered."""
    assert words.choice("drop", "drop", "pass") == "drop"
    with pytest.raises(Fault, match=r"^'dorp': did you mean 'drop'\? allowed: drop, pass$"):
        words.choice("dorp", "drop", "pass")


def test_numbers_of_thousands_of_digits() -> None:
    """Python does not write them, and so no message does."""
    with pytest.raises(Fault, match=r"found a number of thousands of digits$"):
        words.ports(10**5000)
