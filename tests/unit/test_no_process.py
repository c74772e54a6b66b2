# SPDX-License-Identifier: Apache-2.0
"""Where no process can be started for a while, the worker and bpftrace are tried again."""

import errno
import os
import selectors
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from exporter import privileges, worker
from exporter.bpftrace import runner
from exporter.bpftrace.runner import Runner
from exporter.supervisor.worker import WorkerProcess

REASON = "Resource temporarily unavailable"


def refused() -> int:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def open_files() -> set[str]:
    return {str(entry) for entry in Path("/proc/self/fd").iterdir()}


def test_a_worker(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is told in a line, and a worker is started when its time has come."""
    started: list[bool] = []
    monkeypatch.setattr(worker, "main", lambda *_: os._exit(0))
    with selectors.DefaultSelector() as selector:
        rights = privileges.WorkerRights(False, b"")
        process = WorkerProcess(selector, [], rights, lambda: started.append(True))
        process.configure(worker.Configured(1.0, 0.0))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fork", refused)
            process.start()
        [record] = caplog.records
        assert (record.__dict__["reason"], record.exc_info, started) == (REASON, None, [])
        assert process.deadline <= time.monotonic() + 1.0
        process._start_at = time.monotonic()
        process.tick()
        assert started == [True]
        process.stop()


def test_bpftrace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe has failed, with why, and nothing of the try stays open."""
    monkeypatch.setattr(runner, "PLACES", ("/bin/true",))
    monkeypatch.setattr(os, "fork", refused)
    with selectors.DefaultSelector() as selector:
        one = Runner(Mock(name="probe", purpose="", declaration=""), selector, lambda _: None)
        before = open_files()
        one.tick()
        assert (one.status.state, one.status.reason) == ("failed", f"cannot start a process: {REASON}")
        assert open_files() == before
        assert one.deadline > time.monotonic()
