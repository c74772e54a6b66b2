# SPDX-License-Identifier: Apache-2.0
"""supervisor/listening.py: addresses that are opened, kept and closed."""

import socket
from collections.abc import Iterator

import pytest

from exporter.errors import StartError
from exporter.supervisor.listening import Listening


@pytest.fixture
def listening() -> Iterator[Listening]:
    one = Listening()
    yield one
    for left in one.sockets:
        left.close()


def port() -> int:
    """A free one, of all addresses."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def names(listening: Listening) -> set[object]:
    return {one.getsockname()[:2] for one in listening.sockets}


def close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def test_addresses_change(listening: Listening) -> None:
    """What stays is the very same socket, under whichever name it is asked for; what goes is handed back open."""
    one, other, third = port(), port(), port()
    assert listening.change((("127.0.0.1", one), ("127.0.0.1", other))) == []
    before = {here.getsockname(): here for here in listening.sockets}
    gone = listening.change((("127.0.0.1", third), ("127.0.0.1", one)))
    assert gone == [before["127.0.0.1", other]]
    assert before["127.0.0.1", one] in listening.sockets
    assert names(listening) == {("127.0.0.1", one), ("127.0.0.1", third)}
    socket.create_connection(("127.0.0.1", other)).close()
    close(gone)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", other))


def test_localhost_is_its_addresses(listening: Listening) -> None:
    """From a name to the addresses that it stands for is no change."""
    one = port()
    listening.change((("localhost", one),))
    before = listening.sockets
    assert listening.change(tuple((here.getsockname()[0], one) for here in before)) == []
    assert listening.sockets == before


@pytest.mark.parametrize(("before", "after"), [("127.0.0.1", ""), ("", "127.0.0.1"), ("localhost", "")])
def test_from_loopback_to_all_addresses_and_back(listening: Listening, before: str, after: str) -> None:
    """A port is never without a listener while its address is made wider or narrower."""
    one = port()
    listening.change(((before, one),))
    gone = listening.change(((after, one),))
    assert gone
    waiting = [socket.create_connection(("127.0.0.1", one))]
    close(gone)
    waiting.append(socket.create_connection(("127.0.0.1", one)))
    close(waiting)


def test_a_port_that_is_anothers(listening: Listening) -> None:
    """Nothing is changed, and nothing is shared with who has it, also where the port is ours on another address."""
    one, other = port(), port()
    listening.change((("127.0.0.1", one),))
    before = listening.sockets
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.2", one))
        theirs.listen()
        for wanted in ((("127.0.0.1", other), ("127.0.0.2", one)), (("127.0.0.1", other), ("", one))):
            with pytest.raises(StartError, match=r"cannot listen on .*: Address already in use; is another exporter"):
                listening.change(wanted)
            assert listening.sockets == before
        with socket.socket() as free:
            free.bind(("127.0.0.1", other))
    with socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="Address already in use"):
            theirs.bind(("127.0.0.1", one))


def test_a_name_that_is_none(listening: Listening) -> None:
    """It is told, and nothing is opened."""
    with pytest.raises(StartError, match=r"cannot listen on no\.such\.host\.invalid:1: .* no address or name"):
        listening.change((("127.0.0.1", port()), ("no.such.host.invalid", 1)))
    assert listening.sockets == []
