# SPDX-License-Identifier: Apache-2.0
"""channel.py: objects and descriptors arrive whole and in order."""

import os
from collections.abc import Iterator

import pytest

from exporter.channel import Channel
from exporter.child import Child


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, two = Channel.pair()
    yield one, two
    one.close()
    two.close()


Ends = tuple[Channel, Channel]


@pytest.mark.parametrize("message", [None, 0, "text", b"\0" * 1000, {"a": [1, (2, 3)]}])
def test_an_object_arrives(ends: Ends, message: object) -> None:
    """What is sent is received, without descriptors."""
    ends[0].send(message)
    assert ends[1].receive() == (message, [])


def test_messages_keep_their_order_and_their_descriptors(ends: Ends) -> None:
    """Messages that wait together are received one by one, each with its own descriptors."""
    files = [os.memfd_create(f"file{number}") for number in range(3)]
    for number, fd in enumerate(files):
        os.write(fd, b"%d" % number)
    ends[0].send("none")
    ends[0].send("two", files[:2])
    ends[0].send("one", files[2:])
    received = [ends[1].receive() for _ in range(3)]
    found = [(message, [os.pread(fd, 9, 0) for fd in fds]) for message, fds in received]
    assert found == [("none", []), ("two", [b"0", b"1"]), ("one", [b"2"])]
    for fd in [*files, *(fd for _, fds in received for fd in fds)]:
        os.close(fd)


def test_received_descriptors_are_close_on_exec(ends: Ends) -> None:
    """A program that is started later does not inherit them."""
    reader, writer = os.pipe()
    ends[0].send("ends", [reader, writer])
    _, fds = ends[1].receive()
    assert [os.get_inheritable(fd) for fd in fds] == [False, False]
    for fd in [reader, writer, *fds]:
        os.close(fd)


@pytest.mark.parametrize("count", [250, 251, 600])
def test_more_descriptors_than_one_message_of_the_kernel_takes(ends: Ends, count: int) -> None:
    """Hundreds of descriptors arrive, in order."""
    files = [os.memfd_create("one") for _ in range(3)]
    for number, fd in enumerate(files):
        os.write(fd, b"%d" % number)
    ends[0].send("many", [files[index % 3] for index in range(count)])
    message, fds = ends[1].receive()
    content = [os.pread(fd, 1, 0) for fd in fds]
    for fd in [*files, *fds]:
        os.close(fd)
    assert (message, content) == ("many", [b"%d" % (index % 3) for index in range(count)])


def test_the_other_end_is_gone(ends: Ends) -> None:
    """Who receives gets what was sent before the end, then EOFError; who sends gets BrokenPipeError."""
    ends[0].send("last")
    ends[0].close()
    assert ends[1].receive() == ("last", [])
    with pytest.raises(EOFError):
        ends[1].receive()
    with pytest.raises(BrokenPipeError):
        ends[1].send("too late")


def test_an_end_within_a_message(ends: Ends) -> None:
    """Half a message is an end, not a message."""
    ends[0].socket.sendall(b"\x10\x00\x00")
    ends[0].close()
    with pytest.raises(EOFError):
        ends[1].receive()


def large() -> tuple[bytes, list[int]]:
    return b"0123456789abcdef" * (5 * 1024 * 1024 // 16), []


def test_an_object_of_megabytes() -> None:
    """An object larger than any socket buffer arrives whole."""
    assert Child(large).result()[0] == large()[0]
