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
from pathlib import Path

from exporter import libbpf, privileges, systemd
from exporter.errors import StartError
from exporter.metrics.maps import Barrier
from exporter.rules.safety import Danger
from exporter.supervisor import host
from exporter.supervisor.control import Control
from exporter.supervisor.listening import Listening
from exporter.supervisor.plan import Plan
from exporter.supervisor.probes import Changes, Probes
from exporter.supervisor.reload import Reloads
from exporter.supervisor.web import WebConfig
from exporter.supervisor.worker import WorkerProcess
from exporter.worker import Configured, Statuses

log = logging.getLogger(__name__)


class Supervisor:
    """The privileged process's state and its loop."""

    def __init__(self, wanted: Plan, config: Path) -> None:
        """config is where wanted was read, and may be read again."""
        self._plan = wanted
        self._config = config
        self._selector = selectors.DefaultSelector()
        self._listening = Listening()
        self._watchdog = systemd.Watchdog()
        self._read_at = time.time()
        self._stopping = False
        self._ready = False

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT. Raises StartError where it can't begin."""
        privileges.require()
        host.raise_limits()
        self._listening.take_passed()
        self._listening.change(self._plan.listen)
        self._watch_signals()
        host.mount_tracefs()
        try:
            barrier = Barrier.create()
        except OSError as error:
            raise StartError(libbpf.refusal(error)) from error
        rights = privileges.worker_rights(barrier[1])
        try:
            self._statistics = libbpf.enable_statistics()
        except OSError as error:
            log.warning(
                "no BPF statistics: runs and run time of programs are unknown", extra={"reason": error.strerror}
            )
        self._worker = WorkerProcess(self._selector, barrier, rights, self._worker_started)
        self._worker.configure(Configured(self._plan.interval, self._read_at))
        self._worker.listen(self._listening.sockets)
        self._web = WebConfig(self._selector, self._tell_web)
        self._web.use(self._plan.web)
        self._probes = Probes(self._selector, self._worker.send, self._statuses_changed)
        self._reloads = Reloads(
            self._config, self._selector, self._probes, self._apply, self._config_read, self._notify_reload
        )
        self._control = Control(self._config, self._selector, self._reloads.ask)
        self._ticking = (self._probes, self._reloads, self._web, self._worker)
        try:
            _tell(self._plan.dangers)
            self._probes.apply(self._plan.probes)
            self._worker.start()
            while not self._stopping:
                for key, _ in self._selector.select(self._timeout()):
                    if self._selector.get_map().get(key.fd) is key:  # else one before it was the end of this one
                        key.data()
                for one in self._ticking:
                    one.tick()
                self._watchdog.tick(self._worker.well)
        finally:
            self._stop()

    def _watch_signals(self) -> None:
        ours, self._wakeup = socket.socketpair()
        ours.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        # SIGHUP also says that the terminal is gone; where it was to be ignored (nohup), that is no reason to end
        terminal = host.has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

        def signalled() -> None:
            numbers = set(ours.recv(4096))
            if numbers == {signal.SIGHUP} and not (terminal and not host.has_terminal()):
                self._reloads.ask()
            else:
                self._stopping = True

        self._selector.register(ours, selectors.EVENT_READ, signalled)

    def _pages(self, wanted: Plan) -> list[str]:
        secure = wanted.web is not None and wanted.web.settings is not None and wanted.web.settings.tls is not None
        return [f"http{'s' * secure}://{place}/metrics" for place in self._listening.places(wanted.listen)]

    # -- another config

    def _apply(self, wanted: Plan) -> tuple[Changes, dict[str, str]]:
        """Makes a plan what runs. Returns what it changes of the probes, and besides. Raises StartError, with nothing
        changed."""
        before = self._listening.sockets
        gone = self._listening.change(wanted.listen)
        others: dict[str, str] = {}
        if self._listening.sockets != before:
            others["listens on"] = " ".join(self._pages(wanted))
            # the worker has them too, and is to be the last: who comes after it has taken all in would be reset
            for one in gone:
                one.close()
            # what goes goes first, and what comes comes last: no socket has the other's TLS and passwords
            self._worker.listen([one for one in self._listening.sockets if one in before])
        settings = self._web.state.settings
        self._web.use(wanted.web)
        self._tell_web()
        if self._web.state.settings != settings:
            others["web config"] = str(wanted.web.path) if wanted.web is not None else "none"
        if self._listening.sockets != before:
            self._worker.listen(self._listening.sockets)
        if wanted.interval != self._plan.interval:
            others["reads every"] = f"{wanted.interval:g} s"
        self._plan = wanted
        _tell(wanted.dangers)
        return self._probes.apply(wanted.probes), others

    def _config_read(self, good: bool) -> None:
        if good:
            self._read_at = time.time()
        self._worker.configure(Configured(self._plan.interval, self._read_at, good))

    def _notify_reload(self, begins: bool) -> None:
        if not self._ready:  # systemd waits for the start
            return
        if begins:
            systemd.notify_reloading()
        else:
            systemd.notify("READY=1")

    # -- the loop

    def _timeout(self) -> float | None:
        deadline = min(self._watchdog.deadline, *(one.deadline for one in self._ticking))
        return max(0.0, deadline - time.monotonic()) if deadline < math.inf else None

    def _tell_web(self) -> None:
        self._worker.send(self._web.state)

    def _worker_started(self) -> None:
        self._tell_web()  # before that it answers nobody
        self._probes.give_all()
        self._statuses_changed()

    def _statuses_changed(self) -> None:
        if first := not self._ready and self._probes.settled:
            self._ready = True
        self._worker.send(Statuses(tuple(self._probes.statuses.values()), self._ready))
        if first:
            self._announce()
        self._reloads.settle()

    def _announce(self) -> None:
        for status in self._probes.statuses.values():
            told = {"probe": status.name, "mechanism": status.mechanism, "reason": status.reason}
            log.info("probe %s", status.state, extra={**told, "purpose": status.purpose})
        log.info(
            "serving", extra={"metrics": " ".join(self._pages(self._plan)), "systemd": " ".join(self._listening.names)}
        )
        systemd.notify("READY=1")

    def _stop(self) -> None:
        systemd.notify("STOPPING=1")
        signal.set_wakeup_fd(-1)
        self._control.close()
        self._reloads.kill()
        self._web.stop()
        self._probes.stop()
        self._worker.stop()


def _tell(dangers: tuple[Danger, ...]) -> None:
    for one in dangers:
        log.warning("rule would cut off", extra={"probe": one.probe, "rule": one.rule, "drops": one.what})
