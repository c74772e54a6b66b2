# SPDX-License-Identifier: Apache-2.0
"""Runs shell commands for the host. This file is copied into the image and runs inside the machine, as root.

The host and the agent speak over a virtio serial port. The host sends one command at a time, as a line of JSON:

    {"command": "uname -r", "timeout": 60.0}

The agent answers with frames, each a kind (1 byte), a length (4 bytes, big-endian) and that many bytes:

    R                   once, when the agent is ready
    O <bytes>           a piece of what the command wrote, standard output and standard error as they came
    X <decimal digits>  the command has ended, with this return code (negative: the number of the signal that killed it)
    T                   the command was still running at its timeout; it and its process group have been killed
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import time

PORT = "/dev/virtio-ports/agent"
CHUNK = 65536  # bytes; the capacity of a pipe, see pipe(7)


def main() -> None:
    """Serve the host's commands until the machine goes down."""
    port = os.open(PORT, os.O_RDWR)
    _send(port, b"R")
    pending = b""
    while chunk := os.read(port, CHUNK):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            request = json.loads(line)
            _serve(port, request["command"], request["timeout"])
    raise SystemExit("the host has closed its end")


def _serve(port: int, command: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    process = subprocess.Popen(
        ["/bin/bash", "-c", command],
        cwd="/root",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as stream:
        output = stream.fileno()
        os.set_blocking(output, False)
        ended = _forward(port, output, process.pid, deadline)
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        returncode = process.wait()
        # What is left in the pipe, in one piece, for a pipe holds no more than CHUNK. Its end is not waited for: a
        # process put in the background may hold it open for long.
        if chunk := _read(output):
            _send(port, b"O", chunk)
    if ended:
        _send(port, b"X", str(returncode).encode())
    else:
        _send(port, b"T")


def _forward(port: int, output: int, pid: int, deadline: float) -> bool:
    """Send on what the process writes until it ends (True) or the deadline passes (False)."""
    process = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.register(output, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(poll.poll(left * 1000))
            if output in ready:
                if chunk := _read(output):
                    _send(port, b"O", chunk)
                elif ready[output] & select.POLLHUP:
                    poll.unregister(output)
            elif process in ready:
                return True
        return False
    finally:
        os.close(process)


def _read(output: int) -> bytes:
    """Return what can be read without waiting; nothing, at the end of the stream and when there is nothing yet."""
    try:
        return os.read(output, CHUNK)
    except BlockingIOError:
        return b""


def _send(port: int, kind: bytes, payload: bytes = b"") -> None:
    data = kind + struct.pack(">I", len(payload)) + payload
    while data:
        data = data[os.write(port, data) :]


if __name__ == "__main__":
    main()
