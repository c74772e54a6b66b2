# SPDX-License-Identifier: Apache-2.0
"""The words of a rule to what they mean. Each function raises ``Fault`` with what stands there and what could."""

import ipaddress
import re
from typing import Any

from exporter.errors import one_of
from exporter.kinds import PROTOCOLS
from exporter.rules.rule import TCP_FLAGS

LONGEST = 65_534  # bytes of a packet: those that are longer are alike to the programs

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
NETWORK = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")
RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
A_NAME = "a name of up to 63 letters, digits, _, . and -"
A_NETWORK = "a network such as 192.0.2.0/24 or 2001:db8::/32, or an address"
A_PORT = "a port from 0 to 65535 or a range such as 1000-2000"
_PROTOCOLS = {name: number for number, name in PROTOCOLS.items()}


class Fault(Exception):
    """What is wrong with a word."""


def shown(value: Any) -> str:
    """Returns what stands somewhere, as a message shows it."""
    if value is None:
        return "nothing"
    try:
        return repr(value)[:100]
    except ValueError:  # Python does not write integers of over 4,300 digits
        return "a number of thousands of digits"


def name(word: Any) -> str:
    """Returns the name of a rule: the value of a label."""
    if isinstance(word, str) and NAME.fullmatch(word):
        return word
    raise Fault(f"expected {A_NAME}, found {shown(word)}")


def choice(word: Any, *allowed: str) -> str:
    """Returns one of a few words."""
    if isinstance(word, str) and word in allowed:
        return word
    raise Fault(f"{shown(word)}: {one_of(str(word)[:100] if isinstance(word, str) else '', allowed)}")


def network(word: Any) -> bytes:
    """Returns a network, ``192.0.2.0/24``, or an address: the bytes of the address and one more, the prefix's bits."""
    if not isinstance(word, str) or not NETWORK.fullmatch(word):
        raise Fault(f"expected {A_NETWORK}; found {shown(word)}")
    try:
        found = ipaddress.ip_interface(word)
    except ValueError as error:
        raise Fault(f"{word}: is no network: {error}") from None
    around = found.network
    if around.network_address != found.ip:
        raise Fault(f"{word}: has bits beyond its prefix; {around} is the network, {found.ip} the address")
    return found.packed + bytes([around.prefixlen])


def protocol(word: Any) -> int:
    """Returns the number of a protocol, as ``kinds.PROTOCOLS`` has it: of a name of these, or from 0 to 255."""
    if isinstance(word, int) and not isinstance(word, bool) and 0 <= word <= 255:
        return word
    if isinstance(word, str) and word in _PROTOCOLS:
        return _PROTOCOLS[word]
    near = one_of(word[:100] if isinstance(word, str) else "", list(_PROTOCOLS))
    raise Fault(f"{shown(word)} is no protocol; {near}, and numbers from 0 to 255")


def ports(word: Any) -> tuple[int, int]:
    """Returns the first and last port of ``1000-2000``; of a single port, it twice."""
    first = last = -1
    if isinstance(word, int) and not isinstance(word, bool):
        first = last = word
    elif isinstance(word, str) and (match := RANGE.fullmatch(word)):
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise Fault(f"{word}: the first port is above the last")
    if not 0 <= first <= last <= 65_535:
        raise Fault(f"expected {A_PORT}, found {shown(word)}")
    return first, last


def length(value: Any) -> tuple[int, int | None]:
    """Returns the least and the most bytes of ``{min: 100, max: 200}``, of which one may be missing."""
    if not isinstance(value, dict) or not value or set(value) - {"min", "max"}:
        raise Fault(f"expected {{min: BYTES, max: BYTES}} or one of them, found {shown(value)}")
    for key, number in value.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= LONGEST:
            raise Fault(f"{key}: expected a number of bytes from 1 to {LONGEST}, found {shown(number)}")
    least, most = value.get("min", 0), value.get("max")
    if most is not None and least > most:
        raise Fault(f"min {least} is above max {most}")
    return least, most


def tcp_flags(words: list[Any]) -> tuple[int, int]:
    """Returns the bits that must be set and those that must not, of ``[syn, not ack]``."""
    bits = [0, 0]
    for word in words:
        text = word if isinstance(word, str) else ""
        flag = text.removeprefix("not ").strip()
        if flag not in TCP_FLAGS:
            raise Fault(f"{shown(word)} is no flag such as syn or not ack; {one_of(flag[:100], TCP_FLAGS)}")
        bits[text.startswith("not ")] |= 1 << TCP_FLAGS.index(flag)
    if both := bits[0] & bits[1]:
        flag = TCP_FLAGS[both.bit_length() - 1]
        raise Fault(f"asks for {flag} and for not {flag}")
    return bits[0], bits[1]


def glob(word: Any) -> str:
    """Returns a container's name, or a pattern of such."""
    if isinstance(word, str) and word:
        return word
    raise Fault(f"expected a container's name or a glob such as web-*, found {shown(word)}")
