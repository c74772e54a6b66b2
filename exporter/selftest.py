# SPDX-License-Identifier: Apache-2.0
"""Runs the command that a probe's YAML gives as its selftest: what its counters are sure to see.

No shell reads it: its words are those of execve(2). It runs as who asked (root), with nothing of the caller's but that.
"""

import contextlib
import fcntl
import functools
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator

from exporter import child
from exporter.probe import Selftest

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/",
    "TERM": "dumb",
    "HISTFILE": "/dev/null",  # what is typed to a shell is not to be in root's history
}


def run(selftest: Selftest, seconds: float) -> str:
    """Runs a selftest to its end, or for so many seconds at the most. Returns what went wrong; "" if nothing did."""
    name = selftest.command[0]
    try:
        code, words = (_plain if selftest.terminal is None else _on_terminal)(selftest, seconds)
    except OSError as error:
        return f"cannot run {name}: {error.strerror}"
    if code is None:
        return f"{name} had not ended after {seconds:g} s"
    if not code:
        return ""
    ending = f"code {code}" if code > 0 else signal.Signals(-code).name
    said = words.decode("utf-8", "backslashreplace").strip().splitlines()
    return f"{name} ended with {ending}" + (f": {said[-1]}" if said else "")


def _plain(selftest: Selftest, seconds: float) -> tuple[int | None, bytes]:
    """Returns the exit code, None after the limit of time, and what was written to descriptor 2."""
    # not a pipe: what the command leaves behind may hold it open
    with os.fdopen(os.memfd_create("words"), "r+b") as words:
        deadline = time.monotonic() + seconds
        process = _start(selftest, subprocess.DEVNULL, subprocess.DEVNULL, words.fileno())
        with _ending(process):
            ended = _ends(process, deadline)
        words.seek(0)
        return process.returncode if ended else None, words.read(4096)


def _on_terminal(selftest: Selftest, seconds: float) -> tuple[int | None, bytes]:
    """The same for a command on a terminal of its own, to which its text is typed."""
    deadline = time.monotonic() + seconds
    ours, theirs = os.openpty()
    try:
        try:
            process = _start(selftest, theirs, theirs, theirs)
        finally:
            os.close(theirs)
        with _ending(process):
            _converse(ours, (selftest.terminal or "").encode(), deadline)
            ended = _ends(process, deadline)
        return process.returncode if ended else None, b""
    finally:
        os.close(ours)


def _start(selftest: Selftest, stdin: int, stdout: int, stderr: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        selftest.command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
        preexec_fn=functools.partial(_prepare, os.getpid(), selftest.terminal is not None),
    )


def _prepare(parent: int, terminal: bool) -> None:
    child.die_with(parent)  # nobody else ends a command whose caller was ended by kill -9
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _converse(terminal: int, text: bytes, deadline: float) -> None:
    """Types a text, and reads what comes, until nobody has the terminal open any more or the time is over."""
    os.set_blocking(terminal, False)
    while (left := deadline - time.monotonic()) > 0:
        readable, writable, _ = select.select([terminal], [terminal] if text else [], [], left)
        try:
            if readable and not os.read(terminal, 4096):
                return
            if writable:
                text = text[os.write(terminal, text) :]
        except BlockingIOError:
            continue
        except OSError:  # EIO: the other end is closed
            return


@contextlib.contextmanager
def _ending(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Whatever happens within, a Ctrl-C too, nothing of a command's session group runs after it."""
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # before it is waited for: so long its number is nobody else's
        process.wait()


def _ends(process: "subprocess.Popen[bytes]", deadline: float) -> bool:
    """Waits for a command's end, and leaves it to be waited for. Returns whether it came in time."""
    end = os.pidfd_open(process.pid)
    try:
        return bool(select.select([end], [], [], max(0.0, deadline - time.monotonic()))[0])
    finally:
        os.close(end)
