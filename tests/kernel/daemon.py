# SPDX-License-Identifier: Apache-2.0
"""The real daemon as a user starts it, for tests: a config in, the page out."""

import http.client
import json
import os
import platform
import queue
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from exporter.loader import headers

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / "deploy" / "ebpf-exporter"
# the worker's capabilities, as a mask: before 5.19 CAP_BPF alone, where bpf(2) is not for everybody, as on Debian
WORKERS = 0 if headers.version(platform.release()) >= (5, 19, 0) else 1 << 39
LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
START_SECONDS = 300  # on an emulated machine; a real one takes two

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def free_port() -> int:
    """Returns a port that is free at 127.0.0.1 and ::1, none of those that connections are given for their own end."""
    first = int(LOCAL_PORTS.read_text().split()[0])
    for port in random.sample(range(10000, first), first - 10000):
        try:
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                with socket.socket(family) as probe:
                    probe.bind((address, port))
        except OSError:
            continue
        return port
    raise AssertionError("no port is free")


def count(samples: Samples, name: str, **labels: str) -> float:
    """Returns the sum over the series of a name that have these labels."""
    wanted = labels.items()
    return sum(value for (found, has), value in samples.items() if found == name and wanted <= dict(has).items())


def by(samples: Samples, label: str, name: str, **labels: str) -> dict[str, float]:
    """Returns sums by the values of one label, over the series of a name that have the other labels."""
    result: dict[str, float] = defaultdict(float)
    for (found, has), value in samples.items():
        own = dict(has)
        if found == name and labels.items() <= own.items():
            result[own[label]] += value
    return dict(result)


def parsed(page: str) -> Samples:
    """Returns a page's values; fails where it has a series twice."""
    result: Samples = {}
    for family in text_string_to_metric_families(page):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in result, key
            result[key] = sample.value
    return result


@contextmanager
def meanwhile(step: Callable[[], object], every: float = 0) -> Iterator[None]:
    """Takes a step again and again, every so many seconds, in a thread of its own, while the block runs."""
    over = threading.Event()

    def steps() -> None:
        while not over.wait(every):
            step()

    thread = threading.Thread(target=steps)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Daemon:
    """``ebpf-exporter run`` with a config, from READY=1 to its end."""

    def __init__(
        self, probes: Mapping[str, Any], folder: Path | None = None, prefix: Sequence[str] = (), **settings: Any
    ) -> None:
        """prefix is a command that ends in running the daemon's."""
        self.port = free_port()
        self._prefix = prefix
        self._temporary = tempfile.TemporaryDirectory()
        self._work = Path(self._temporary.name)
        self._settings: dict[str, Any] = {"listen": [f"127.0.0.1:{self.port}"], **settings}
        if folder is not None:
            self._settings["probe_folders"] = [str(folder)]
        self.config = self._work / "config.yaml"
        self.configure(probes)
        self._log = (self._work / "log").open("w+b")
        self.process: subprocess.Popen[bytes] | None = None
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def configure(self, probes: Mapping[str, Any], **settings: Any) -> None:
        """Writes the config, with the settings that it had but for these; it is read at the next reload."""
        self._settings |= settings
        self.config.write_text(json.dumps({"probes": dict(probes), **self._settings}))  # JSON is YAML

    def reload(self) -> subprocess.CompletedProcess[str]:
        """Runs ``ebpf-exporter reload``, to its end."""
        command = [str(COMMAND), "reload", "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS)

    def __enter__(self) -> Self:
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(self._work / "notify"))
        self._taking = threading.Thread(target=self._take_notifications)
        self._taking.start()
        self.process = subprocess.Popen(
            [*self._prefix, str(COMMAND), "run", "--config", str(self.config)],
            env={**os.environ, "NOTIFY_SOCKET": str(self._work / "notify")},
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self.wait_for_notification("READY=1")
        except AssertionError:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if error is not None:
            print(self.log())
        self._log.close()
        self._temporary.cleanup()

    def wait_for_notification(self, word: str) -> list[str]:
        """Returns what the daemon tells systemd, from what was not asked for yet up to what has this word."""
        assert self.process is not None
        told: list[str] = []
        for _ in range(START_SECONDS * 10):
            try:
                told.append(self._told.get(timeout=0.1))
            except queue.Empty:
                if self.process.poll() is not None:
                    break
                continue
            if word in told[-1]:
                return told
        raise AssertionError(f"systemd was not told {word}, but {told}:\n{self.log()}")

    def _take_notifications(self) -> None:
        while told := self._notified.recv(4096):
            self._told.put(told.decode())

    def forget_notifications(self) -> list[str]:
        """Returns what systemd was told and nobody asked for yet."""
        told: list[str] = []
        while not self._told.empty():
            told.append(self._told.get())
        return told

    def wait_for_log(self, words: str, times: int = 1) -> None:
        """Returns when these words are in the log so many times."""
        for _ in range(START_SECONDS * 10):
            if self.log().count(words) >= times:
                return
            time.sleep(0.1)  # a file tells nobody
        raise AssertionError(f"not logged: {words}\n{self.log()}")

    def _end(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self._notified.shutdown(socket.SHUT_RD)  # to the thread this is the end
        self._taking.join()
        self._notified.close()

    def kill(self) -> None:
        """Ends it as kill -9 does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return (self._work / "log").read_text(errors="backslashreplace")

    def get(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        """Returns an answer and its body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def page(self) -> str:
        response, body = self.get("/metrics")
        assert response.status == 200, body
        return body.decode()

    def samples(self) -> Samples:
        """Returns the page's values; fails where it has a series twice."""
        return parsed(self.page())

    def status(self, probe: str) -> dict[str, Any]:
        """Returns what /probes says of a probe."""
        found = json.loads(self.get("/probes")[1])["probes"]
        return next(dict(status) for status in found if status["name"] == probe)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Asks again and again, as a scraper does, until a condition holds."""
        for _ in range(600):
            if condition():
                return
            self.get("/metrics")  # takes a read's time
        raise AssertionError(f"never came: {what}\n{self.log()}")

    def worker_pid(self) -> int:
        return self.child_pid("ebpf-exp-worker")

    def child_pid(self, comm: str) -> int:
        """Returns the supervisor's child of this name."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == f"{comm}\n")
