# SPDX-License-Identifier: Apache-2.0
"""web/passwords.py: right and wrong ones, what is remembered, whose turn it is."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import bcrypt
import pytest

from exporter.web import passwords
from exporter.web.passwords import Passwords

T = TypeVar("T")


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


ALICE, BOB = hashed("wonderland"), hashed("builder", 5)
USERS = (
    ("alice", ALICE),
    ("bob", BOB),
    ("zoë", hashed("ünïcode")),
    ("long", hashed("x" * 72)),
    ("asks", hashed("who?")),
)


class Checks:
    """Stands in for bcrypt: counts checks, and holds them up while it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[bytes, bytes]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self._real = bcrypt.checkpw
        monkeypatch.setattr(bcrypt, "checkpw", self)

    def __call__(self, password: bytes, hash_: bytes) -> bool:
        self.made.append((password, hash_))
        assert self.go_on.wait(30)
        return self._real(password, hash_)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checks]:
    found = Checks(monkeypatch)
    yield found
    found.go_on.set()


def run(conversation: Callable[[Passwords], Awaitable[T]], users: tuple[tuple[str, str], ...] = USERS) -> T:
    async def main() -> T:
        found = Passwords()
        found.use(users)
        return await asyncio.wait_for(conversation(found), 30)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("user", "password", "right"),
    [
        ("alice", "wonderland", True),
        ("alice", "wonderlanD", False),
        ("alice", "", False),
        ("alice", "builder", False),
        ("bob", "builder", True),
        ("zoë", "ünïcode", True),
        ("mallory", "wonderland", False),
        ("mallory", "builder", False),
        ("", "", False),
        ("alice", "wonderland\0", False),
        ("alice", "wonderland?", False),
        ("asks", "who?", True),
        ("asks", "who\0", False),
        ("long", "x" * 72, True),
        ("long", "x" * 5000, True),  # bcrypt looks at 72 bytes, and htpasswd has hashed no more
        ("long", "x" * 71, False),
        ("alice", "\xff" * 5000, False),
    ],
)
def test_right_and_wrong(user: str, password: str, right: bool) -> None:
    """A user comes in with the password that was hashed, and with no other; and twice alike."""

    async def conversation(found: Passwords) -> list[bool]:
        return [await found.right(user.encode(), password.encode(), b"") for _ in range(2)]

    assert run(conversation) == [right, right]


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_all_that_htpasswd_writes(prefix: str) -> None:
    """The three names of the same hash are good."""

    async def conversation(found: Passwords) -> bool:
        return await found.right(b"alice", b"wonderland", b"")

    assert run(conversation, (("alice", prefix + ALICE[4:]),))


def test_without_users() -> None:
    """Nobody is wanted to give a password, and bcrypt is not needed."""
    found = Passwords()
    found.use(())
    assert not found.wanted


def test_a_right_password_is_checked_once(checks: Checks) -> None:
    """What was right is known, also with new users about; a wrong one is checked each time."""

    async def conversation(found: Passwords) -> list[int]:
        made = []
        for password in (b"wonderland", b"wonderland", b"wrong", b"wrong"):
            await found.right(b"alice", password, b"")
            made.append(len(checks.made))
        found.use((("alice", ALICE), ("carol", BOB)))
        assert await found.right(b"alice", b"wonderland", b"")
        return [*made, len(checks.made)]

    assert run(conversation) == [1, 1, 2, 3, 3]


def test_those_that_ask_at_once_share_a_check(checks: Checks) -> None:
    """Two scrapers that come together with the same password cost one check."""

    async def conversation(found: Passwords) -> list[bool]:
        return await asyncio.gather(*(found.right(b"alice", b"wonderland", b"") for _ in range(5)))

    assert run(conversation) == [True] * 5
    assert len(checks.made) == 1


@pytest.mark.parametrize("after", [(), (("bob", ALICE),), (("alice", BOB),)])
def test_who_is_taken_out_is_out(after: tuple[tuple[str, str], ...]) -> None:
    """A user that was removed, or has another password now, is refused from the next request on, known or not."""

    async def conversation(found: Passwords) -> bool:
        assert await found.right(b"alice", b"wonderland", b"")
        found.use((*after, ("dave", BOB)))
        return await found.right(b"alice", b"wonderland", b"")

    assert not run(conversation)


def test_who_is_taken_out_while_the_check_goes_on(checks: Checks) -> None:
    """The users at the end of a check decide, not those at its beginning."""

    async def conversation(found: Passwords) -> bool:
        checks.go_on.clear()
        asked = asyncio.create_task(found.right(b"alice", b"wonderland", b""))
        while not checks.made:
            await asyncio.sleep(0)
        found.use((("bob", BOB),))
        checks.go_on.set()
        return await asked

    assert not run(conversation)


