# SPDX-License-Identifier: Apache-2.0
"""web/connections.py: whose a connection is, and who gives way."""

import asyncio
from typing import Any

import pytest

from exporter.web import connections
from exporter.web.connections import Connection, Connections, client


@pytest.mark.parametrize(
    ("peer", "other", "same"),
    [
        (("192.0.2.1", 1), ("192.0.2.1", 2), True),
        (("192.0.2.1", 1), ("192.0.2.2", 1), False),
        (("192.0.2.1", 1), ("::ffff:192.0.2.1", 1, 0, 0), True),
        (("2001:db8::1", 1, 0, 0), ("2001:db8::2:3:4:5", 1, 0, 0), True),
        (("2001:db8::1", 1, 0, 0), ("2001:db8:0:1::1", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 2), ("fe80::2", 1, 0, 2), True),
        (("::1", 1, 0, 0), ("127.0.0.1", 1), False),
        (("127.0.0.1", 1), ("127.255.3.2", 1), True),
        (("127.0.0.1", 1), ("::ffff:127.1.2.3", 1, 0, 0), True),
        (("127.0.0.1", 1), ("128.0.0.1", 1), False),
        ("", "", True),
        ("", ("127.0.0.1", 1), False),
    ],
)
def test_whose_a_connection_is(peer: Any, other: Any, same: bool) -> None:
    """A client is an IPv4 address, or a network of IPv6; all in 127.0.0.0/8 are one, or on a Unix socket."""
    assert (client(peer) == client(other)) is same


class Given:
    """A connection as it stands: a is anybody's name; silent in seconds; all else as in Connection."""

    def __init__(self, a: str, silent: float, answering: bool = False, proven: bool = False, sending: int = 0) -> None:
        self.words = (a, silent, answering, proven, sending)

    def make(self) -> Connection:
        a, silent, answering, proven, sending = self.words
        task = asyncio.get_running_loop().create_task(asyncio.sleep(100))
        return Connection(a.encode(), 1000 - silent, answering, proven, sending, task=task)


def ended(found: list[Connection]) -> list[int]:
    return [index for index, one in enumerate(found) if one.task is not None and one.task.cancelling()]


def given(*all_: Given, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Adds all, one after the other, where there may be so many. Returns which are ended."""

    async def main() -> list[int]:
        found = [one.make() for one in all_]
        open_ = Connections()
        for one in found:
            open_.add(one)
        return ended(found)

    monkeypatch.setattr(connections, "MAX_CONNECTIONS", most)
    monkeypatch.setattr(connections, "SLACK", 0)
    return asyncio.run(main())


def test_who_was_silent_longest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the connections of one client the one on which nothing has moved for the longest time ends."""
    assert given(Given("a", 5), Given("a", 9), Given("a", 0), most=2, monkeypatch=monkeypatch) == [1]


def test_who_waits_for_an_answer_gives_way_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has asked stays while there is one that has not."""
    all_ = [Given("a", 9, answering=True), Given("a", 5), Given("a", 0)]
    assert given(*all_, most=2, monkeypatch=monkeypatch) == [1]
    all_ = [Given("a", 9, answering=True), Given("a", 5, answering=True), Given("a", 0, answering=True)]
    assert given(*all_, most=2, monkeypatch=monkeypatch) == [0]


def test_several_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some more than the limit are let in, then all that are too many end together, the crowds evenly."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(connections, "SLACK", 3)

    async def main() -> tuple[list[int], list[int]]:
        all_ = [Given("ab"[number % 2], 9 - number).make() for number in range(8)]
        open_ = Connections()
        for one in all_[:7]:
            open_.add(one)
        before = ended(all_)
        open_.add(all_[7])
        return before, ended(all_)

    assert asyncio.run(main()) == ([], [0, 1, 2, 3])


def test_a_crowd_takes_nothing_from_who_had_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scraper that keeps its connection stays, although a crowd from the same address has come after it."""
    crowd = [Given("a", 9 - number) for number in range(6)]
    assert given(Given("a", 99, proven=True), *crowd, most=3, monkeypatch=monkeypatch) == [1, 2, 3, 4]


def test_who_had_a_page_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd that has had its pages and stays does not keep out who comes now."""
    crowd = [Given("a", 9 - number, proven=True) for number in range(4)]
    assert given(*crowd, Given("a", 0), most=4, monkeypatch=monkeypatch) == [0]


def test_a_crowd_takes_nothing_from_another_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a client was silent, one that has more connections gives way."""
    crowd = [Given("b", 20 - number, answering=True) for number in range(9)]
    assert given(Given("a", 99), *crowd, most=4, monkeypatch=monkeypatch) == [1, 2, 3, 4, 5, 6]


def test_many_who_are_alone_take_nothing_from_who_had_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scraper stays, idle or answered, wherever it stands among connections that all come from somewhere else."""
    alone = [Given(f"{number}", 5 - number) for number in range(5)]
    scraper = Given("a", 99, proven=True)
    assert given(scraper, *alone, most=3, monkeypatch=monkeypatch) == [1, 2, 3]
    assert given(*alone[:2], scraper, *alone[2:], most=3, monkeypatch=monkeypatch) == [0, 1, 3]
    asking = [Given(f"{number}", 5 - number, answering=True) for number in range(5)]
    assert given(scraper, *asking, most=1, monkeypatch=monkeypatch) == [1, 2, 3, 4, 5]
    answered = Given("a", 99, answering=True, proven=True)
    assert given(answered, *asking, most=1, monkeypatch=monkeypatch) == [1, 2, 3, 4, 5]


def test_of_many_who_are_alone_one_that_asks_for_nothing_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As within a crowd: sooner one that asks for nothing, and of these the one that was silent longest."""
    all_ = [Given("a", 9, answering=True), Given("b", 5), Given("c", 7), Given("d", 0)]
    assert given(*all_, most=3, monkeypatch=monkeypatch) == [2]
    assert given(*all_, most=1, monkeypatch=monkeypatch) == [1, 2, 3]


def test_answers_that_are_not_taken_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many bytes are on their way the slowest takers end, never the one that is to be answered now."""

    async def main() -> list[int]:
        found = [one.make() for one in (Given("a", 5, sending=40), Given("b", 9, sending=40), Given("c", 99))]
        open_ = Connections()
        for one in found:
            open_.add(one)
        open_.make_room(found[2], 40)
        first = ended(found)
        open_.make_room(found[2], 1000)
        return [*first, *ended(found)]

    monkeypatch.setattr(connections, "MAX_SENDING_BYTES", 100)
    assert asyncio.run(main()) == [1, 0, 1]


def test_renewal() -> None:
    """Who asks for nothing ends at once; who waits or takes ends with the answer."""

    async def main() -> tuple[list[int], list[bool]]:
        found = [one.make() for one in (Given("a", 0), Given("a", 0, answering=True), Given("a", 0, sending=1))]
        open_ = Connections()
        for one in found:
            open_.add(one)
        open_.renew()
        return ended(found), [one.last for one in found]

    assert asyncio.run(main()) == ([0], [True, True, True])
