# SPDX-License-Identifier: Apache-2.0
"""Probes in YAML at random, of hooks that every kernel has: small ones, and ones of all that a program can hold."""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from exporter import declared
from exporter.document import Document
from exporter.expression import Binary, Call, Node, Number, Text, Word
from exporter.probe import Probe

from .expressions import number, tree, written


@dataclass(frozen=True)
class Place:
    """A hook, or the two of a span, with what its events give."""

    attach: str | dict[str, str]
    numbers: tuple[str, ...]
    texts: tuple[str, ...] = ("comm",)
    addresses: tuple[str, ...] = ()


_COMMON = ("pid", "tid", "uid", "gid", "cpu")
PLACES = (
    Place("tracepoint:syscalls:sys_enter_openat", ("args.dfd", "args.filename", "args.flags", "args.mode")),
    Place("tracepoint:syscalls:sys_exit_read", ("args.ret",)),
    Place(
        "tracepoint:sched:sched_switch",
        ("args.prev_pid", "args.prev_prio", "args.prev_state", "args.next_pid", "args.next_prio"),
        ("comm", "args.prev_comm", "args.next_comm"),
    ),
    Place("tracepoint:sched:sched_process_exec", ("args.pid", "args.old_pid"), ("comm", "args.filename")),
    Place("tracepoint:signal:signal_generate", ("args.sig", "args.errno", "args.code"), ("comm", "args.comm")),
    Place(
        "tracepoint:sock:inet_sock_set_state",
        ("args.skaddr", "args.oldstate", "args.newstate", "args.sport", "args.dport", "args.family", "args.protocol"),
        addresses=("args.saddr", "args.daddr", "args.saddr_v6", "args.daddr_v6"),
    ),
    Place(
        {"start": "tracepoint:syscalls:sys_enter_openat", "end": "tracepoint:syscalls:sys_exit_openat"},
        ("elapsed", "args.ret", "args.dfd", "args.filename", "args.flags", "args.mode"),
    ),
)


def text(chance: Random, place: Place) -> tuple[Node, int]:
    """Returns what is a text, and how many bytes another can have that it is compared with."""
    size = chance.choice((None, 2, 3, 8, 16, 64, chance.randint(2, 256)))
    if chance.random() < 0.4:
        return Call("str", Word((chance.choice(place.numbers),)), size), (size or 64) - 1
    word = Word((chance.choice(place.texts),))
    if chance.random() < 0.3:
        return Call("str", word, size), min(size or 16, 16) - 1
    return word, 15


def value(chance: Random, place: Place, leaves: int) -> Node:
    """Returns what is a number."""

    def leaf() -> Node:
        what = chance.random()
        if what < 0.1:
            one, most = text(chance, place)
            letters = "".join(chance.choices("abcdefgh/ ", k=chance.randint(0, most)))
            return Binary(chance.choice(("==", "!=")), one, Text(letters))
        if what < 0.13 and place.addresses:
            return Binary("==", Call("ip", Word((chance.choice(place.addresses),))), Text("::1"))
        return Number(number(chance)) if what < 0.35 else Word((chance.choice(_COMMON + place.numbers),))

    return tree(chance, leaf, leaves)


def label(chance: Random, place: Place, leaves: int) -> str:
    what = chance.random()
    if what < 0.25:
        return chance.choice(("comm", "user", "pid", "cpu"))
    if what < 0.5:
        return written(text(chance, place)[0])
    if what < 0.55 and place.addresses:
        return f"ip({chance.choice(place.addresses)})"
    found = value(chance, place, leaves)
    return "pid" if isinstance(found, Number) else written(found)


def declaration(chance: Random, size: int) -> dict[str, Any]:
    """Returns the YAML of a probe; size, from 1, says how much there is in it."""
    place = chance.choice(PLACES)

    def leaves() -> int:
        return chance.randint(1, 4 * size)

    metrics: dict[str, Any] = {}
    for at in range(chance.randint(1, size)):
        kind = chance.choice(("counter", "counter", "gauge", "histogram"))
        name = f"ebpf_m{at}" + ("_total" if kind == "counter" else "")
        metric = metrics[name] = {"type": kind, "help": "Help."}
        if kind != "counter" or chance.random() < 0.5:
            metric["value"] = written(value(chance, place, leaves()))
        if kind == "gauge":
            metric["keep"] = chance.choice(("last", "max"))
        elif kind == "histogram" and chance.random() < 0.5:
            metric["bounds"] = sorted(set(chance.sample(range(2**20), chance.randint(1, 60))))
        metric["labels"] = {f"l{one}": label(chance, place, leaves()) for one in range(chance.randint(0, 2 * size))}
    declared = {"attach": place.attach, "metrics": metrics}
    if chance.random() < 0.7:
        declared["where"] = written(value(chance, place, leaves()))
    return declared


def probe(name: str, value: Any) -> Probe:
    """Returns a declaration as a probe. Raises ConfigError."""
    return declared.read(name, Document(Path("config.yaml"), value, {}))
