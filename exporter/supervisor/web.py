# SPDX-License-Identifier: Apache-2.0
"""The web config as the supervisor sees it: read again when one of its files is another one, for the worker."""

import contextlib
import dataclasses
import logging
import math
import selectors
import time
from collections.abc import Callable
from pathlib import Path

from exporter.child import Child
from exporter.errors import ExporterError
from exporter.web.files import Read, signature
from exporter.web.settings import Settings
from exporter.worker import Web

LOOK_SECONDS = 2.0  # between looks at the files; what is another one is read when it has held still for as long
READ_SECONDS = 30.0
AGAIN_SECONDS = 60.0  # after a child that crashed

_REFUSED = "web config refused, the former goes on"

log = logging.getLogger(__name__)


class WebConfig:
    """What clients are to find, through all changes of the files."""

    def __init__(self, selector: selectors.BaseSelector, changed: Callable[[], None]) -> None:
        """changed is called when ``state`` is another."""
        self._selector = selector
        self._changed = changed
        self._reading: Child[Read] | None = None
        self.use(None)

    def use(self, read: Read | None) -> None:
        """This is the web config from now on, and what was read of it; None: there is none, and everybody may ask."""
        self.stop()
        self._read = read
        self._seen = read.files if read else ()
        self.state = Web(read.settings or Settings(), read_at=time.time()) if read else Web(Settings())
        self.deadline = time.monotonic() + LOOK_SECONDS if read else math.inf  # of ``tick``, by the monotonic clock
        for remark in read.remarks if read else ():
            log.warning("web config", extra={"remark": remark})

    def tick(self) -> None:
        """Looks at the files, if it is due."""
        now = time.monotonic()
        if now < self.deadline or self._read is None:
            return
        if self._reading is not None:
            log.error("web config not read in time", extra={"file": str(self._read.path), "seconds": READ_SECONDS})
            self._reading.kill()  # its end comes by the selector
            self.deadline = math.inf
            return
        self.deadline = now + LOOK_SECONDS
        before, self._seen = self._seen, tuple((path, signature(path)) for path, _ in self._read.files)
        if self._seen == before != self._read.files:
            self._reading = Child(_read, self._read.path)
            self._selector.register(self._reading, selectors.EVENT_READ, self._ended)
            self.deadline = now + READ_SECONDS

    def stop(self) -> None:
        """Ends the child, if there is one."""
        if self._reading is not None:
            self._selector.unregister(self._reading)
            self._reading.kill()
            with contextlib.suppress(ExporterError):
                self._reading.result()
            self._reading = None

    def _ended(self) -> None:
        assert self._reading is not None
        assert self._read is not None
        child, self._reading = self._reading, None
        self._selector.unregister(child)
        try:
            read, _, _ = child.result()
        except ExporterError as error:
            log.error(_REFUSED, extra={"file": str(self._read.path), "reason": str(error)})
            self.deadline = time.monotonic() + AGAIN_SECONDS
            self._set(successful=False)
            return
        self._read = read
        self.deadline = time.monotonic() + LOOK_SECONDS
        for problem in read.problems:
            log.error(_REFUSED, extra={"problem": str(problem)})
        if read.settings is None:
            self._set(successful=False)
            return
        for remark in read.remarks:
            log.warning("web config", extra={"remark": remark})
        log.info("web config read again", extra={"file": str(read.path)})
        self._set(settings=read.settings, successful=True, read_at=time.time())

    def _set(self, **changes: object) -> None:
        self.state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]  # by name
        self._changed()


def _read(path: Path) -> tuple[Read, list[int]]:
    from exporter.web import config  # with PyYAML and jsonschema, which the daemon need not keep

    return config.read(path), []
