# SPDX-License-Identifier: Apache-2.0
"""The supervisor's end: runs bpftrace on a script, sends it the worker's questions, starts it again when it ends.

bpftrace is root and its output is data of strangers: nothing of it is parsed here. Until it answers for the first time,
which says that all is attached, its output is searched for our mark; then the worker has it.
"""

import contextlib
import dataclasses
import logging
import math
import os
import re
import secrets
import selectors
import signal
import time
from collections.abc import Callable
from pathlib import Path

from exporter import child
from exporter.bpftrace import script
from exporter.probe import Probe
from exporter.status import MAX_DETAILS, ProbeStatus

PLACES = ("/usr/bin/bpftrace", "/usr/local/bin/bpftrace", "/usr/sbin/bpftrace")
START_SECONDS = 120.0  # it compiles; on an emulated machine this takes long
ASK_SECONDS = 0.2  # between the first questions, which it may not be ready for
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0  # before it is started again; doubled each time
_SETTLED_SECONDS = 60.0  # of running, after which the next pause is the first again
_MOST_QUESTIONS = 8  # that are sent on at once: each makes bpftrace print all maps

log = logging.getLogger(__name__)


class Runner:
    """One script and the bpftrace that runs it, through all its lives. Never waits."""

    def __init__(self, probe: Probe, selector: selectors.BaseSelector, changed: Callable[["Runner"], None]) -> None:
        """changed is called when the status is another, and there is a new life to be read if ``shared`` says so."""
        assert probe.script is not None
        self.probe = probe
        self._script = probe.script
        self._selector = selector
        self._changed = changed
        self.status = ProbeStatus(probe.name, probe.purpose, "starting", "bpftrace", declaration=str(probe.declaration))
        self.marker = ""
        self._pid = 0
        self._deadline = self._begun = 0.0
        self._answers_at = self._ask_at = math.inf
        self._pause = FIRST_PAUSE
        self._seen = self._words = b""
        self._fds: dict[str, int] = {}
        self._retired = False

    # -- what the supervisor calls

    @property
    def up(self) -> bool:
        """Whether it runs, or has done what it was to do."""
        return self.status.state in ("running", "ended")

    @property
    def shared(self) -> list[int]:
        """The descriptors for the worker, output and questions; none while there is nothing to be read."""
        return [self._fds["output"], self._fds["ask"]] if self.status.state == "running" else []

    @property
    def deadline(self) -> float:
        """When ``tick`` is due, by the monotonic clock."""
        return min(self._deadline, self._ask_at)

    def tick(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        if self._pid and now >= self._ask_at:
            self._ask_at = now + ASK_SECONDS
            self._send(script.START_TOKEN)
        if now < self._deadline:
            return
        if self._pid:
            self._words += b"\nERROR: it did not start in time"
            self._deadline = self._ask_at = math.inf
            self.kill()
        else:
            self._start()

    def hurry(self) -> None:
        """Starts at once what would be started again later: its pauses begin anew."""
        if not self._pid and self._deadline < math.inf:
            self._pause, self._deadline = FIRST_PAUSE, time.monotonic()

    def retire(self) -> None:
        """Ends bpftrace for good; nobody is told of it any more."""
        self._retired = True
        self._deadline = self._ask_at = math.inf
        self.kill()

    def kill(self) -> None:
        """Ends bpftrace: at once, for what it would print is of no use any more."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> None:
        """Returns when bpftrace is gone, after ``kill``."""
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0

    # -- its life

    def _start(self) -> None:
        self._deadline = math.inf
        binary = next((place for place in PLACES if Path(place).is_file() and os.access(place, os.X_OK)), None)
        if binary is None:
            self._again("bpftrace is not installed (/usr/bin/bpftrace): install the package bpftrace", "")
            return
        self.marker = secrets.token_hex(16)  # nobody can have printed it before
        self._seen = self._words = b""
        parent = os.getpid()
        fds: list[int] = []
        try:
            for _ in range(3):
                fds += os.pipe()
            self._pid = os.fork()
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._again(f"cannot start a process: {error.strerror}", "")
            return
        output, theirs, words, their_words, asked, ask = fds
        if self._pid == 0:
            self._become(binary, theirs, their_words, parent)
        os.close(theirs)
        os.close(their_words)
        end = os.pidfd_open(self._pid)
        self._fds = {"output": output, "words": words, "asked": asked, "ask": ask, "end": end}
        for fd in (output, words, asked):
            os.set_blocking(fd, False)
        self._begun = time.monotonic()
        self._deadline, self._ask_at = self._begun + START_SECONDS, self._begun + ASK_SECONDS
        self._selector.register(output, selectors.EVENT_READ, self._printed)
        self._selector.register(words, selectors.EVENT_READ, self._said)
        self._selector.register(asked, selectors.EVENT_READ, self._questions)
        self._selector.register(end, selectors.EVENT_READ, self._ended)

    def _become(self, binary: str, output: int, words: int, parent: int) -> None:
        """Turns this process, which was forked for it, into bpftrace."""
        try:
            child.die_with(parent)
            os.setsid()  # a Ctrl-C is for the supervisor
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and that would be inherited
                signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGHUP, *range(script.FIRST_SIGNAL, script.FIRST_SIGNAL + script.TOKENS)):
                signal.signal(number, signal.SIG_IGN)
            names = [map_.name for map_ in self._script.maps]
            text = os.memfd_create("script")
            whole = script.with_printer(self._script.text, names, self.marker, os.getpid())
            os.write(text, whole.encode("utf-8", "surrogateescape"))
            os.lseek(text, 0, os.SEEK_SET)
            for at, fd in enumerate((text, output, words)):
                os.dup2(fd, at)
            child.close_all_but(set())
            os.chdir("/")
            limits = {key: value for key, value in os.environ.items() if key.startswith("BPFTRACE_")}
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LANG": "C.UTF-8", **limits}
            os.execve(binary, ["bpftrace", "-f", "json", "-I", str(self._script.folder), "-"], environment)
        except OSError as error:
            os.write(2, f"ERROR: {binary}: {error.strerror}\n".encode())
        finally:
            os._exit(127)

    def _printed(self) -> None:
        """Looks for the first answer, and drops all else."""
        data = _read(self._fds["output"])
        if data == b"":
            self._selector.unregister(self._fds["output"])
        self._seen = self._seen[-256:] + (data or b"")
        if self._retired or f"{self.marker} end ".encode() not in self._seen:
            return
        self._selector.unregister(self._fds["output"])
        self._deadline = self._ask_at = math.inf
        self._set("running", details=self._details(), attachments=(("bpftrace", self._script.file),))
        self._changed(self)

    def _said(self) -> None:
        data = _read(self._fds["words"])
        if data == b"":
            self._selector.unregister(self._fds["words"])
        self._words = (self._words + (data or b""))[-4 * MAX_DETAILS :]

    def _questions(self) -> None:
        for token in (_read(self._fds["asked"]) or b"")[-_MOST_QUESTIONS:]:
            self._send(token % script.START_TOKEN)

    def _send(self, token: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            script.ask(self._pid, token)

    def _ended(self) -> None:
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        while data := _read(self._fds["words"]):
            self._words += data
        for fd in self._fds.values():
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)
            os.close(fd)
        self._fds = {}
        self._deadline = self._ask_at = math.inf
        if self._retired:
            return
        details = self._details()
        code = os.waitstatus_to_exitcode(status)
        if code == 0 and self._script.ends:
            self._set("ended", "the script has ended by itself", details)
            log.info("probe %s", self.status.state, extra={"probe": self.probe.name, "reason": self.status.reason})
            self._changed(self)
            return
        ending = f"code {code}" if code >= 0 else signal.Signals(-code).name
        self._again(_reason(details) or f"bpftrace ended ({ending})", details)

    def _again(self, reason: str, details: str) -> None:
        """It has failed, and is started again in a while."""
        now = time.monotonic()
        if self.status.state == "running" and now - self._begun >= _SETTLED_SECONDS:
            self._pause = FIRST_PAUSE
        self._set("failed", reason[:2000], details)
        log.error("probe failed", extra={"probe": self.probe.name, "reason": reason})
        self._deadline = now + self._pause
        self._pause = min(LAST_PAUSE, 2 * self._pause)
        self._changed(self)

    def _set(
        self, state: str, reason: str = "", details: str = "", attachments: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.status = dataclasses.replace(
            self.status, state=state, reason=reason, details=details, attachments=attachments
        )

    def _details(self) -> str:
        """What bpftrace said on its error output, with the script's name where it only knows of its input."""
        text = self._words.decode("utf-8", "backslashreplace").strip()
        return re.sub(r"^stdin(?=:\d)", lambda _: self._script.file, text, flags=re.MULTILINE)[-MAX_DETAILS:]


def _read(fd: int) -> bytes | None:
    """Returns what is there, b"" at the end, and None where there is nothing now."""
    try:
        return os.read(fd, 64 * 1024)
    except BlockingIOError:
        return None


def _reason(details: str) -> str:
    """The first error, but that its memory could not be unlimited: it says so wherever it lacks CAP_SYS_RESOURCE."""
    errors = (line for line in details.splitlines() if "ERROR" in line and "RLIMIT_MEMLOCK" not in line)
    return next(errors, "")
