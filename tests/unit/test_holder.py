# SPDX-License-Identifier: Apache-2.0
"""holder.py: descriptors that are kept in threads, closed here, and let go when they are to be."""

import os
import select

import pytest

from exporter import holder
from exporter.holder import Hold


def pipes(count: int) -> tuple[list[int], list[int]]:
    """Returns the reading ends of new pipes, and the writing ends."""
    made = [os.pipe() for _ in range(count)]
    return [reading for reading, _ in made], [writing for _, writing in made]


def ended(reading: int) -> bool:
    """Whether nobody has the other end open any more."""
    return bool(select.select([reading], [], [], 0)[0]) and os.read(reading, 1) == b""


@pytest.mark.parametrize("share", [1, 2, 5])
def test_descriptors_are_held_until_they_are_released(share: int) -> None:
    """What is held is closed in this thread's table and open all the same, until it is released."""
    reading, writing = pipes(5)
    one = Hold(writing, share)
    for fd in writing:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    kept, others = pipes(1)
    other = Hold(others)
    assert not any(map(ended, reading))
    one.release()
    one.wait()
    assert all(map(ended, reading))
    assert not ended(kept[0])
    other.release()
    other.wait()
    assert ended(kept[0])
    for fd in reading + kept:
        os.close(fd)


def test_nothing_is_held_by_nothing() -> None:
    """A probe may have no attachment."""
    none = Hold([], 0)
    none.release()
    none.wait()


def test_where_threads_share_their_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel allows no table of their own, descriptors are kept here, and released here."""
    monkeypatch.setattr(holder._libc, "unshare", lambda _: -1)
    reading, writing = pipes(3)
    one = Hold(writing)
    assert not any(map(ended, reading))
    one.release()
    one.wait()
    assert all(map(ended, reading))
    for fd in reading:
        os.close(fd)
