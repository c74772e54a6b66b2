# SPDX-License-Identifier: Apache-2.0
"""The privileged process: starts compile children and the worker, holds what attaches the probes, watches interfaces.

It never talks to the network. What it holds, it holds by descriptors: when it ends, in whatever way, the kernel closes
them and nothing of ours is left attached.
"""

import logging
import math
import selectors
import signal
import socket
import time

from exporter import libbpf, privileges, systemd
from exporter.errors import StartError
from exporter.metrics.maps import Barrier
from exporter.supervisor import host, listening
from exporter.supervisor.plan import Plan
from exporter.supervisor.probes import Probes
from exporter.supervisor.worker import Share, WorkerProcess
from exporter.worker import Statuses

log = logging.getLogger(__name__)


class Supervisor:
    """The privileged process's state and its loop."""

    def __init__(self, wanted: Plan) -> None:
        self._plan = wanted
        self._selector = selectors.DefaultSelector()
        self._loaded_at = time.time()
        self._stopping = False
        self._ready = False

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT. Raises StartError where it can't begin."""
        privileges.require(list(self._plan.probes))
        host.raise_limits()
        sockets = listening.open_all(self._plan.listen)
        self._watch_signals()
        host.mount_tracefs()
        try:
            barrier = Barrier.create()
        except OSError as error:
            raise StartError(f"this kernel refuses BPF maps: {error.strerror}") from error
        keep_bpf = privileges.maps_need_bpf(barrier[1])
        try:
            self._statistics = libbpf.enable_statistics()
        except OSError as error:
            log.warning("no BPF statistics, so no runs and no run time of programs: %s", error.strerror)
        share = Share(self._plan.interval, self._loaded_at, barrier, sockets, keep_bpf)
        self._worker = WorkerProcess(self._selector, share, self._worker_started)
        self._probes = Probes(self._plan.probes, self._selector, self._worker.send, self._tell_statuses)
        self._worker.start()
        try:
            self._probes.start()
            while not self._stopping:
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._probes.tick()
        finally:
            self._stop()

    def _watch_signals(self) -> None:
        ours, self._wakeup = socket.socketpair()
        ours.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

        def signalled() -> None:
            ours.recv(64)
            self._stopping = True

        self._selector.register(ours, selectors.EVENT_READ, signalled)

    def _timeout(self) -> float | None:
        deadline = self._probes.deadline
        return max(0.0, deadline - time.monotonic()) if deadline < math.inf else None

    def _worker_started(self) -> None:
        self._probes.give_all()
        self._tell_statuses()

    def _tell_statuses(self) -> None:
        settled = self._probes.settled
        self._worker.send(Statuses(tuple(self._probes.statuses.values()), settled))
        if settled and not self._ready:
            self._ready = True
            self._announce()

    def _announce(self) -> None:
        statuses = self._probes.statuses
        width = max(map(len, statuses))
        for status in statuses.values():
            state = f"{status.state} ({status.mechanism})" if status.mechanism else status.state
            log.info("%-*s  %-24s  %s", width, status.name, state, status.reason or status.purpose)
        hosts = [(f"[{host}]" if ":" in host else host or "localhost", port) for host, port in self._plan.listen]
        pages = dict.fromkeys(f"http://{host}:{port}/metrics" for host, port in hosts)
        log.info("metrics on %s", " ".join(pages))
        systemd.notify("READY=1")

    def _stop(self) -> None:
        systemd.notify("STOPPING=1")
        signal.set_wakeup_fd(-1)
        self._probes.stop()
        self._worker.stop()
