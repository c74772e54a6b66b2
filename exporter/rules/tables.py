# SPDX-License-Identifier: Apache-2.0
"""Rules as tables for the kernel: what bpf/lib/rules.h looks up, as bytes.

A set of rules is a number here: bit n is the rule that is the nth in order. Each value that a packet can have leads to
the set of the rules whose condition it meets; equal sets are one, which has a number of its own.
"""

import ipaddress
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, repeat

from exporter.errors import LoadError
from exporter.kinds import PROTOCOLS
from exporter.rules.rule import COUNT, DROP, EGRESS, INGRESS, MAX_RULES, Networks, Ranges, Rule

PLACES = "rules_places"  # the map of the rules of each place: filled by who knows the places

_STEPS = (1, 4, 16, 64, -(-MAX_RULES // 64))  # words of 64 rules: a rule more is seldom another program
_NONE = 0xFFFFFFFF  # RULES_NONE
_MOST_RANGES = 1 << 22  # of a bucket: RULES_HALVINGS
_VALUES = 65_536  # ports, lengths, and buckets of addresses

_ASKS: dict[str, Callable[[Rule], object]] = {
    "RULES_PLACE": lambda rule: rule.direction or rule.containers,
    "RULES_PROTOCOL": lambda rule: rule.protocols,
    "RULES_SOURCE_PORT": lambda rule: rule.source_ports,
    "RULES_DESTINATION_PORT": lambda rule: rule.destination_ports,
    "RULES_TCP_FLAGS": lambda rule: rule.flags_set | rule.flags_clear,
    "RULES_LENGTH": lambda rule: rule.length,
    "RULES_SOURCE": lambda rule: rule.source,
    "RULES_DESTINATION": lambda rule: rule.destination,
}


def words(rules: Sequence[Rule]) -> int:
    """Returns how many words of 64 bits a set of rules has in the kernel; 0 without rules."""
    return next(step for step in _STEPS if len(rules) <= 64 * step) if rules else 0


def defines(rules: Sequence[Rule]) -> dict[str, int]:
    """Returns what of bpf/lib/rules.h is compiled for these rules: only what one of them asks for."""
    return {"RULES_WORDS": words(rules)} | {name: int(any(map(ask, rules))) for name, ask in _ASKS.items()}


def maps(rules: Sequence[Rule]) -> dict[str, bytes]:
    """Returns the values of each array of bpf/lib/rules.h, one after the other, as the kernel has them.

    Raises LoadError where networks are more than the kernel looks through.
    """
    if not rules:
        return {}
    asked, sets = defines(rules), _Sets(words(rules))
    absent = [sets.number(_without(rules, f"RULES_{what}")) for what in _ABSENT]
    cells = array("Q")
    if asked["RULES_PROTOCOL"]:
        cells.extend(_protocols(rules, sets))
    if asked["RULES_SOURCE_PORT"]:
        cells.extend(_ranges([rule.source_ports for rule in rules], sets))
    if asked["RULES_DESTINATION_PORT"]:
        cells.extend(_ranges([rule.destination_ports for rule in rules], sets))
    if asked["RULES_TCP_FLAGS"]:
        cells.extend(_flags(rules, sets))
    if asked["RULES_LENGTH"]:
        cells.extend(_ranges([_lengths(rule) for rule in rules], sets))
    v4, v6 = _Addresses(4), _Addresses(6)
    for what, networks in (
        ("RULES_SOURCE", [rule.source for rule in rules]),
        ("RULES_DESTINATION", [rule.destination for rule in rules]),
    ):
        if asked[what]:
            for addresses in (v4, v6):
                cells.extend(addresses.add(networks, sets))
    found = {
        "rules_start": struct.pack("=2Q6I", _NONE, 0, *absent, 0),
        "rules_words": b"".join(_word(rules[at : at + 64]) for at in range(0, 64 * sets.words, 64)),
        "rules_sets": b"".join(map(sets.packed, sets.all())),
        "rules_cells": cells.tobytes() or bytes(8),
    }
    if v4.ranges:
        found |= {"rules_ranges_v4": bytes(v4.ranges), "rules_ranges_v6": bytes(v6.ranges)}
    return found


def place(rules: Sequence[Rule], direction: str, container: str | None) -> bytes:
    """Returns the value in PLACES for an interface's direction: the rules that are for it.

    container is None for all interfaces of which nothing is said; the key then has interface 0.
    """
    return _Sets(words(rules)).packed(_those(rules, lambda rule: rule.is_for(direction, container)))


def place_key(interface: int, direction: str) -> bytes:
    """Returns the key in PLACES of an interface, by its index, and a direction as its container sees it."""
    return struct.pack("=II", interface, (INGRESS, EGRESS).index(direction))


_ABSENT = ("SOURCE", "DESTINATION", "SOURCE_PORT", "DESTINATION_PORT", "TCP_FLAGS")  # as struct rules_start has them


def _word(rules: Sequence[Rule]) -> bytes:
    """Returns up to 64 rules as struct rules_word."""
    sets = (_those(rules, lambda _: True), _those(rules, _decides), _those(rules, _drops))
    numbers = [rule.number for rule in rules]
    return struct.pack("=3Q64H", *sets, *numbers, *[0] * (64 - len(numbers)))


def _decides(rule: Rule) -> bool:
    return rule.action != COUNT


def _drops(rule: Rule) -> bool:
    return rule.action == DROP


def _those(rules: Sequence[Rule], holds: Callable[[Rule], object]) -> int:
    """Returns the set of the rules for which something holds."""
    return int("".join("1" if holds(rule) else "0" for rule in reversed(rules)) or "0", 2)


def _without(rules: Sequence[Rule], what: str) -> int:
    """Returns the set of the rules that do not ask for something."""
    return _those(rules, lambda rule: not _ASKS[what](rule))


class _Sets:
    """Sets of rules, numbered from 0 as they come."""

    def __init__(self, words: int) -> None:
        self.words = words
        self._group = 8 * -(-words // 64)  # bytes
        self._numbers: dict[int, int] = {}

    def all(self) -> Iterable[int]:
        return self._numbers

    def number(self, rules: int) -> int:
        return self._numbers.setdefault(rules, len(self._numbers))

    def packed(self, rules: int) -> bytes:
        """Returns a set as struct rules_set."""
        data = rules.to_bytes(8 * self.words, "little")
        if self.words == 1:
            return data
        starts = range(0, len(data), self._group)
        summary = sum(1 << bit for bit, at in enumerate(starts) if any(data[at : at + self._group]))
        return summary.to_bytes(8, "little") + data


def _protocols(rules: Sequence[Rule], sets: _Sets) -> Iterable[int]:
    of = [_without(rules, "RULES_PROTOCOL")] * (max(PROTOCOLS) + 1)
    for at, rule in enumerate(rules):
        for protocol in rule.protocols or ():
            of[protocol] |= 1 << at
    return map(sets.number, of)


def _flags(rules: Sequence[Rule], sets: _Sets) -> Iterable[int]:
    asked: dict[tuple[int, int], int] = {}
    for at, rule in enumerate(rules):
        pair = (rule.flags_set, rule.flags_clear)
        asked[pair] = asked.get(pair, 0) | 1 << at
    met = (
        sum(found for (on, off), found in asked.items() if flags & on == on and not flags & off) for flags in range(256)
    )
    return map(sets.number, met)


def _lengths(rule: Rule) -> Ranges:
    return ((rule.length[0], rule.length[1] or _VALUES - 1),) if rule.length else ()


def _ranges(ranges: Sequence[Ranges], sets: _Sets) -> Iterable[int]:
    """Returns for each value the number of the set of the rules that have it in their ranges, or have no ranges."""
    turns: dict[int, int] = {0: 0, _VALUES: 0}  # where rules begin or end
    here = 0
    for at, own in enumerate(ranges):
        if not own:
            here |= 1 << at
        for low, high in _merged(own):
            turns[low] = turns.get(low, 0) ^ 1 << at
            turns[high + 1] = turns.get(high + 1, 0) ^ 1 << at
    for start, end in pairwise(sorted(turns)):
        here ^= turns[start]
        yield from repeat(sets.number(here), end - start)


def _merged(ranges: Ranges) -> list[tuple[int, int]]:
    """Returns ranges of which none touch."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(high, found[-1][1])
        else:
            found.append((low, high))
    return found


class _Addresses:
    """The ranges of addresses of an IP version, as struct rules_v4 or rules_v6."""

    def __init__(self, version: int) -> None:
        self.ranges = bytearray()
        self._version = version
        self._bits = 32 if version == 4 else 128
        self._count = 0

    def add(self, networks: Sequence[Networks | None], sets: _Sets) -> list[int]:
        """Adds the ranges of the rules' networks. Returns their buckets: the first and the last range of each."""
        starts: list[int] = []
        before = None
        for start, rules in self._turns(networks):
            number = sets.number(rules)
            if number != before:
                starts.append(start)
                self.ranges += self._packed(start, number)
            before = number
        step = 1 << self._bits - 16
        first = [self._count + bisect_right(starts, bucket * step) - 1 for bucket in range(_VALUES)]
        self._count += len(starts)
        last = [*first[1:], self._count - 1]
        for bucket, (one, other) in enumerate(zip(first, last, strict=True)):
            if other - one >= _MOST_RANGES:
                around = self._network(bucket * step)
                raise LoadError(
                    f"the networks of all rules make {other - one + 1} ranges of addresses in {around}; the kernel can"
                    f" look through {_MOST_RANGES}: give fewer or larger networks"
                )
        return [one | other << 32 for one, other in zip(first, last, strict=True)]

    def _network(self, start: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        return ipaddress.IPv4Network((start, 16)) if self._version == 4 else ipaddress.IPv6Network((start, 16))

    def _packed(self, start: int, number: int) -> bytes:
        if self._version == 4:
            return struct.pack("=II", start, number)
        return struct.pack("=QQQ", start >> 64, start & (1 << 64) - 1, number)

    def _turns(self, networks: Sequence[Networks | None]) -> list[tuple[int, int]]:
        """Returns where networks begin or end, in ascending order, each with the set that is met from there on."""
        own: dict[tuple[int, int], int] = {}
        free = 0
        for at, of in enumerate(networks):
            if of is None:
                free |= 1 << at
            for address, length in of.of(self._version) if of else ():
                key = (int.from_bytes(address), length)
                own[key] = own.get(key, 0) | 1 << at
        found = [(0, free)]
        around: list[tuple[int, int]] = []  # the networks that we are in: ends and sets, the innermost last

        def turn(at: int, rules: int) -> None:
            if found[-1][0] == at:
                found.pop()
            found.append((at, rules))

        def leave(upto: int) -> int:
            while around and around[-1][0] <= upto:
                end, _ = around.pop()
                turn(end, around[-1][1] if around else free)
            return around[-1][1] if around else free

        for (start, length), rules in sorted(own.items()):
            here = leave(start) | rules
            around.append((start + (1 << self._bits - length), here))
            turn(start, here)
        leave(1 << self._bits)
        return found[:-1] if found[-1][0] == 1 << self._bits else found
