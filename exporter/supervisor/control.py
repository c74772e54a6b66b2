# SPDX-License-Identifier: Apache-2.0
"""How ``ebpf-exporter reload`` reaches the exporter that runs: a socket in a folder that is root's alone.

Its name is made from the config's, so each exporter has its own: ``/run/ebpf-exporter/90f0a2c5d9c53b0a.sock``.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporter import folders
from exporter.errors import ExporterError

FOLDER = Path("/run/ebpf-exporter")
TELL_SECONDS = 5.0  # for who asked to take the answer
_RELOAD = b"reload\n"

log = logging.getLogger(__name__)


class Unreachable(ExporterError):
    """There is no exporter to ask, or it ended before it had an answer."""


@dataclass(frozen=True)
class Answer:
    """What came of a reload: whether the config is good, what was done, and what is lacking all the same."""

    good: bool
    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def _place(config: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(os.path.abspath(config)))  # noqa: PTH100 - what a link leads to may change
    return FOLDER / f"{digest.hexdigest()[:16]}.sock"


def ask(config: Path) -> Answer:
    """Has the exporter that runs with a config read it again. Returns what came of it; raises Unreachable."""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(str(_place(config)))
        except PermissionError as error:
            raise Unreachable("cannot reach an exporter: run it as root") from error
        except OSError as error:
            message = f"no exporter runs with {config}; --config names the config of one that does"
            raise Unreachable(message) from error
        asking.sendall(_RELOAD)
        with asking.makefile("rb") as answers:
            answer = answers.read()
    if not answer:
        raise Unreachable("the exporter ended before it had read its config again")
    try:
        found = json.loads(answer)
    except ValueError as error:
        raise Unreachable("the exporter's answer was cut off: its log has what came of the reload") from error
    return Answer(found["good"], tuple(found["lines"]), tuple(found["warnings"]))


class Control:
    """The socket of the exporter that runs."""

    def __init__(
        self, config: Path, selector: selectors.BaseSelector, reload: Callable[[Callable[[Answer], None]], None]
    ) -> None:
        """reload is called when somebody asks for it, with whom to tell what came of it."""
        self._place = _place(config)
        self._selector = selector
        self._reload = reload
        self._listening: socket.socket | None = None
        why = folders.private(FOLDER)
        try:
            self._listening = None if why else self._listen()
        except OSError as error:
            why = f"{self._place}: {error.strerror}"
        if self._listening:
            selector.register(self._listening, selectors.EVENT_READ, self._asked)
        else:
            log.warning("ebpf-exporter reload cannot reach this exporter, only SIGHUP can", extra={"reason": why})

    def close(self) -> None:
        """Nobody is answered any more."""
        if self._listening:
            self._selector.unregister(self._listening)
            self._listening.close()
            self._listening = None
            self._place.unlink(missing_ok=True)

    def _listen(self) -> socket.socket:
        """Opens the socket, in place of one of an exporter that was killed. Raises OSError."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as other:
            other.connect(str(self._place))
            raise FileExistsError(errno.EEXIST, "another exporter runs with this config")
        self._place.unlink(missing_ok=True)
        one = socket.socket(socket.AF_UNIX)
        one.bind(str(self._place))
        one.listen()
        one.setblocking(False)
        return one

    def _asked(self) -> None:
        assert self._listening is not None
        try:
            asking, _ = self._listening.accept()
        except OSError:  # who asked is gone
            return
        asking.setblocking(False)
        self._selector.register(asking, selectors.EVENT_READ, lambda: self._read(asking))

    def _read(self, asking: socket.socket) -> None:
        self._selector.unregister(asking)
        if _received(asking) == _RELOAD:
            self._reload(lambda answer: _tell(asking, answer))
        else:
            asking.close()


def _received(asking: socket.socket) -> bytes:
    try:
        return asking.recv(64)
    except OSError:
        return b""


def _tell(asking: socket.socket, answer: Answer) -> None:
    with asking, contextlib.suppress(OSError):  # who asked is gone, and does not want to know any more
        asking.settimeout(TELL_SECONDS)
        asking.sendall(json.dumps(dataclasses.asdict(answer)).encode())
