# SPDX-License-Identifier: Apache-2.0
"""Boots an image in QEMU and runs commands inside.

The processors are emulated (no KVM), so that the machines run wherever QEMU does. A machine writes to its own copy of
the image. Nothing of it outlives the process that started it: QEMU dies with its parent, and the files that it needs
have no names. A machine that reboots does so in a new QEMU: one that resets its machine has hung, and has failed at an
assertion of its own (iotlb_to_section).

    MachineError
    ├── BootError               the machine did not come up
    ├── MachineStoppedError     it panicked, was powered off, or no longer answers
    └── CommandTimeoutError     a command ran for too long; the machine itself is fine
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from tests.vm.image import BuiltImage, emulator

BOOT_TIMEOUT = 900.0  # seconds; a boot takes 7 on two idle processors, and a test machine may have many
ANSWER_TIMEOUT = 60.0  # seconds that the agent may take, after a command's own time is over, to say so
CONSOLE_LINES = 60  # how much of the console an error shows: a panic and its call trace
CONSOLE_KEPT = 1000  # and has: those of all processors

KERNEL_PARAMETERS = (
    "root=/dev/nvme0n1 rw console=ttyS0 "
    # Only warnings and worse: an emulated serial line is slow.
    "loglevel=5 systemd.show_status=error "
    # A fault in the kernel ends the machine: it halts, and who reads the console sees why.
    "oops=panic panic=0 "
    # An emulated processor that the host does not run for a while is no lockup.
    "nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "
    # There is nobody to keep from speculating, and each workaround costs when emulated.
    "mitigations=off"
)

PANIC = "Kernel panic - not syncing"
# A breakpoint that the kernel has taken away again, and that a processor still runs into: QEMU 7.2 with a thread for
# each processor may go on with code that another has just changed (mended in 8.1). Kernels change theirs as they run.
STALE_BREAKPOINT = "int3: 0000 ["
FAILED_ASSERTION = re.compile(r"qemu-system-\w+: .* Assertion `")  # QEMU's own last words
PANIC_SECONDS = 10.0  # for what a kernel still says; the last line, that the panic is over, some do not come to

# Histories, caches and build products: of no use inside, and large.
NOT_COPIED = frozenset({".git", "__pycache__", "node_modules"})
NOT_COPIED_SUFFIXES = ("_cache", ".egg-info")


class MachineError(Exception):
    """Something went wrong with a machine: `reason`, and `console`, the last lines that it wrote to its console."""

    def __init__(self, reason: str, console: tuple[str, ...]) -> None:
        self.reason = reason
        self.console = console
        shown = "\n".join(f"  | {line}" for line in console[-CONSOLE_LINES:]) or "  | (nothing)"
        super().__init__(f"{reason}\nthe last lines of the console:\n{shown}")

    @property
    def of_emulator(self) -> bool:
        """Whether the machine ended for what no processor does: nothing that ran inside can be judged by it."""
        return any(STALE_BREAKPOINT in line or FAILED_ASSERTION.match(line) for line in self.console)


class BootError(MachineError):
    """The machine did not come up."""


class MachineStoppedError(MachineError):
    """The machine panicked, was powered off, or no longer answers."""


class CommandTimeoutError(MachineError):
    """A command was still running at its timeout and has been killed. `output` holds what it had written until then."""

    def __init__(self, reason: str, console: tuple[str, ...], output: str) -> None:
        self.output = output
        super().__init__(reason, console)


@dataclass(frozen=True)
class Result:
    """How a command ended.

    `returncode` is that of the shell (negative: the number of the signal that killed it), `output` what was written to
    standard output and standard error, as it came.
    """

    returncode: int
    output: str


class Machine:
    """A running machine: entering the context boots it, leaving the context ends it.

    What is in `folder`, if given, is copied to `folder_in_guest`, histories and caches left out. `parameters` are for
    the kernel, besides those that it always has. With `show_console` the console is copied to standard error. Enter it
    from the main thread: QEMU ends with the thread that started it.
    """

    def __init__(
        self,
        image: BuiltImage,
        folder: Path | None = None,
        folder_in_guest: str = "/root/ebpf-exporter",
        show_console: bool = False,
        parameters: str = "",
    ) -> None:
        self._image = image
        self._folder = folder
        self._folder_in_guest = folder_in_guest
        self._show_console = show_console
        self._parameters = f"{KERNEL_PARAMETERS} {parameters}"
        self._cpu_seconds = 0.0
        self._cpu_seconds_before = 0.0  # of the QEMUs that have ended
        self._console: collections.deque[str] = collections.deque(maxlen=CONSOLE_KEPT)
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Boot the machine; return when systemd has started everything and `folder` is in place.

        Raises BootError.
        """
        with contextlib.ExitStack() as resources:
            self._disk = resources.enter_context(_copy(self._image.disk))
            try:
                self._start_qemu(resources, self._folder)
                self._wait_until_up()
                self._copy_folder()
            except (CommandTimeoutError, MachineStoppedError) as error:
                raise BootError(f"the machine did not boot: {error.reason}", error.console) from error
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the machine at once, without a shutdown: all that it has written is thrown away."""
        self._resources.close()

    def run(self, command: str, timeout: float, live: bool = False) -> Result:
        """Run `command` with bash, as root, in /root, with nothing on its standard input.

        `timeout` is in seconds. With `live` the command's output is also copied to standard output as it comes.
        Raises CommandTimeoutError and MachineStoppedError.
        """
        self._ask(command, timeout)
        deadline = time.monotonic() + timeout + ANSWER_TIMEOUT
        output = bytearray()
        while True:
            kind, payload = self._receive(deadline)
            if kind == b"O":
                output += payload
                if live:
                    sys.stdout.buffer.write(payload)
                    sys.stdout.buffer.flush()
                continue
            text = output.decode(errors="replace")
            if kind == b"X":
                return Result(returncode=int(payload), output=text)
            raise CommandTimeoutError(f"still running after {timeout:g} s: {command}", tuple(self._console), text)

    @property
    def cpu_seconds(self) -> float:
        """The processor time that the machine has had when it was last asked for: of a busy host the only measure."""
        with contextlib.suppress(FileNotFoundError):  # it has ended
            # the name, in brackets, may have blanks; utime and stime are the 14th and 15th column
            columns = Path(f"/proc/{self._qemu.pid}/stat").read_text().rpartition(")")[2].split()
            self._cpu_seconds = (int(columns[11]) + int(columns[12])) / os.sysconf("SC_CLK_TCK")
        return self._cpu_seconds_before + self._cpu_seconds

    def reboot(self) -> None:
        """Shut the system down and start it again; what was written stays. Raises BootError."""
        try:
            self._ask("systemctl reboot", BOOT_TIMEOUT)
            self._await_end()
            self._start_qemu(self._resources, None)
            self._wait_until_up()
        except (CommandTimeoutError, MachineStoppedError) as error:
            raise BootError(f"the machine did not boot again: {error.reason}", error.console) from error

    def _await_end(self) -> None:
        """Return when QEMU has ended as it should. Raises MachineStoppedError."""
        deadline = time.monotonic() + BOOT_TIMEOUT
        try:
            # The agent that goes down may still tell how the command ended, or not.
            while True:
                self._receive(deadline)
        except MachineStoppedError:
            if self._qemu.poll() != 0:
                raise
        self._cpu_seconds_before, self._cpu_seconds = self.cpu_seconds, 0.0

    def _ask(self, command: str, timeout: float) -> None:
        request = json.dumps({"command": command, "timeout": timeout})
        try:
            self._agent.sendall(f"{request}\n".encode())
        except OSError as error:
            raise self._stopped() from error

    def _start_qemu(self, resources: contextlib.ExitStack, folder: Path | None) -> None:
        self._agent, agent_of_qemu = socket.socketpair()
        resources.enter_context(self._agent)
        with agent_of_qemu, tempfile.TemporaryFile() as archive:
            _write_archive(folder, archive)
            files = agent_of_qemu.fileno(), archive.fileno(), self._disk.fileno()
            self._qemu = subprocess.Popen(
                _qemu_command(self._image.kernel, self._parameters, *files),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=files,
            )
        resources.callback(self._qemu.wait)
        resources.callback(self._qemu.kill)
        self._console_reader = threading.Thread(target=self._read_console, name="console", daemon=True)
        self._console_reader.start()

    def _read_console(self) -> None:
        assert self._qemu.stdout is not None
        with self._qemu.stdout as console:
            for raw in console:
                line = "".join(char for char in raw.decode(errors="replace") if char.isprintable())
                self._console.append(line)
                if self._show_console:
                    print(f"console: {line}", file=sys.stderr, flush=True)
                if PANIC in line:
                    end = threading.Timer(PANIC_SECONDS, self._qemu.kill)
                    end.daemon = True
                    end.start()

    def _wait_until_up(self) -> None:
        kind, _ = self._receive(time.monotonic() + BOOT_TIMEOUT)
        assert kind == b"R", kind
        self._settle()

    def _settle(self) -> None:
        # Ends with a failure if some unit failed. Whether that matters is for the tests to say.
        self.run("systemctl is-system-running --wait", BOOT_TIMEOUT)

    def _copy_folder(self) -> None:
        if self._folder is None:
            return
        folder = shlex.quote(self._folder_in_guest)
        command = f"udevadm wait /dev/vda && mkdir -p {folder} && tar --extract --file=/dev/vda --directory={folder}"
        copied = self.run(command, BOOT_TIMEOUT)
        if copied.returncode != 0:
            raise BootError(f"cannot copy {self._folder} into the machine: {copied.output}", tuple(self._console))

    def _receive(self, deadline: float) -> tuple[bytes, bytes]:
        """Return the kind and the payload of the agent's next frame; see agent.py."""
        kind, length = struct.unpack(">cI", self._receive_exactly(5, deadline))
        return kind, self._receive_exactly(length, deadline)

    def _receive_exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            # A timeout of 0 would mean 'do not block'.
            self._agent.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                chunk = self._agent.recv(size - len(data))
            except TimeoutError as error:
                raise MachineStoppedError("the machine has not answered in time", tuple(self._console)) from error
            except OSError as error:
                raise self._stopped() from error
            if not chunk:
                raise self._stopped()
            data += chunk
        return bytes(data)

    def _stopped(self) -> MachineStoppedError:
        """Return the error for a QEMU that has closed its end of the agent's line, or is about to."""
        status = self._qemu.wait(ANSWER_TIMEOUT)
        # The panic's own words are the last that QEMU writes.
        self._console_reader.join(ANSWER_TIMEOUT)
        console = tuple(self._console)
        panics = [line for line in console if "Kernel panic" in line]
        reason = panics[0] if panics else f"the machine has ended (exit status {status} of QEMU)"
        return MachineStoppedError(reason, console)


