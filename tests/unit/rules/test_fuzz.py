# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in a config as rules, it is taken, or refused in words: nothing crashes."""

import os
from copy import deepcopy
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import document
from exporter.document import Document
from exporter.errors import ConfigError
from exporter.rules import form, tables
from exporter.rules.rule import verdict
from tests.packets import parsed, some_packet
from tests.rulesets import rules, some_rules
from tests.unit.conftest import Write

CASES = int(os.environ.get("EBPF_EXPORTER_TEST_FUZZ", "8000")) // 8
LONGEST = 500  # of a message

OTHERS: tuple[Any, ...] = (
    None, True, 0, -1, 65_536, 10**400, 1.5, float("nan"), "", "a", "a\nb", "\x00", "tcp", "syn", "not syn", "1-2",
    "2-1", "10.0.0.0/8", "10.0.0.1/8", "::/0", "::1/0", "1.2.3.4/99", "-", "/", "*", [], {}, [[]], ["tcp", None],
    {"min": 1}, {"min": 2, "max": 1}, {"max": True}, {"min": 10**400}, "drop", "ingress", "ü" * 200, ".", "gone.txt",
)  # fmt: skip
KEYS = (*form.SCHEMA["items"]["properties"], "port", "Ü", "")


def spoiled(chance: Random, asked: list[dict[str, Any]]) -> list[Any]:
    """Rules of which something is missing, elsewhere, or another."""
    found: list[Any] = deepcopy(asked)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(found))
        if chance.random() < 0.05 or not isinstance(found[at], dict):
            found[at] = chance.choice(OTHERS)
        elif found[at] and chance.random() < 0.3:
            del found[at][chance.choice(list(found[at]))]
        else:
            found[at][chance.choice(KEYS)] = chance.choice(OTHERS)
    return found


def refused(write: Write, values: Any) -> list[str]:
    """Returns what is wrong with rules; where nothing is, they must be tables, and say something of any packet."""
    path = write("c.yaml", "")
    problems = document.validate(Document(path, values, {}), form.SCHEMA)
    if problems:
        return [str(problem) for problem in problems]
    try:
        found = rules(values, path=path)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    tables.maps(found)
    assert verdict(found, parsed(some_packet(Random(1))))[0] in ("pass", "drop")
    return []


def good(messages: list[str]) -> None:
    for message in messages:
        assert not set(message) & set("\n\r\x00\x1b"), message
        assert len(message) <= LONGEST, message


def test_rules_with_a_fault(write: Write) -> None:
    """What was good, with something taken away, put in, or put in its place."""
    chance = Random(4)
    taken = 0
    for _ in range(CASES):
        messages = refused(write, spoiled(chance, some_rules(chance, chance.choice((1, 2, 5)))))
        good(messages)
        taken += not messages
    assert CASES // 50 < taken < CASES


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.ip_addresses().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=max(20, CASES // 4))
@given(rule=st.dictionaries(st.sampled_from(KEYS[2:]), VALUES, max_size=4))
def test_any_values(tmp_path_factory: Any, rule: dict[str, Any]) -> None:
    """Any value at any place."""
    folder = tmp_path_factory.getbasetemp()

    def write(name: str, text: str) -> Any:
        (folder / name).write_text(text)
        return folder / name

    good(refused(write, [{"name": "a", "action": "drop", **rule}]))
