# SPDX-License-Identifier: Apache-2.0
"""web/turns.py: who comes when."""

import asyncio

from exporter.web.turns import Turns


async def in_order(turns: Turns, *clients: bytes) -> list[bytes]:
    """Whose turn comes when, of clients that all ask at once."""
    order: list[bytes] = []

    async def one(client: bytes) -> None:
        await turns.take(client)
        order.append(client)

    await asyncio.gather(*(one(client) for client in clients))
    return order


def test_clients_take_turns() -> None:
    """Each client has one turn in a round, in the order in which it came, however many it has asked for."""
    assert asyncio.run(in_order(Turns(), *b"a a a b a c b".split())) == b"a b c a b a a".split()


def test_a_round_is_one_of_the_loop() -> None:
    """Between two turns of a client the loop goes round: what is ready meanwhile comes in between."""

    async def main() -> list[bytes]:
        order: list[bytes] = []
        turns = Turns()
        crowd = asyncio.create_task(crowded(turns, order))
        while not order:
            await asyncio.sleep(0)
        order.append(b"b")
        await crowd
        return order

    async def crowded(turns: Turns, order: list[bytes]) -> None:
        async def one() -> None:
            await turns.take(b"a")
            order.append(b"a")

        await asyncio.gather(*(one() for _ in range(100)))

    order = asyncio.run(main())
    assert (len(order), order.index(b"b") < 5) == (101, True)


def test_who_is_gone_takes_no_turn() -> None:
    """A connection that has ended while it waited holds up nobody, and nothing is left of it."""

    async def main() -> tuple[list[bytes], dict[bytes, object], object]:
        turns = Turns()
        gone = [asyncio.create_task(turns.take(b"a")) for _ in range(50)]
        await asyncio.sleep(0)
        for one in gone:
            one.cancel()
        order = await in_order(turns, b"a", b"b")
        await asyncio.sleep(0)
        return order, dict(turns._waiting), turns._next

    assert asyncio.run(main()) == ([b"a", b"b"], {}, None)
