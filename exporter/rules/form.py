# SPDX-License-Identifier: Apache-2.0
"""A config's ``rules:`` to Rules: every fault with its line, what stands there, and what could."""

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.document import Document, Where
from exporter.errors import ConfigError, Problem
from exporter.kinds import PROTOCOLS
from exporter.rules import words
from exporter.rules.rule import ARP, COUNT, DROP, EGRESS, INGRESS, MAX_RULES, NON_IP, PASS, Networks, Rule
from exporter.rules.words import Fault

_FIELDS = (
    "name", "action", "source", "source_file", "destination", "destination_file", "protocol", "source_port",
    "destination_port", "length", "tcp_flags", "direction", "containers",
)  # fmt: skip
_SUCH_AS = "{name: scanners, action: drop, source: 192.0.2.0/24}"

SCHEMA: dict[str, Any] = {
    "type": "array",
    "maxItems": MAX_RULES,
    "items": {
        "type": "object",
        "required": ["name", "action"],
        "properties": {key: {} for key in _FIELDS},
        "additionalProperties": False,
        "description": f"a rule such as {_SUCH_AS}",
    },
    "description": f"a list of up to {MAX_RULES} rules such as {_SUCH_AS}",
}

MAX_FILE = 32 << 20  # bytes of a file of networks
MAX_NETWORKS = 1_000_000  # of a rule's sources or destinations: see tables.py for those of all rules

_TCP, _WITH_PORTS = 6, (6, 17, 33, 132, 136)


def read(values: Sequence[dict[str, Any]], config: Document, where: Where, on_containers: bool) -> tuple[Rule, ...]:
    """Returns the rules that stand at a place of a config, whose form SCHEMA allows, in their order.

    on_containers says whether they may ask for directions and containers. Raises ConfigError with every problem.
    """
    reader = _Reader(config, on_containers)
    rules = [reader.rule(value, (*where, at)) for at, value in enumerate(values)]
    if reader.problems:
        raise ConfigError(reader.problems)
    return tuple(rules)


@dataclass
class _Reader:
    """Reads rules, and keeps what is wrong with them."""

    config: Document
    on_containers: bool
    problems: list[Problem] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)  # with the line of each

    def rule(self, value: dict[str, Any], where: Where) -> Rule:
        def one(key: str, read: Callable[[Any], Any], otherwise: Any = None) -> Any:
            return self._tried(read, value[key], (*where, key), otherwise) if key in value else otherwise

        def each(key: str, read: Callable[[Any], Any]) -> list[Any]:
            return self._each(read, value[key], (*where, key)) if key in value else []

        name = one("name", words.name, "")
        flags = one("tcp_flags", lambda given: words.tcp_flags(given if isinstance(given, list) else [given]), (0, 0))
        rule = Rule(
            name=name,
            action=one("action", lambda word: words.choice(word, DROP, PASS, COUNT), COUNT),
            source=self._networks(value, "source", where),
            destination=self._networks(value, "destination", where),
            protocols=frozenset(each("protocol", words.protocol)) if "protocol" in value else None,
            source_ports=tuple(each("source_port", words.ports)),
            destination_ports=tuple(each("destination_port", words.ports)),
            length=one("length", words.length),
            flags_set=flags[0],
            flags_clear=flags[1],
            direction=one("direction", lambda word: words.choice(word, INGRESS, EGRESS), ""),
            containers=tuple(each("containers", words.glob)),
        )
        for key, message in self._contradictions(rule, value):
            self._fault((*where, key), message)
        if name in self.names:
            self._fault((*where, "name"), f"{name!r} is the name of the rule in line {self.names[name]} as well")
        elif name:
            self.names[name] = self.config.line((*where, "name"))
        return rule

    def _fault(self, where: Where, message: str) -> None:
        self.problems.append(self.config.problem(where, message))

    def _tried(self, read: Callable[[Any], Any], word: Any, where: Where, otherwise: Any) -> Any:
        try:
            return read(word)
        except Fault as fault:
            self._fault(where, str(fault))
            return otherwise

    def _each(self, read: Callable[[Any], Any], value: Any, where: Where) -> list[Any]:
        """Reads a word, or each of a list; leaves out what is wrong."""
        if value == []:
            self._fault(where, "is an empty list, which nothing meets; without it, everything does")
        if not isinstance(value, list):
            return [found for found in [self._tried(read, value, where, None)] if found is not None]
        found = [self._tried(read, word, (*where, at), None) for at, word in enumerate(value)]
        return [one for one in found if one is not None]

    def _networks(self, value: dict[str, Any], key: str, where: Where) -> Networks | None:
        """Returns the networks that a rule gives, together with those of the file that it names."""
        file = f"{key}_file"
        if key not in value and file not in value:
            return None
        found = set(self._each(words.network, value[key], (*where, key))) if key in value else set()
        if file in value:
            found.update(self._of_file(value[file], (*where, file)))
        if len(found) > MAX_NETWORKS:
            self._fault(
                (*where, file if file in value else key), f"{len(found)} networks; a rule can have {MAX_NETWORKS}"
            )
        return Networks(*(b"".join(sorted(one for one in found if len(one) == size)) for size in (5, 17)))

    def _of_file(self, name: Any, where: Where) -> Iterator[bytes]:
        if not isinstance(name, str) or not name or "\0" in name:
            self._fault(where, f"expected a file of networks, found {words.shown(name)}")
            return
        path = self.config.path.parent / name
        text = self._tried(_text, path, where, None)
        if text is None:
            return
        lines = [(at, line.partition("#")[0].strip()) for at, line in enumerate(text.split("\n"), 1)]
        if not any(word for _, word in lines):
            self._fault(where, f"{path} has no network in it")
        for at, word in lines:
            try:
                if word:
                    yield words.network(word)
            except Fault as fault:
                self.problems.append(Problem(path, at, str(fault)))

    def _contradictions(self, rule: Rule, value: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """What no packet can meet, and what this probe can't know: where it stands, and why."""
        for key in ("direction", "containers"):
            if key in value and not self.on_containers:
                yield key, "is for probes on containers' interfaces (tc)"
        ports = next((key for key in ("source_port", "destination_port") if key in value), None)
        networks = next((key for key in ("source", "destination") if getattr(rule, key) is not None), None)
        for number in sorted(rule.protocols or ()):
            name = PROTOCOLS.get(number, str(number))
            if ports and number not in _WITH_PORTS:
                those = ", ".join(map(PROTOCOLS.__getitem__, _WITH_PORTS))
                yield ports, f"the protocol {name} has no ports; those that have: {those}"
            if "tcp_flags" in value and number != _TCP:
                yield "tcp_flags", f"the protocol {name} has none"
            if networks and number in (ARP, NON_IP):
                yield "protocol", f"{name} has no {networks} that is looked at"
        one, other = rule.source, rule.destination
        if one and other and not (one.v4 and other.v4) and not (one.v6 and other.v6):
            yield "name", "source and destination have no IP version in common: no packet meets both"


def _text(path: Path) -> str:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_FILE:
            raise Fault(f"{path} is no file of at most {MAX_FILE} bytes")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Fault(f"{path} cannot be read: {error.strerror}") from error