def test_an_unknown_user_costs_what_a_wrong_password_costs(checks: Checks) -> None:
    """For a name that is none's one hash is computed, of a real user's cost: always the same one's for that name."""

    async def conversation(found: Passwords) -> None:
        for name in (b"alice", b"mallory", b"mallory", b"trent"):
            assert not await found.right(name, b"wrong", b"")

    run(conversation)
    real = [hash_.encode() for _, hash_ in USERS]
    assert [password for password, _ in checks.made] == [b"wrong"] * 4
    assert all(hash_ in real for _, hash_ in checks.made)
    assert checks.made[0][1] == ALICE.encode()
    assert checks.made[1][1] == checks.made[2][1]


def test_unknown_names_meet_all_costs(checks: Checks) -> None:
    """Where hashes have several costs, unknown names have all of them: a cost does not tell that a name is known."""

    async def conversation(found: Passwords) -> None:
        for number in range(60):
            await found.right(b"nobody%d" % number, b"", b"")

    run(conversation, (("alice", ALICE), ("bob", BOB)))
    assert {hash_ for _, hash_ in checks.made} == {ALICE.encode(), BOB.encode()}


def test_the_loop_goes_on_during_a_check(checks: Checks) -> None:
    """A check is made elsewhere: whoever else is there is answered meanwhile."""

    async def conversation(found: Passwords) -> bool:
        checks.go_on.clear()
        asked = asyncio.create_task(found.right(b"alice", b"wonderland", b""))
        while not checks.made:
            await asyncio.sleep(0)
        checks.go_on.set()  # by the loop, which could not if it waited
        return await asked

    assert run(conversation)


def test_clients_take_turns(checks: Checks) -> None:
    """Who comes behind fifty attempts of another client waits for one or two of them, not for fifty."""

    async def conversation(found: Passwords) -> int:
        checks.go_on.clear()
        flood = [asyncio.create_task(found.right(b"alice", b"%d" % number, b"bad")) for number in range(50)]
        while not checks.made:
            await asyncio.sleep(0)
        asked = asyncio.create_task(found.right(b"alice", b"wonderland", b"good"))
        await asyncio.sleep(0)
        checks.go_on.set()
        assert await asked
        before = len(checks.made)
        for one in flood:
            one.cancel()
        return before

    assert run(conversation) <= 4


def test_a_known_password_waits_for_nobody(checks: Checks) -> None:
    """During a flood of attempts, from the same address even, a scraper that was here before is let in at once."""

    async def conversation(found: Passwords) -> bool:
        assert await found.right(b"alice", b"wonderland", b"same")
        checks.go_on.clear()
        flood = [asyncio.create_task(found.right(b"alice", b"%d" % number, b"same")) for number in range(50)]
        while len(checks.made) < 2:
            await asyncio.sleep(0)
        right = await found.right(b"alice", b"wonderland", b"same")  # the check of the flood still goes on
        for one in flood:
            one.cancel()
        return right

    assert run(conversation)


def test_who_is_gone_costs_nothing(checks: Checks) -> None:
    """Attempts whose connection has ended before their turn are not made."""

    async def conversation(found: Passwords) -> bool:
        checks.go_on.clear()
        flood = [asyncio.create_task(found.right(b"alice", b"%d" % number, b"bad")) for number in range(50)]
        while not checks.made:
            await asyncio.sleep(0)
        for one in flood:
            one.cancel()
        await asyncio.sleep(0)
        checks.go_on.set()
        return await found.right(b"alice", b"wonderland", b"bad")

    assert run(conversation)
    assert len(checks.made) == 2


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever new right passwords, which bcrypt's 72 bytes allow, do not fill the memory; the last one used is kept."""
    monkeypatch.setattr(passwords, "MAX_KNOWN", 3)

    async def conversation(found: Passwords) -> int:
        for number in range(10):
            assert await found.right(b"long", b"x" * 72 + b"%d" % number, b"")
        return len(found._known)

    assert run(conversation) == 3


def test_a_fault_of_bcrypts_reaches_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bcrypt can't do is an error of that request; the next one is checked."""

    def broken(password: bytes, hash_: bytes) -> bool:
        if password == b"bad":
            raise ValueError("Invalid salt")
        return real(password, hash_)

    real = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", broken)

    async def conversation(found: Passwords) -> bool:
        with pytest.raises(ValueError, match="Invalid salt"):
            await found.right(b"alice", b"bad", b"")
        return await found.right(b"alice", b"wonderland", b"")

    assert run(conversation)


def test_the_same_work_for_all() -> None:
    """By the processor's clock: the work for an unknown user is that for a wrong password."""
    spent: list[float] = []

    def timed(password: bytes, hash_: bytes) -> bool:
        began = time.thread_time()
        try:
            return real(password, hash_)
        finally:
            spent.append(time.thread_time() - began)

    real = bcrypt.checkpw

    async def conversation(found: Passwords) -> None:
        for name in [b"alice", b"mallory"] * 5:
            await found.right(name, b"wrong", b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bcrypt, "checkpw", timed)
        run(conversation, (("alice", hashed("wonderland", 8)),))
    assert 0.5 < min(spent[::2]) / min(spent[1::2]) < 2
