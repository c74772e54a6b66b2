# SPDX-License-Identifier: Apache-2.0
"""A function run in a process of its own: what it imports, leaks, crashes on or changes ends with it.

The config is read so (a YAML parser and a schema validator are 15 MB that the daemon need not keep) and every probe is
compiled so (BCC is 130 MB, leaks on errors, changes the working directory and now and then crashes).
"""

import ctypes
import io
import os
import signal
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, Generic, NoReturn, TypeVar

from exporter.channel import Channel
from exporter.errors import ExporterError, StartError
from exporter.libraries import missing

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class Crashed(ExporterError):
    """A child ended without a result: by a signal, a limit of time, or a fault in our own code."""


def die_with(parent: int) -> None:
    """Makes the kernel kill this process when its parent ends, even by kill -9."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def set_name(name: str) -> None:
    """Sets the name that ps and top show for this process."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def close_all_but(kept: set[int]) -> None:
    """Closes every descriptor above 2 that is not to be kept: a child may not hold other probes' attachments."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        fd = int(entry.name)
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:  # the one that the listing itself had open
                continue


class Child(Generic[T]):
    """A running function. Readable (``fileno``) when it has its result or has ended."""

    def __init__(self, function: Callable[..., tuple[T, list[int]]], *arguments: Any, keep: Iterable[int] = ()) -> None:
        """Starts ``function(*arguments)``, which returns an object and descriptors to hand over with it.

        keep are descriptors that it has as well, under the same numbers. Where no process can be started, ``result``
        says so. Raises OSError where there is no descriptor for it.
        """
        self._channel, theirs = Channel.pair()
        self._words: BinaryIO = io.BytesIO()
        self._refused: OSError | None = None
        self.pid = 0
        parent = os.getpid()
        try:
            self._words = os.fdopen(os.memfd_create("words"), "w+b")
            pid = os.fork()
        except OSError as error:
            self._refused = error
        else:
            if pid == 0:
                self._run(parent, theirs, {*keep, theirs.fileno()}, function, arguments)
            self.pid = pid
        theirs.close()

    def _run(
        self,
        parent: int,
        channel: Channel,
        kept: set[int],
        function: Callable[..., tuple[T, list[int]]],
        arguments: tuple[Any, ...],
    ) -> NoReturn:
        code = 1
        try:
            die_with(parent)
            set_name("ebpf-exp-child")
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for number in (
                signal.SIGINT,
                signal.SIGHUP,
            ):  # a Ctrl-C reaches all processes; what ends is the parent's word
                signal.signal(number, signal.SIG_IGN)
            os.dup2(self._words.fileno(), 2)
            close_all_but(kept)
            try:
                result, fds = function(*arguments)
                channel.send(("result", result), fds)
            except ExporterError as error:
                channel.send(("error", error))
            except ImportError as error:
                channel.send(("error", StartError(missing(error))))
            except Exception:  # noqa: BLE001 - the boundary: whatever it was, the parent is told
                channel.send(("died", traceback.format_exc()))
            code = 0
        finally:
            os._exit(code)  # not sys.exit: nothing of the parent's may be flushed or run a second time

    def fileno(self) -> int:
        return self._channel.fileno()

    def kill(self) -> None:
        """Ends the process; ``result`` then raises Crashed."""
        if self.pid:  # 0 would be all processes of our group
            os.kill(self.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Ends the process, and drops whatever it has sent."""
        self.kill()
        if self.pid:
            os.waitpid(self.pid, 0)
        self._channel.close()
        self._words.close()

    def result(self) -> tuple[T, list[int], str]:
        """Waits for the end. Returns the result, its descriptors, and what was written to descriptor 2.

        Raises what the function raised if that is an ExporterError, else Crashed; with what was written as a note
        (``__notes__``).
        """
        if self._refused:
            self.abandon()
            raise Crashed(f"cannot start a process: {self._refused.strerror}") from self._refused
        try:
            (kind, value), fds = self._channel.receive()
        except (EOFError, ConnectionError):
            kind, value, fds = "gone", None, []
        _, status = os.waitpid(self.pid, 0)
        self._channel.close()
        self._words.seek(0)
        words = self._words.read().decode("utf-8", "backslashreplace").strip()
        self._words.close()
        if kind == "result":
            return value, fds, words
        if kind == "error":
            error: ExporterError = value
        elif kind == "died":
            error = Crashed(value.strip().splitlines()[-1])
            words = f"{words}\n{value}".strip()
        elif os.WIFSIGNALED(status):
            error = Crashed(f"the process was ended by {signal.Signals(os.WTERMSIG(status)).name}")
        else:
            error = Crashed(f"the process ended with code {os.waitstatus_to_exitcode(status)}")
        error.add_note(words)
        raise error


def isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns ``function(*arguments)``, run in a process of its own. Raises what it raises, if an ExporterError."""
    return Child(_without_fds, function, arguments).result()[0]


def _without_fds(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, list[int]]:
    return function(*arguments), []
