# SPDX-License-Identifier: Apache-2.0
"""Passwords against their bcrypt hashes.

A check takes tens of milliseconds of a processor, on purpose: checks are made one after the other, in a thread
beside the loop, and clients take turns, so that nobody who tries many waits longer for anybody but for himself.
What was right once is known from then on, by a hash with a key that only this process has.
"""

import asyncio
import hashlib
import secrets
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

MAX_KNOWN = 128  # passwords that were right
_MOST_BYTES = 72  # of a password, that bcrypt looks at


@dataclass(frozen=True)
class _Question:
    """A check that waits. known is what it is remembered by, if it is right."""

    answer: "asyncio.Future[bool]"
    user: bytes
    hashed: bytes
    password: bytes
    known: bytes


class Passwords:
    """Who may come in."""

    def __init__(self) -> None:
        self._hashes: dict[bytes, bytes] = {}
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, None] = {}  # the last one used is the last
        self._waiting: dict[bytes, deque[_Question]] = {}  # by client; the first is the next
        self._checking: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "bcrypt")  # starts with the first check

    def use(self, users: Iterable[tuple[str, str]]) -> None:
        """These are the users from now on, by name and hash; with none, everybody comes in."""
        hashes = {name.encode(): hashed.encode() for name, hashed in users}
        if hashes:
            import bcrypt  # a megabyte, only where it is wanted

            self._checkpw = bcrypt.checkpw
        self._hashes = hashes

    @property
    def wanted(self) -> bool:
        return bool(self._hashes)

    async def right(self, user: bytes, password: bytes, client: bytes) -> bool:
        """Whether this is the password of a user. For a user who is none, the hash of another is computed in vain."""
        hashed = self._hashes.get(user) or self._anothers(user)
        known = self._digest(hashed + user + b":" + password)
        if user in self._hashes and known in self._known:
            self._remember(known)
            return True
        question = _Question(asyncio.get_running_loop().create_future(), user, hashed, password, known)
        self._waiting.setdefault(client, deque()).append(question)
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check_all())
        return await question.answer

    async def _check_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            client, questions = next(iter(self._waiting.items()))
            del self._waiting[client]
            question = questions.popleft()
            if questions:
                self._waiting[client] = questions  # behind the others
            if question.answer.done():  # its connection has ended
                continue
            try:
                right = question.known in self._known or await loop.run_in_executor(
                    self._thread, self._compare, question
                )
            except Exception as error:  # noqa: BLE001 - it is whose question it is that is told
                if not question.answer.done():
                    question.answer.set_exception(error)
                continue
            right = right and self._hashes.get(question.user) == question.hashed  # users may be others by now
            if right:
                self._remember(question.known)
            if not question.answer.done():
                question.answer.set_result(right)

    def _compare(self, question: _Question) -> bool:
        # to bcrypt a NUL is an error; a password with one is no user's
        password = question.password.replace(b"\0", b"?")[:_MOST_BYTES]
        return self._checkpw(password, question.hashed) and b"\0" not in question.password

    def _anothers(self, user: bytes) -> bytes:
        """For a name always the same one's, so that its time says nothing, whatever the hashes cost."""
        hashes = list(self._hashes.values())
        return hashes[int.from_bytes(self._digest(user)[:8]) % len(hashes)]

    def _digest(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._secret, digest_size=32).digest()

    def _remember(self, known: bytes) -> None:
        self._known.pop(known, None)
        self._known[known] = None
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
