# SPDX-License-Identifier: Apache-2.0
"""Kernels, userlands and what they lack: a cell is one of them, in a machine of its own.

In each the program is installed as users install it, started, used, rebooted, tested, examined, stopped and removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import hashlib
import json
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.vm.image import IMAGES, built, emulator
from tests.vm.machine import CommandTimeoutError, Machine, MachineError

IN_GUEST = "/root/ebpf-exporter"
STEP_SECONDS = 900.0
ATTEMPTS = 3  # of a cell whose machine the emulator brings down
PR_SET_PDEATHSIG = 1

ESSENTIAL = frozenset({"boot", "prepare", "install", "reboot"})  # steps without which there is no sense in the next

# the probes of the config that is shipped
ALL = ("file_io", "file_opens", "shell_commands", "process_execs", "xdp")

_SUMMARY = re.compile(r"\d+ (?:passed|failed|error).* in [\d.]+s")  # pytest's last line

VERSIONS = r"""
uname -r; . /etc/os-release; echo "$PRETTY_NAME"; python3 --version | cut -d' ' -f2
python3 -c 'from bcc import __version__; print(__version__)'
"""


@dataclass(frozen=True)
class Cell:
    """An image, and what of it is taken away or asked of its kernel. running are the probes that are to run there.

    tests are those of tests/kernel that pass there, but for those that are the same anywhere; none, where no probe can
    run that they want. Of a brief cell, those of the whole matrix are left out.
    """

    image: str
    headers: bool = False
    btf: bool = True
    parameters: str = ""
    running: tuple[str, ...] = ALL
    tests: tuple[str, ...] = ("tests/kernel",)
    brief: bool = False

    @property
    def name(self) -> str:
        lacking = ("+headers" if self.headers else "") + ("" if self.btf else "-btf")
        return self.image + lacking + (f"+{self.parameters}" if self.parameters else "")


def _cells() -> Iterator[Cell]:
    for image in ("debian-12-bullseye", "debian-12", "debian-13", "debian-12-backports", "debian-sid"):
        # and upgrades, configs and faults under systemd, on one of them
        yield Cell(image, tests=("tests/kernel", "tests/vm")) if image == "debian-12" else Cell(image)
        yield Cell(image, headers=True, brief=True)  # where there is BTF, nothing is made of the headers
    # without BTF, kernel functions have no arguments that are known
    yield Cell("debian-12-bullseye", headers=True, btf=False, tests=("tests/kernel/test_file_io.py",))
    yield Cell("debian-12-bullseye", btf=False, running=(), tests=())
    # what looks at nothing in the kernel's memory; shell_commands asks it when a process began
    for image in ("debian-12-bullseye", "debian-sid"):
        yield Cell(image, parameters="lockdown=confidentiality", running=("process_execs", "xdp"), tests=())


CELLS = {cell.name: cell for cell in _cells()}


@dataclass
class Outcome:
    """What became of a cell: by its steps ok or failed, and the processor time it took until then, in seconds.

    date is when its last attempt began, in UTC. program is what was tested: a digest. doctor is what that printed
    there. seconds are of the clock. tests is how many passed. failures has what failed steps said. attempt counts
    from 1; of_emulator says that the machine ended for the emulator's own fault, so that there is sense in another.
    """

    cell: str
    date: str = ""
    program: str = ""
    kernel: str = ""
    userland: str = ""
    python: str = ""
    bcc: str = ""
    steps: dict[str, tuple[bool, float]] = field(default_factory=dict)
    tests: str = ""
    failures: str = ""
    seconds: float = 0.0
    doctor: dict[str, Any] = field(default_factory=dict)
    attempt: int = 1
    of_emulator: bool = False

    @property
    def good(self) -> bool:
        return bool(self.steps) and all(good for good, _ in self.steps.values())

    @property
    def line(self) -> str:
        _, cpu = list(self.steps.values())[-1]
        failed = [name for name, (good, _) in self.steps.items() if not good]
        verdict = "ok" if self.good else f"FAILED: {' '.join(failed)}"
        versions = f"{self.kernel:30} {self.bcc:8} {self.python:8}"
        took = f"{self.seconds / 60:5.1f} min (CPU {cpu / 60:4.1f})"
        again = f"; attempt {self.attempt}, the emulator failed before" if self.attempt > 1 else ""
        return f"{self.cell:45} {versions} {took}  {verdict}; {self.tests or 'no tests'}{again}"


class _Failed(Exception):
    """A step of a cell did not do what it should: what it said."""


def run(cells: list[Cell], checkout: Path, logs: Path, jobs: int, tests_seconds: float) -> Iterator[Outcome]:
    """Yields what became of each cell, as they end; so many run at once.

    logs is a folder, and has what was said, a file a cell. tests_seconds is how long a cell's tests may take.
    """
    logs.mkdir(parents=True, exist_ok=True)
    emulator()
    for name in dict.fromkeys(cell.image for cell in cells):  # one after the other: they would share the network
        built(IMAGES[name])
    pool = ProcessPoolExecutor(jobs, initializer=_die_with_parent)
    try:
        for future in as_completed(pool.submit(_run, cell, checkout, logs, tests_seconds) for cell in cells):
            yield future.result()
    finally:  # who ends the run wants no further cell
        pool.shutdown(cancel_futures=True)


def program(checkout: Path) -> str:
    """Returns what a cell installs and tests, as a digest: a row of the table is of no other."""
    digest = hashlib.sha256()
    for folder in ("exporter", "bpf", "deploy"):
        for path in sorted((checkout / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".deb":
                digest.update(f"{path.relative_to(checkout)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _run(cell: Cell, checkout: Path, logs: Path, tests_seconds: float) -> Outcome:
    for attempt in range(1, ATTEMPTS + 1):
        outcome = _attempt(cell, checkout, logs, tests_seconds, attempt)
        if not outcome.of_emulator:
            break
    return outcome


def _attempt(cell: Cell, checkout: Path, logs: Path, tests_seconds: float, attempt: int) -> Outcome:
    today = f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"
    outcome = Outcome(cell.name, today, program(checkout), attempt=attempt)
    began = time.monotonic()
    with (
        (logs / f"{cell.name}.log").open("w" if attempt == 1 else "a", buffering=1) as log,
        contextlib.ExitStack() as resources,
    ):
        machine = Machine(built(IMAGES[cell.image]), checkout, IN_GUEST, parameters=cell.parameters)
        for name, does in _steps(cell, machine, resources, outcome, tests_seconds):
            log.write(f"== {name}\n")
            words, good = "", False
            try:
                words, good = does(), True
            except CommandTimeoutError as error:
                words = f"{error.output}\n{error}"
            except MachineError as error:
                words, outcome.of_emulator = str(error), error.of_emulator
            except _Failed as error:
                words = str(error)
            outcome.steps[name] = good, machine.cpu_seconds
            log.write(f"{words}\n")
            if name == "tests":
                outcome.tests = next(filter(_SUMMARY.match, reversed(words.splitlines())), "")
            if not good:
                outcome.failures += f"== {cell.name}: {name}\n{words}\n"
            if outcome.of_emulator or (not good and name in ESSENTIAL):
                break
    outcome.seconds = time.monotonic() - began
    return outcome


def _steps(
    cell: Cell, machine: Machine, resources: contextlib.ExitStack, outcome: Outcome, tests_seconds: float
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yields the steps of a cell, by their names."""

    def told(command: str, seconds: float = STEP_SECONDS) -> str:
        result = machine.run(f"cd {IN_GUEST} && {command}", seconds)
        if result.returncode:
            raise _Failed(f"{result.output}\nexit status {result.returncode}")
        return result.output

    def step(*words: str) -> Callable[[], str]:
        return lambda: told(f"python3 -m tests.vm.cell {shlex.join(words)}")

    def boot() -> str:
        resources.enter_context(machine)
        outcome.kernel, outcome.userland, outcome.python, outcome.bcc = told(VERSIONS).splitlines()
        return f"{outcome.kernel}, {outcome.userland}, Python {outcome.python}, BCC {outcome.bcc}"

    def reboot() -> str:
        machine.reboot()
        return ""

    def doctor() -> str:
        said = step("doctor", *cell.running)()
        outcome.doctor = json.loads(said)
        return said

    lacking = [] if cell.headers else ["--no-headers"]
    lacking += [] if cell.btf else ["--no-btf"]
    yield "boot", boot
    yield "prepare", step("prepare", *lacking)
    yield "install", step("install")
    yield "start", step("start", *cell.running)
    yield "values", step("values", *cell.running)
    yield "reboot", reboot
    yield "again", step("values", *cell.running)
    yield "stop", step("stop")
    yield "doctor", doctor
    yield "remove", step("remove")
    if cell.tests:
        marks = "not anywhere and not matrix" if cell.brief else "not anywhere"
        yield "tests", lambda: told(f"CELL=1 tests/vm/inside -m '{marks}' {shlex.join(cell.tests)}", tests_seconds)
