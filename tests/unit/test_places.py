# SPDX-License-Identifier: Apache-2.0
"""places.py: what the supervisor tells of interfaces and containers, and what is waited for."""

import socket

import pytest

from exporter.places import LONG_PATIENCE, PATIENCE, Place, Places

SHORT = "4f0a7c1b9e2d"


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nothing_waits_where_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a supervisor an interface has its present name, or its number, and all is settled."""
    monkeypatch.setattr(socket, "if_indextoname", {7: "eth0"}.__getitem__)
    places = Places()
    assert (places.settled(7), places.settled(SHORT)) == (True, True)
    assert (places.interface(7), places.container(7), places.name(SHORT)) == ("eth0", "eth0", SHORT)


def test_what_was_told() -> None:
    """Interfaces, who is behind them and containers read as told; a gone interface keeps its name."""
    places = Places()
    places.learn({7: Place("veth1", "web"), 8: Place("eth0", "eth0")}, {SHORT: "web"})
    places.learn({9: Place("veth2", "db")}, {})
    assert [places.interface(index) for index in (7, 8, 9)] == ["veth1", "eth0", "veth2"]
    assert [places.container(index) for index in (7, 8, 9)] == ["web", "eth0", "db"]
    assert places.name(SHORT) == "web"
    assert all(places.settled(number) for number in (7, 8, 9, SHORT))
    assert places.version == 0


def test_waits_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not told is waited for, each for its own time; then it reads as it can."""
    monkeypatch.setattr(socket, "if_indextoname", lambda _: (_ for _ in ()).throw(OSError()))
    clock = Clock()
    places = Places(clock=clock)
    places.learn({7: Place("veth1", "")}, {})
    assert places.settled(7, whole=False)
    assert [places.settled(number) for number in (7, 8, SHORT)] == [False] * 3
    clock.now += PATIENCE - 0.1
    assert [places.settled(number) for number in (7, 8, 9, SHORT)] == [False] * 4
    clock.now += 0.1
    assert [places.settled(number) for number in (7, 8, 9, SHORT)] == [False, True, False, True]
    clock.now += LONG_PATIENCE - PATIENCE - 0.1
    assert not places.settled(7)  # somebody said that it is being found out
    clock.now += 0.1
    assert places.settled(7)
    assert (places.container(7), places.interface(8), places.name(SHORT)) == ("veth1", "8", SHORT)


@pytest.mark.parametrize("container", ["", "web-1", "(unknown)", SHORT[:-1], SHORT + "0", SHORT.upper()])
def test_only_ids_have_names_to_come(container: str) -> None:
    """A container that has a name already, or none, is not waited for."""
    places = Places()
    places.learn({}, {})
    assert places.settled(container)


def test_versions() -> None:
    """The version is another when something reads differently than it did, and only then."""
    clock = Clock()
    places = Places(clock=clock)

    def after(told: dict[int, Place], names: dict[str, str]) -> int:
        places.learn(told, names)
        return places.version

    assert after({7: Place("veth1", "")}, {}) == 0
    assert after({7: Place("veth1", "web")}, {SHORT: "web"}) == 0
    assert after({7: Place("veth1", "web")}, {SHORT: "web"}) == 0
    assert after({7: Place("veth9", "web")}, {}) == 1  # renamed
    assert after({7: Place("veth9", "db")}, {}) == 2
    assert after({}, {SHORT: "db"}) == 3
    places.settled(8)
    places.settled("f" * 12)
    assert after({8: Place("a", "a")}, {"f" * 12: "a"}) == 3  # still waited for
    places.settled(9)
    places.settled("e" * 12)
    clock.now += PATIENCE
    assert after({9: Place("b", "b")}, {}) == 4  # it read 9
    assert after({}, {"e" * 12: "b"}) == 5


def test_tables_are_bounded() -> None:
    """Of more than are remembered those stay that were told of last; of more that are waited for, some are not."""
    places = Places(most=16)
    for at in range(40):
        places.learn({at: Place(f"veth{at}", f"c{at}")}, {f"{at:012x}": f"c{at}"})
    assert places.container(39) == "c39"
    assert places.name(f"{39:012x}") == "c39"
    assert places.name(f"{0:012x}") == f"{0:012x}"
    assert [places.settled(1000 + at) for at in range(17)] == [False] * 16 + [True]
    places.learn({1000: Place("veth", "c")}, {})  # which makes room for one
    assert not places.settled(1016)
