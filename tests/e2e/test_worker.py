# SPDX-License-Identifier: Apache-2.0
"""Faults of the two processes that stay: a worker that is killed, or hangs; a supervisor that is killed."""

import os
import select
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.e2e.support import Hang, attached, patched
from tests.e2e.test_reload import executes
from tests.kernel.conftest import Workload
from tests.kernel.daemon import Daemon, count, meanwhile
from tests.kernel.test_daemon import EXECS, OPENS, SOON

RESTARTS, STARTED = "ebpf_exporter_worker_restarts_total", "process_start_time_seconds"
# a worker that hangs is noticed in a second; that many restarts are no reason to give up
QUICK = ("supervisor.worker.HUNG_SECONDS=1.0", "supervisor.worker.MAX_RESTARTS=1000")


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path: Path, workload: Workload) -> None:
    """Again and again: the next one answers within a second, the attachments are the same, what was counted meanwhile
    is on its page, its totals begin anew, and no connection is refused."""
    (tmp_path / "file").touch()
    refused: list[OSError] = []
    connections = 0

    with Daemon({"file_opens": {}}, interval="60s") as daemon:

        def connect() -> None:
            nonlocal connections
            try:
                socket.create_connection(("127.0.0.1", daemon.port)).close()
                connections += 1
            except OSError as error:
                refused.append(error)

        before = attached(daemon)
        started = daemon.samples()[STARTED, frozenset()]
        with meanwhile(connect):
            for number in range(1, 6):
                worker = daemon.worker_pid()
                os.kill(worker, signal.SIGKILL)
                began = time.monotonic()
                workload(f"opener-{number}", "opens", tmp_path, 16, number)  # most likely before the next one is there
                samples = daemon.samples()
                assert time.monotonic() - began < SOON
                assert count(samples, OPENS, comm=f"opener-{number}") == 16 + number
                assert count(samples, OPENS, comm=f"opener-{number - 1}") == 0
                assert count(samples, RESTARTS) == number
                assert samples[STARTED, frozenset()] > started
                started = samples[STARTED, frozenset()]
        assert attached(daemon) == before
    assert refused == []
    assert connections > 0


def test_a_worker_whose_read_hangs_is_replaced() -> None:
    """A read that does not end is noticed, another worker takes its place, and has all that was counted meanwhile."""
    hang = Hang()
    with Daemon({"process_execs": {}}, prefix=patched(*QUICK, hang.prefix), interval="100ms") as daemon:
        executes(3)
        assert count(daemon.samples(), EXECS, comm="true") == 3
        first = os.pidfd_open(daemon.worker_pid())
        with hang:
            assert select.select([first], [], [], SOON + 60)[0]
            executes(4)
        os.close(first)
        samples = daemon.samples()
        assert count(samples, EXECS, comm="true") == 4
        assert count(samples, RESTARTS) >= 1
        assert "ERROR worker does not read: ending it pid=" in daemon.log()


def test_a_worker_that_is_stopped_is_replaced() -> None:
    """One that does not even begin to read, at a time when it should, is noticed as well."""
    with Daemon({"process_execs": {}}, prefix=patched(*QUICK), interval="100ms") as daemon:
        worker = daemon.worker_pid()
        first = os.pidfd_open(worker)
        os.kill(worker, signal.SIGSTOP)
        assert select.select([first], [], [], SOON + 60)[0]
        os.close(first)
        assert count(daemon.samples(), RESTARTS) == 1


def test_systemd_is_told_only_while_reads_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """WATCHDOG=1 comes again and again; not any more when reads hang, in each worker that is tried; and again after
    that."""
    hang = Hang()
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    with Daemon({"process_execs": {}}, prefix=patched(*QUICK, hang.prefix), interval="100ms") as daemon:
        for _ in range(5):
            daemon.wait_for_notification("WATCHDOG=1")
        with hang:
            daemon.wait_for_log("no read succeeds: systemd is not told any more that all is well")
            daemon.forget_notifications()
            daemon.wait_for_log("worker does not read", daemon.log().count("worker does not read") + 2)
            assert daemon.forget_notifications() == []
        for _ in range(5):
            daemon.wait_for_notification("WATCHDOG=1")


def test_a_long_interval_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reads that are far apart all is well, and systemd is told so."""
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    with Daemon({"process_execs": {}}, prefix=patched(*QUICK), interval="60s") as daemon:
        worker = daemon.worker_pid()
        for _ in range(60):
            daemon.wait_for_notification("WATCHDOG=1")
        daemon.configure({"process_execs": {}}, interval="1s")
        assert daemon.reload().returncode == 0
        for _ in range(60):
            daemon.wait_for_notification("WATCHDOG=1")
        assert daemon.worker_pid() == worker
