# SPDX-License-Identifier: Apache-2.0
"""sandbox.py: what a process under the worker's filter may no longer do, tried with all rights that the test has."""

import ctypes
import errno
import fcntl
import mmap
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import seccomp

from exporter import libbpf, sandbox
from exporter.child import isolated
from exporter.errors import StartError
from exporter.web import tls
from exporter.web.settings import TLS
from tests.certificates import Authority

_PR_SET_NO_NEW_PRIVS = 38
_PTRACE_SEIZE = 0x4206
RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")  # BPF: r0 = 0; exit
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Place:
    """What is there to be written, looked into and connected to."""

    folder: Path
    file: Path
    process: int
    address: tuple[str, int]
    receiver: bytes  # of datagrams, on this host
    listened: socket.socket  # TCP, shut down: it can connect
    terminal: int


@pytest.fixture(scope="module")
def filter_() -> bytes:
    return bytes(isolated(sandbox.program))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "file").write_text("text")
    master, slave = pty.openpty()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as listened,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        subprocess.Popen(["sleep", "600"]) as process,
    ):
        receiver.bind("")  # the kernel chooses a name
        listened.shutdown(socket.SHUT_RDWR)
        yield Place(
            tmp_path, tmp_path / "file", process.pid, server.getsockname(), receiver.getsockname(), listened, slave
        )
        process.kill()
    os.close(master)
    os.close(slave)


def attempt(action: Callable[[], object], filter_: bytes | None) -> int:
    """Returns the errno of an action in a process of its own, under a filter or none; 0 where it succeeds."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            if filter_ is not None:
                _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                sandbox.enter(filter_)
            action()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def call(name: str, *arguments: object) -> int:
    """Makes a system call by its number. Raises OSError."""
    number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def protect(memory: mmap.mmap) -> None:
    if _libc.mprotect(ctypes.byref(ctypes.c_char.from_buffer(memory)), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "mprotect")


def hand_over(to: bytes, fd: int) -> None:
    """Gives a descriptor to another process, by a socket that a worker may make."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.sendmsg([b"x"], rights, 0, to)


WRITES: dict[str, Callable[[Place], object]] = {
    "write": lambda place: place.file.open("r+").close(),
    "append": lambda place: place.file.open("a").close(),
    "make": lambda place: (place.folder / "new").touch(),
    "make, read-only": lambda place: os.open(place.folder / "new", os.O_RDONLY | os.O_CREAT),
    "empty, read-only": lambda place: os.open(place.file, os.O_RDONLY | os.O_TRUNC),
    "make without a name": lambda place: os.open(place.folder, os.O_TMPFILE | os.O_WRONLY),
    "truncate": lambda place: os.truncate(place.file, 0),
    "rename": lambda place: place.file.rename(place.folder / "new"),
    "link": lambda place: os.link(place.file, place.folder / "new"),
    "symlink": lambda place: (place.folder / "new").symlink_to("file"),
    "unlink": lambda place: place.file.unlink(),
    "mkdir": lambda place: (place.folder / "new").mkdir(),
    "mkfifo": lambda place: os.mkfifo(place.folder / "new"),
    "chmod": lambda place: place.file.chmod(0o777),
    "chown": lambda place: os.chown(place.file, os.geteuid(), os.getegid()),
    "utime": lambda place: os.utime(place.file),
    "bind": lambda place: socket.socket(socket.AF_UNIX).bind(str(place.folder / "new")),
}

PROCESSES: dict[str, Callable[[Place], object]] = {
    "exec": lambda _: os.execv("/bin/true", ["true"]),
    "fork": lambda _: os.fork() or os._exit(0),
    "ptrace": lambda place: call("ptrace", _PTRACE_SEIZE, place.process, None, None),
    "pidfd_open": lambda place: os.pidfd_open(place.process),
    "kill": lambda place: os.kill(place.process, signal.SIGCONT),
    "setpriority": lambda place: os.setpriority(os.PRIO_PROCESS, place.process, 1),
}

