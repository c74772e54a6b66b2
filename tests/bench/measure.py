# SPDX-License-Identifier: Apache-2.0
"""What the sections measure with: processor time, memory, time in BPF programs, and peers that run meanwhile."""

import json
import os
import re
import select
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from exporter.loader import headers
from tests.kernel.daemon import ROOT, Daemon

HERE = Path(__file__).parent
PROBES = HERE / "probes"
EMULATED = "EBPF_EXPORTER_TEST_EMULATED" in os.environ
DEFAULT: dict[str, dict[str, object]] = {  # as in config.yaml
    "file_io": {},
    "file_opens": {},
    "shell_commands": {},
    "process_execs": {},
    "xdp": {"interfaces": ["lo"]} if EMULATED else {},  # the virtual machine has no other
}
READY_SECONDS = 300.0 if EMULATED else 30.0  # a compile takes a second; emulated, a quarter of a minute
STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Aim:
    """What a figure shall be, what it was, and whether that is met."""

    what: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Result:
    """A section's table, in Markdown, and its aims."""

    table: str
    aims: tuple[Aim, ...] = ()


@dataclass(frozen=True)
class Bench:
    """Where the compiled programs and other passing files are, how often each figure is taken, and how long the soak
    is."""

    folder: Path
    times: int
    minutes: float

    @cached_property
    def peers(self) -> str:
        """peers.c, compiled."""
        return self.compiled(HERE / "peers.c", "-lbpf")

    @cached_property
    def workload(self) -> str:
        """The tests' workload.c, compiled."""
        return self.compiled(ROOT / "tests" / "kernel" / "workload.c")

    @cached_property
    def headers(self) -> str:
        """A tree that BCC's tools can be compiled against, where the kernel's headers are not installed; else ""."""
        if Path(f"/lib/modules/{os.uname().release}/build").exists():
            return ""
        # Those tools that need types alone get along with ours: vmlinux.h is included ahead of all these.
        tree = self.folder / "headers"
        shutil.copytree(headers.prepare(), tree)
        for name in ("uapi/linux/ptrace", "linux/sched", "linux/irq", "linux/irqdesc", "linux/interrupt"):
            file = tree / "include" / f"{name}.h"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return str(tree)

    def compiled(self, source: Path, *libraries: str) -> str:
        """Returns a program in C, compiled."""
        binary = self.folder / source.stem
        subprocess.run(["gcc", "-O2", "-w", "-o", binary, source, *libraries], check=True)
        return str(binary)

    def only(self, probe: str, mechanism: int) -> Path:
        """Returns a folder with a probe as shipped, but with one of its mechanisms alone."""
        declared = _declared(probe)
        declared["attach"] = mechanisms(probe)[mechanism]
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        (folder / f"{probe}.yaml").write_text(yaml.safe_dump(declared))
        shutil.copy(ROOT / "bpf" / f"{probe}.c", folder)
        return folder


def mechanisms(probe: str) -> list[Any]:
    """Returns how a probe can be attached, in the order in which it is tried."""
    attach = _declared(probe)["attach"]
    return attach if isinstance(attach, list) else [attach]


def _declared(probe: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "bpf" / f"{probe}.yaml").read_text()))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """[3, 1, 2] -> 2.0 (1.0 to 3.0)"""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(head: list[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def cpu_ms(*pids: int) -> float:
    """Returns the processor time that processes, of one thread each, have had so far."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e6


def pss_mb(*pids: int) -> float:
    """Returns the memory of processes, what they share counted once."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def processes(daemon: Daemon) -> list[int]:
    """Returns all processes of a daemon."""
    assert daemon.process is not None
    return descendants(daemon.process.pid)


def descendants(pid: int) -> list[int]:
    """Returns a process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in descendants(int(child)))]


def settle() -> None:
    """Between two scrapes a pause is forced by the exporter; here it shall not be in the figures."""
    time.sleep(1.0)


@dataclass(frozen=True)
class Program:
    """What the kernel tells of a BPF program, once its statistics are on."""

    run_time_ns: int
    runs: int


def programs() -> dict[int, Program]:
    """Returns all programs of this kernel, by their numbers."""
    out = subprocess.run(["bpftool", "prog", "show", "--json"], check=True, capture_output=True).stdout
    return {one["id"]: Program(one.get("run_time_ns", 0), one.get("run_cnt", 0)) for one in json.loads(out)}


class CannotRun(Exception):
    """A peer does not run on this machine; in its own words, why not."""


@dataclass(frozen=True)
class Peer:
    """A program of others: what it is called in a table, its command, and whether it does less than our probe."""

    name: str
    command: tuple[str, ...]
    less: bool = False


@contextmanager
def running(peer: Peer, bench: Bench) -> Iterator[int]:
    """A peer that runs meanwhile, from its first line of output on; its process. Raises CannotRun."""
    if not shutil.which(peer.command[0]):
        raise CannotRun("not installed")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if bench.headers:
        environment["BCC_KERNEL_SOURCE"] = bench.headers
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            peer.command, stdout=subprocess.PIPE, stderr=errors, bufsize=0, env=environment, start_new_session=True
        )
        assert process.stdout is not None
        reader = None
        try:
            said = select.select([process.stdout], [], [], READY_SECONDS)[0] and process.stdout.readline()
            if not said:  # they write a line when all is attached, or end
                _end(process)
                errors.seek(0)
                raise CannotRun(own_words(errors.read()))
            reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
            try:
                yield process.pid
            except CannotRun:
                if Path(f"/proc/{process.pid}/cmdline").read_bytes():
                    raise
                errors.seek(0)  # it has ended: some write that to their output
                raise CannotRun(own_words(errors.read() or said.decode())) from None
        finally:
            _end(process)
            process.stdout.close()
            if reader is not None:
                reader.wait(STOP_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def own_words(text: str) -> str:
    """Returns the line that says most: the first that tells of an error, else the last."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error:|failed|not found|Exception:|Error:", line)]
    return (errors or lines[-1:] or ["it ended without a word"])[0]
