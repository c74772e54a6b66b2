# SPDX-License-Identifier: Apache-2.0
"""The privileged process: starts compile children and the worker, holds what attaches the probes, watches interfaces.

It never talks to the network. What it holds, it holds by descriptors: when it ends, in whatever way, the kernel closes
them and nothing of ours is left attached.
"""

import dataclasses
import errno
import logging
import math
import os
import resource
import selectors
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter import libbpf, privileges, symbols, systemd, worker
from exporter.bpftrace.runner import Runner
from exporter.channel import Channel
from exporter.child import Child, isolated
from exporter.errors import ExporterError, ProbeError, StartError
from exporter.holder import hold
from exporter.loader import load
from exporter.loader.attach import TRACEFS
from exporter.loader.load import NothingHolds
from exporter.metrics.maps import Barrier
from exporter.network import Changes, XdpAttachments
from exporter.probe import Probe
from exporter.status import MAX_DETAILS, Loaded, ProbeStatus

COMPILE_SECONDS = 120.0  # a compile takes one second; on an emulated machine, a quarter of a minute
STOP_SECONDS = 5.0
SEND_SECONDS = 5.0  # for the worker to take a message
SETTLE_SECONDS = 0.1  # interfaces and routes come in crowds: they are looked at once
RETRY_SECONDS = 5.0  # for what is degraded: that another's XDP program went is told by nobody
MAX_RESTARTS, RESTARTS_SECONDS = 10, 60.0  # a worker that can't live is no reason to go on for ever

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """All that a config asks for."""

    listen: tuple[tuple[str, int], ...]
    interval: float
    probes: tuple[Probe, ...]


def plan(path: Path) -> Plan:
    """Reads a config and its probes in a process of its own. Raises ConfigError with every problem."""
    result = isolated(_plan, path)
    assert isinstance(result, Plan)
    return result


def _plan(path: Path) -> Plan:
    from exporter import catalog, config  # with PyYAML and jsonschema, which the daemon need not keep

    found = config.load(path)
    return Plan(found.listen, found.interval, tuple(catalog.load(found)))


def listen(addresses: tuple[tuple[str, int], ...]) -> list[socket.socket]:
    """Opens the listening sockets; a name such as localhost stands for all its addresses. Raises StartError."""
    sockets: list[socket.socket] = []
    for host, port in addresses:
        # localhost is loopback by RFC 6761, also on a host without /etc/hosts
        names = ["127.0.0.1", "::1"] if host == "localhost" else [host or None]
        try:
            found = [
                address
                for name in names
                for address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            ]
        except (OSError, UnicodeError) as error:
            raise StartError(f"cannot listen on {host}:{port}: {host} is no address or name of this host") from error
        failures = []
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_listening(family, address))
            except OSError as error:
                failures.append(error)
        # a host without IPv6 has neither its family nor its addresses
        fatal = [error for error in failures if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)]
        if fatal or len(failures) == len(found):
            first = (fatal or failures)[0]
            hint = "; is another exporter running?" if first.errno == errno.EADDRINUSE else ""
            raise StartError(f"cannot listen on {host or '*'}:{port}: {first.strerror}{hint}")
    return sockets


def _listening(family: int, address: Any) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(128)
    except OSError:
        one.close()
        raise
    return one


def mount_tracefs() -> None:
    """Makes tracepoints readable where nobody mounted what describes them; says so, and where it can't be."""
    if any((root / "events").is_dir() for root in TRACEFS):
        return
    command = ["mount", "-t", "tracefs", "tracefs", str(TRACEFS[0])]
    try:
        subprocess.run(command, capture_output=True, check=True)
        log.info("mounted tracefs on %s", TRACEFS[0])
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", b"").decode(errors="replace").strip()
        log.warning("tracefs is not mounted and cannot be: %s", words or error)