OTHERS: dict[str, Callable[[Place], object]] = {
    "connect": lambda place: socket.create_connection(place.address),
    "datagram": lambda place: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", place.address),
    "connect while sending": lambda place: place.listened.sendmsg([b"x"], [], socket.MSG_FASTOPEN, place.address),
    "connect while sending, by sendto": lambda place: place.listened.sendto(b"x", socket.MSG_FASTOPEN, place.address),
    "a descriptor": lambda place: hand_over(place.receiver, place.listened.fileno()),
    "netlink": lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "file in memory": lambda _: os.memfd_create("x"),
    "memory to write and execute": lambda _: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "execute what was written": lambda _: protect(mmap.mmap(-1, mmap.PAGESIZE)),
    "a terminal": lambda place: fcntl.ioctl(place.terminal, termios.TIOCSWINSZ, bytes(8)),
    "namespace": lambda _: call("unshare", 0x400),
}

BPF: dict[str, Callable[[Place], object]] = {
    "map": lambda _: libbpf.map_create(libbpf.MAP_TYPE_ARRAY, "x", 4, 4, 1),
    "program": lambda _: libbpf.prog_load(libbpf.PROG_TYPE_XDP, "x", RETURN_0),
    "statistics": lambda _: libbpf.enable_statistics(),
}

# what is refused without a trial outside: it would need a kernel with it, or do harm
ABSENT = """
    add_key capset clone3 execveat finit_module fsopen init_module io_uring_setup kexec_load keyctl mount move_mount
    name_to_handle_at open_by_handle_at open_tree openat2 perf_event_open personality pidfd_getfd pidfd_send_signal
    pivot_root prlimit64 process_vm_readv process_vm_writev reboot request_key rt_sigqueueinfo seccomp setgid setns
    setresgid setresuid setuid swapon tgkill tkill umount2 userfaultfd vfork
""".split()


@pytest.mark.parametrize("name", [*WRITES, *PROCESSES, *OTHERS, *BPF])
def test_what_is_possible_outside_is_not_inside(name: str, filter_: bytes, place: Place) -> None:
    """Each attempt succeeds without the filter and fails with it; root's capabilities do not help."""
    if name in BPF and os.geteuid():
        pytest.skip("needs root to be possible at all")
    action = {**WRITES, **PROCESSES, **OTHERS, **BPF}[name]
    assert attempt(lambda: action(place), filter_) == errno.ENOSYS
    assert place.file.read_text() == "text"
    assert [path.name for path in place.folder.iterdir()] == ["file"]
    assert attempt(lambda: action(place), None) == 0


@pytest.mark.parametrize("name", [name for name in ABSENT if seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) >= 0])
def test_calls_that_a_worker_has_no_use_for_are_not_there(name: str, filter_: bytes) -> None:
    """Tried with arguments that would be a fault."""
    assert attempt(lambda: call(name, -1, -1, -1, -1, -1, -1), filter_) == errno.ENOSYS


def test_what_a_worker_does_is_possible(filter_: bytes, place: Place) -> None:
    """Files and folders are read, threads run, interfaces have names."""

    def work() -> None:
        names: list[str] = []
        thread = threading.Thread(target=lambda: names.extend(entry.name for entry in os.scandir(place.folder)))
        thread.start()
        thread.join()
        assert names == ["file"]
        assert place.file.read_text() == "text"
        assert socket.if_indextoname(1) == "lo"
        one, other = socket.socketpair()
        one.sendall(b"x")
        assert other.recv(1) == b"x"

    assert attempt(work, filter_) == 0


def test_a_worker_can_speak_tls(filter_: bytes, place: Place) -> None:
    """OpenSSL is given a certificate and a key, one of the largest size that is taken, without a file being made."""
    pair = Authority(place.folder).issue("server")
    certificate = pair.certificate.read_bytes().ljust(1 << 20, b"\n")
    settings = TLS(certificate, pair.key.read_bytes())
    assert attempt(lambda: tls.context(settings), filter_) == 0


def test_a_filter_that_the_kernel_refuses_is_told() -> None:
    """Never passed over: the process does not go on without."""
    with pytest.raises(StartError, match=r"^cannot enter the sandbox: Invalid argument$"):
        sandbox.enter(b"")


def test_a_missing_library_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, with what to install."""
    monkeypatch.setitem(sys.modules, "seccomp", None)
    with pytest.raises(StartError, match=r"cannot import seccomp: .*; install the package python3-seccomp"):
        sandbox.program()
