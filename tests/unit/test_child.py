# SPDX-License-Identifier: Apache-2.0
"""child.py: what a function returns, raises, writes or dies of, seen from the process that started it."""

import errno
import fcntl
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.child import Child, Crashed, close_all_but, die_with, isolated, set_name
from exporter.errors import CompileError


def add(one: int, two: int) -> int:
    return one + two


def test_isolated_returns_what_the_function_returns() -> None:
    """The result is the function's, from a process that is not ours."""
    assert isolated(add, 2, 3) == 5
    assert isolated(os.getppid) == os.getpid()


def pipe_with_words(words: bytes) -> tuple[str, list[int]]:
    reader, writer = os.pipe()
    os.write(writer, words)
    return "a pipe", [reader]


def test_descriptors_come_back_and_work() -> None:
    """A descriptor that the child opened is usable here after the child's end."""
    result, [fd], words = Child(pipe_with_words, b"hello").result()
    assert (result, os.read(fd, 100), words) == ("a pipe", b"hello", "")
    os.close(fd)


def many_files(count: int) -> tuple[None, list[int]]:
    return None, [os.memfd_create("one") for _ in range(count)]


def test_hundreds_of_descriptors() -> None:
    """There may be more of them than one message of the kernel takes."""
    _, fds, _ = Child(many_files, 300).result()
    assert len(set(fds)) == 300
    for fd in fds:
        os.close(fd)


def write_and_return() -> tuple[int, list[int]]:
    os.write(2, b"warning: \xff\n")
    return 1, []


def test_words_on_descriptor_2_are_kept() -> None:
    """What was written to descriptor 2 comes with the result, bytes that are no text shown as such."""
    _, _, words = Child(write_and_return).result()
    assert words == "warning: \\xff"


def write_and_raise() -> None:
    os.write(2, b"x.c:3: error: no\n")
    raise CompileError("cannot compile", "details")


def write_and_segfault() -> None:
    os.write(2, b"x.c:3: error: no\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def write_and_exit() -> None:
    os.write(2, b"x.c:3: error: no\n")
    os._exit(3)


def write_and_divide() -> float:
    os.write(2, b"x.c:3: error: no\n")
    return 1 / 0


def return_a_lambda() -> Any:
    return lambda: None


def quit_by_exception() -> None:
    sys.exit(3)


@pytest.mark.parametrize(
    ("function", "kind", "text"),
    [
        (write_and_raise, CompileError, "cannot compile"),
        (write_and_segfault, Crashed, "the process was ended by SIGSEGV"),
        (write_and_exit, Crashed, "the process ended with code 3"),
        (write_and_divide, Crashed, "ZeroDivisionError: division by zero"),
    ],
)
def test_an_end_without_a_result(function: Callable[[], Any], kind: type[Exception], text: str) -> None:
    """An error, a signal, an exit and a fault of our own are told apart; the words of descriptor 2 go with each."""
    with pytest.raises(kind) as caught:
        isolated(function)
    assert str(caught.value) == text
    assert caught.value.__notes__[0].splitlines()[0] == "x.c:3: error: no"


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    """An exception that is no ExporterError is told with where it happened."""
    with pytest.raises(Crashed) as caught:
        isolated(write_and_divide)
    assert "in write_and_divide" in caught.value.__notes__[0]


@pytest.mark.parametrize("function", [return_a_lambda, quit_by_exception])
def test_what_cannot_be_sent_is_a_crash(function: Callable[[], Any]) -> None:
    """A result that can't be pickled, or none at all, raises Crashed and hangs nothing."""
    with pytest.raises(Crashed):
        isolated(function)


def wait_forever(path: Path) -> tuple[None, list[int]]:
    path.touch()
    signal.pause()
    return None, []


def test_a_killed_child(tmp_path: Path) -> None:
    """A child that hangs can be ended; its result then says so."""
    child = Child(wait_forever, tmp_path / "started")
    child.kill()
    with pytest.raises(Crashed, match="ended by SIGKILL"):
        child.result()


def test_readable_when_it_has_its_result() -> None:
    """A selector wakes up for a child's result, and for its crash."""
    good = Child(many_files, 0)
    assert select.select([good], [], [], 60)[0] == [good]
    good.result()
    bad: Child[None] = Child(os.abort)
    assert select.select([bad], [], [], 60)[0] == [bad]
    with pytest.raises(Crashed, match="ended by SIGABRT"):
        bad.result()


@pytest.mark.parametrize("call", ["fork", "memfd_create"])
def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """It is a child that is readable at once, and says why there is none; to end it ends nobody else."""

    def refused(*_: object) -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, call, refused)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("somebody was killed"))
    before = open_files()
    child = Child(many_files, 0)
    assert select.select([child], [], [], 60)[0] == [child]
    child.kill()
    with pytest.raises(Crashed, match=r"^cannot start a process: Resource temporarily unavailable$"):
        child.result()
    Child(many_files, 0).abandon()
    assert open_files() == before


def open_files() -> list[int]:
    return sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir())


def test_a_child_has_none_of_our_descriptors() -> None:
    """What we hold open, a probe's attachment say, is not held by a child."""
    ours = [fcntl.fcntl(0, fcntl.F_DUPFD, 500) for _ in range(3)]
    theirs = isolated(open_files)
    for fd in ours:
        os.close(fd)
    assert [fd for fd in theirs if fd >= 500] == []
    assert len(theirs) <= 5  # 0, 1, 2, the channel, and the listing's own


def test_close_all_but() -> None:
    """All is closed but what is to be kept and the first three."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        fds = [fcntl.fcntl(writer, fcntl.F_DUPFD, 300) for _ in range(4)]
        close_all_but({fds[1], writer})
        os.write(writer, b"%d" % sum(Path(f"/proc/self/fd/{fd}").exists() for fd in [0, 1, 2, writer, *fds]))
        os._exit(0)
    os.close(writer)
    assert os.read(reader, 9) == b"5"
    os.close(reader)
    os.waitpid(pid, 0)


def signals() -> list[bool]:
    return [signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, signal.getsignal(signal.SIGINT) == signal.SIG_IGN]


def test_signals() -> None:
    """A child ends by SIGTERM, whatever we do about it, and not by the Ctrl-C that reaches all processes."""
    assert isolated(signals) == [True, True]


def named() -> str:
    set_name("a-name-of-more-than-15")
    return Path("/proc/self/comm").read_text().strip()


def test_name() -> None:
    """A name is cut to what the kernel keeps of it."""
    assert isolated(named) == "a-name-of-more-"


def test_a_child_ends_with_its_parent() -> None:
    """A child whose parent is killed is killed by the kernel."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            os.close(reader)
            die_with(os.getppid())
            os.write(writer, b"%d" % os.getpid())
            signal.pause()
            os._exit(0)
        signal.pause()
        os._exit(0)
    os.close(writer)
    assert int(os.read(reader, 20)) > parent
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(reader, 1) == b""  # the end of the pipe: nobody holds its other side any more
    os.close(reader)


def test_a_parent_that_is_already_gone() -> None:
    """A child that finds itself adopted ends at once."""
    pid = os.fork()
    if pid == 0:
        die_with(parent=1 if os.getppid() != 1 else 2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