def raise_limits() -> None:
    """Each hook, map and client is a descriptor: allows as many as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@dataclass
class _Held:
    """A probe that runs: what the worker is to be told and given, and what holds XDP on interfaces."""

    probe: Probe
    loaded: Loaded
    shared: list[int]  # maps, programs and links that tell what they missed
    xdp: list[XdpAttachments] = field(default_factory=list)


class Supervisor:
    """The privileged process's state and its loop."""

    def __init__(self, wanted: Plan) -> None:
        self._plan = wanted
        self._selector = selectors.DefaultSelector()
        self._statuses = {
            probe.name: ProbeStatus(probe.name, probe.purpose, declaration=str(probe.declaration))
            for probe in wanted.probes
        }
        self._held: dict[str, _Held] = {}
        self._waiting = [probe for probe in wanted.probes if probe.script is None]
        self._runners = [
            Runner(probe, self._selector, self._script_changed) for probe in wanted.probes if probe.script is not None
        ]
        self._compiling: dict[str, tuple[Child, float]] = {}
        self._worker_pid = 0
        self._channel: Channel | None = None
        self._restarts = 0
        self._loaded_at = time.time()
        self._stopping = False
        self._ready = False
        self._look_at = math.inf
        self._ended_at: list[float] = []

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT. Raises StartError where it can't begin."""
        privileges.require(list(self._plan.probes))
        raise_limits()
        self._listening = listen(self._plan.listen)
        self._watch_signals()
        mount_tracefs()
        try:
            self._barrier = Barrier.create()
        except OSError as error:
            raise StartError(f"this kernel refuses BPF maps: {error.strerror}") from error
        self._keep_bpf = privileges.maps_need_bpf(self._barrier[1])
        try:
            self._statistics = libbpf.enable_statistics()
        except OSError as error:
            log.warning("no BPF statistics, so no runs and no run time of programs: %s", error.strerror)
        self._start_worker()
        if any(probe.interfaces for probe in self._plan.probes):
            self._changes = Changes()
            self._selector.register(self._changes, selectors.EVENT_READ, self._interfaces_changed)
        self._start_compiling()
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._next_deadline()):
                    key.data()
                self._kill_the_hung()
                for runner in self._runners:
                    runner.tick()
                if time.monotonic() >= self._look_at:
                    self._look_at_interfaces()
        finally:
            self._stop()

    # -- signals and the clock

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

    def _next_deadline(self) -> float | None:
        deadlines = [deadline for _, deadline in self._compiling.values()]
        deadlines += [self._look_at, *(runner.deadline for runner in self._runners)]
        return max(0.0, min(deadlines) - time.monotonic()) if min(deadlines) < math.inf else None

    def _degraded(self) -> bool:
        return any(status.state == "degraded" for status in self._statuses.values())

    def _kill_the_hung(self) -> None:
        for name, (compiler, deadline) in self._compiling.items():
            if time.monotonic() > deadline:
                log.error("probe %s: still not compiled after %.0f s", name, COMPILE_SECONDS)
                compiler.kill()
                self._compiling[name] = compiler, math.inf  # its end comes by the selector

    # -- probes

    def _start_compiling(self) -> None:
        while self._waiting and len(self._compiling) < len(os.sched_getaffinity(0)):
            probe = self._waiting.pop(0)
            compiler = Child(load.start, probe)
            self._compiling[probe.name] = compiler, time.monotonic() + COMPILE_SECONDS
            self._selector.register(compiler, selectors.EVENT_READ, lambda probe=probe: self._compiled(probe))

    def _compiled(self, probe: Probe) -> None:
        compiler, _ = self._compiling.pop(probe.name)
        self._selector.unregister(compiler)
        try:
            loaded, fds, _ = compiler.result()
        except ExporterError as error:
            self._failed(probe, error)
        else:
            self._adopt(probe, loaded, fds)
        self._start_compiling()
        self._tell_statuses()

    def _failed(self, probe: Probe, error: ExporterError) -> None:
        words = "\n".join(getattr(error, "__notes__", []))
        details = "\n".join(filter(None, [error.details if isinstance(error, ProbeError) else "", words]))
        reason = load.reason(error, words)
        tried = error.tried if isinstance(error, NothingHolds) else ()
        self._set(probe.name, state="failed", reason=reason[:2000], details=details[-MAX_DETAILS:], tried=tried)
        log.error("probe %s: failed: %s", probe.name, reason)

    def _adopt(self, probe: Probe, loaded: Loaded, fds: list[int]) -> None:
        shared = len(loaded.maps) + len(loaded.programs) + len(loaded.links)
        held = _Held(probe, loaded, fds[:shared])
        last = len(fds) - loaded.on_each_cpu
        hold(fds[shared:last])
        hold(fds[last:], share=loaded.on_each_cpu)  # of these the kernel lets go at once
        if probe.interfaces:
            programs = fds[len(loaded.maps) : len(loaded.maps) + len(loaded.programs)]
            held.xdp = [XdpAttachments(program, probe.interfaces, probe.mode) for program in programs]
        self._share_symbols(held)
        self._held[probe.name] = held
        self._set(
            probe.name,
            state="running",
            mechanism=loaded.mechanism,
            tried=loaded.tried,
            attachments=loaded.attachments,
            misses_unknown=loaded.misses_unknown,
        )
        for attempt in loaded.tried:
            log.info("probe %s: %s; using %s", probe.name, attempt.reason, loaded.mechanism)
        self._update_interfaces(held)
        self._look_at = time.monotonic() + RETRY_SECONDS if self._degraded() else math.inf
        self._give(held)

    def _share_symbols(self, newest: _Held) -> None:
        """Keeps one table of the kernel's symbols, the newest, for all probes that have one: it has some megabytes."""
        tables = [
            held.shared[held.loaded.maps.index(symbols.TABLE)]
            for held in (newest, *self._held.values())
            if symbols.TABLE in held.loaded.maps
        ]
        for older in tables[1:]:
            os.dup2(tables[0], older, inheritable=False)

    def _script_changed(self, runner: Runner) -> None:
        self._statuses[runner.probe.name] = runner.status
        self._give_script(runner)
        self._tell_statuses()

    def _set(self, name: str, **changes: object) -> None:
        self._statuses[name] = dataclasses.replace(self._statuses[name], **changes)  # type: ignore[arg-type]  # by name

    def _interfaces_changed(self) -> None:
        self._changes.clear()
        self._look_at = min(self._look_at, time.monotonic() + SETTLE_SECONDS)

    def _look_at_interfaces(self) -> None:
        before = dict(self._statuses)
        for held in self._held.values():
            self._update_interfaces(held)
        self._look_at = time.monotonic() + RETRY_SECONDS if self._degraded() else math.inf
        if self._statuses != before:
            self._tell_statuses()

    def _update_interfaces(self, held: _Held) -> None:
        if not held.xdp:
            return
        reasons = [reason for attachments in held.xdp for reason in attachments.update()]
        links = [
            (program, link)
            for program, attachments in zip(held.loaded.programs, held.xdp, strict=True)
            for link in attachments.links
        ]
        modes = sorted({link.mode for _, link in links})
        state, reason = "degraded" if reasons else "running", "; ".join(reasons)
        if (state, reason) != (self._statuses[held.probe.name].state, self._statuses[held.probe.name].reason):
            log.warning("probe %s: %s", held.probe.name, f"{state}: {reason}" if reason else state)
        self._set(
            held.probe.name,
            state=state,
            reason=reason,
            mechanism=f"xdp {'+'.join(modes)}" if modes else "xdp",
            attachments=tuple((program, f"xdp:{link.interface} ({link.mode})") for program, link in links),
        )

    # -- the worker

    def _start_worker(self) -> None:
        ours, theirs = Channel.pair()
        ours.socket.settimeout(SEND_SECONDS)
        start = worker.Start(self._plan.interval, self._loaded_at, self._restarts)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            worker.main(start, theirs, self._barrier, self._listening, self._keep_bpf, parent)
        theirs.close()
        self._worker_pid, self._channel = pid, ours
        self._worker_end = os.pidfd_open(pid)
        self._selector.register(self._worker_end, selectors.EVENT_READ, self._worker_ended)
        for held in self._held.values():
            self._give(held)
        for runner in self._runners:
            self._give_script(runner)
        self._tell_statuses()

    def _worker_ended(self) -> None:
        self._selector.unregister(self._worker_end)
        os.close(self._worker_end)
        _, status = os.waitpid(self._worker_pid, 0)
        self._worker_pid = 0
        assert self._channel is not None
        self._channel.close()
        self._channel = None
        self._restarts += 1
        self._ended_at = [at for at in self._ended_at if time.monotonic() - at < RESTARTS_SECONDS] + [time.monotonic()]
        if len(self._ended_at) > MAX_RESTARTS:
            raise StartError(f"the worker ended {len(self._ended_at)} times in {RESTARTS_SECONDS:.0f} s")
        log.error("the worker ended (%s); starting it again", _ending(status))
        self._start_worker()

    def _give(self, held: _Held) -> None:
        self._send(worker.Adopt(held.loaded), held.shared)

    def _give_script(self, runner: Runner) -> None:
        if runner.shared:
            self._send(worker.AdoptScript(runner.probe, runner.marker), runner.shared)

    def _tell_statuses(self) -> None:
        starting = any(runner.status.state == "starting" for runner in self._runners)
        settled = not self._waiting and not self._compiling and not starting
        self._send(worker.Statuses(tuple(self._statuses.values()), settled))
        if settled and not self._ready:
            self._ready = True
            self._announce()

    def _send(self, message: object, fds: list[int] | None = None) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(message, fds)
        except TimeoutError:  # it is stopped or stuck; half a message was sent
            log.error("the worker does not listen; ending it")
            os.kill(self._worker_pid, signal.SIGKILL)
        except OSError:  # it has just ended; its successor is told everything anew
            return

    def _announce(self) -> None:
        width = max(map(len, self._statuses))
        for status in self._statuses.values():
            state = f"{status.state} ({status.mechanism})" if status.mechanism else status.state
            log.info("%-*s  %-24s  %s", width, status.name, state, status.reason or status.purpose)
        hosts = [(f"[{host}]" if ":" in host else host or "localhost", port) for host, port in self._plan.listen]
        pages = dict.fromkeys(f"http://{host}:{port}/metrics" for host, port in hosts)
        log.info("metrics on %s", " ".join(pages))
        systemd.notify("READY=1")

    def _stop(self) -> None:
        systemd.notify("STOPPING=1")
        signal.set_wakeup_fd(-1)
        for compiler, _ in self._compiling.values():
            compiler.kill()
        for runner in self._runners:
            runner.kill()
        for runner in self._runners:
            runner.wait()
        if not self._worker_pid:
            return
        if self._channel is not None:
            self._channel.close()  # to the worker this is the end
        with selectors.DefaultSelector() as selector:
            selector.register(self._worker_end, selectors.EVENT_READ)
            if not selector.select(STOP_SECONDS):
                os.kill(self._worker_pid, signal.SIGKILL)
        os.waitpid(self._worker_pid, 0)


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"code {code}" if code >= 0 else signal.Signals(-code).name