def _copy(path: Path) -> BinaryIO:
    """Return a copy of a file, holes left as they are; it has no name."""
    with tempfile.NamedTemporaryFile(dir=os.environ.get("TMPDIR", "/var/tmp")) as named:  # /tmp may be memory
        subprocess.run(["cp", path, named.name], check=True)
        return Path(named.name).open("rb+")


def _qemu_command(kernel: Path, parameters: str, agent: int, archive: int, disk: int) -> list[str]:
    """Return the command that boots `kernel`, with its parameters, and the file descriptors of the agent's line, the
    archive and the disk."""
    return [
        # A parent that is killed cannot end QEMU itself.
        *("setpriv", "--pdeathsig", "KILL"),
        *emulator(),
        *("-accel", "tcg,thread=multi"),
        *("-machine", "q35"),
        # Without what no test uses: nested machines, and a fifth level of page tables to walk. Without cmpxchg16b, of
        # which QEMU 7.2 gets the flags wrong where it is not locked: Linux has it so in its allocator since 6.5.
        *("-cpu", "max,svm=off,la57=off,cx16=off"),
        *("-smp", "2"),
        *("-m", "2G"),
        *("-nodefaults", "-display", "none"),
        "-no-reboot",
        *("-kernel", str(kernel)),
        *("-append", parameters),
        *("-chardev", "stdio,id=console,signal=off"),
        *("-serial", "chardev:console"),
        *("-drive", f"if=none,id=root,format=raw,cache=unsafe,file=/proc/self/fd/{disk}"),
        *("-device", "nvme,serial=root,drive=root"),
        *("-drive", f"if=none,id=archive,format=raw,readonly=on,file=/proc/self/fd/{archive}"),
        *("-device", "virtio-blk-pci,drive=archive"),
        *("-chardev", f"socket,id=agent,fd={agent}"),
        *("-device", "virtio-serial-pci"),
        *("-device", "virtserialport,name=agent,chardev=agent"),
    ]


def _write_archive(folder: Path | None, archive: BinaryIO) -> None:
    """Write a tar archive of `folder` (of nothing, for None).

    All in it is root's; it is in blocks that make a whole disk.
    """

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = Path(member.name)
        if path.name in NOT_COPIED or path.name.endswith(NOT_COPIED_SUFFIXES):
            return None
        if folder is not None and (folder / path / "pyvenv.cfg").exists():
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with tarfile.open(fileobj=archive, mode="w") as tar:
        if folder is not None:
            tar.add(folder, arcname=".", filter=wanted)
    archive.flush()
