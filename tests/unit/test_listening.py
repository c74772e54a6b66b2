# SPDX-License-Identifier: Apache-2.0
"""supervisor/listening.py: addresses that are opened, kept and closed, and sockets that systemd passes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def test_places(listening: Listening) -> None:
    """Where it listens is told as it is asked for, each place once."""
    wanted = (("localhost", 1), ("::1", 2), ("", 3), ("", 3))
    assert listening.places(wanted) == ["localhost:1", "[::1]:2", "localhost:3"]


# -- systemd's

ROOT = Path(__file__).resolve().parents[2]

# what a process finds that systemd has started: prints where it listens, and what is left for its own children
STARTED = """
import os, sys
from exporter.errors import StartError
from exporter.supervisor.listening import Listening
os.environ["LISTEN_PID"] = str(os.getpid() + int(os.environ.pop("OTHER")))
try:
    found = Listening()
    found.take_passed()
    wanted = (("127.0.0.1", int(sys.argv[1])),)
    assert found.change(wanted) == []
except StartError as error:
    sys.exit(str(error))
print(*found.places(wanted), found.names, len(found._open))
print([name for name in os.environ if name.startswith("LISTEN")], [one.get_inheritable() for one in found.sockets])
"""


def start(fds: list[int], names: str, other: int = 0, port: int = 1) -> tuple[str, str]:
    """Starts a process as systemd does, with descriptors from 3 on. Returns its words."""

    def pass_fds() -> None:
        copies = [os.dup(fd) for fd in fds]
        for number, fd in enumerate(copies):
            os.dup2(fd, 3 + number)

    done = subprocess.run(
        [sys.executable, "-c", STARTED, str(port)],
        env={"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names, "OTHER": str(other), "PYTHONPATH": str(ROOT)},
        preexec_fn=pass_fds,
        close_fds=False,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout, done.stderr.strip()


def test_sockets_that_systemd_passes(tmp_path: Path) -> None:
    """They take the place of the config's; each is told with its name; nothing of them reaches other programs."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.socket(socket.AF_UNIX) as two:
        two.bind(str(tmp_path / "socket"))
        two.listen()
        port = one.getsockname()[1]
        out, err = start([one.fileno(), two.fileno()], "metrics:local")
    assert err == ""
    assert out.splitlines() == [
        f"127.0.0.1:{port} {tmp_path}/socket ['metrics', 'local'] 0",
        "[] [False, False]",
    ]


def test_a_socket_without_a_name() -> None:
    """An older systemd passes no names."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        out, _ = start([one.fileno()], "")
        assert out.splitlines()[0] == f"127.0.0.1:{one.getsockname()[1]} ['unknown'] 0"


@pytest.mark.parametrize("kind", ["file", "datagram", "connected"])
def test_what_is_no_listening_socket(kind: str, tmp_path: Path) -> None:
    """What can't be listened on, an Accept=yes socket for one, is an error that names it."""
    one, two = socket.socketpair()
    with (
        one as connected,
        two,
        (tmp_path / "file").open("w") as file,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        fd = {"file": file.fileno(), "datagram": datagram.fileno(), "connected": connected.fileno()}[kind]
        assert start([fd], "wrong") == ("", "systemd has passed 'wrong', which is no socket that listens for streams")


def test_sockets_for_another_process() -> None:
    """What was passed to who started us is not taken for ours."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        out, err = start([one.fileno()], "metrics", other=1, port=port)
    assert (out.splitlines(), err) == ([f"127.0.0.1:{port} [] 1", "[] [False]"], "")
