# SPDX-License-Identifier: Apache-2.0
"""What a host may refuse: system calls, and tracefs. A line says what to do, and whatever can run runs."""

import errno
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.daemon import COMMAND, Daemon, by, count, free_port

BPF, PERF_EVENT_OPEN = {"x86_64": (321, 298)}.get(platform.machine(), (280, 241))

# The words of this command are a system call's number, the error that it ends with, and a command: seccomp(2).
FORBIDDING = """
import ctypes, os, struct, sys
number, error = int(sys.argv[1]), int(sys.argv[2])
load, equal, ends = 0x20, 0x15, 0x06
code = [(load, 0, 0, 0), (equal, 0, 1, number), (ends, 0, 0, 0x50000 | error), (ends, 0, 0, 0x7fff0000)]
code = b"".join(struct.pack("=HBBI", *one) for one in code)
program = ctypes.create_string_buffer(struct.pack("HP", 4, ctypes.addressof(kept := ctypes.create_string_buffer(code))))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(22, 2, program):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[3], sys.argv[3:])
"""

WITHOUT_TRACEFS = 'mount -t tmpfs tmpfs /sys/kernel/debug; mount -t tmpfs -o ro tmpfs /sys/kernel/tracing; exec "$@"'


def forbidding(number: int, error: int) -> list[str]:
    """Returns what goes ahead of a command for which a system call ends with an error."""
    return [sys.executable, "-c", FORBIDDING, str(number), str(error)]


@pytest.mark.matrix
@pytest.mark.parametrize("command", ["run", "doctor"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            errno.EPERM,
            "bpf(2) is forbidden here: allow it in the unit's SystemCallFilter= or the container's seccomp profile",
        ),
        (errno.ENOSYS, "this kernel has no bpf(2): boot one with CONFIG_BPF_SYSCALL"),
    ],
)
def test_without_bpf_a_line_says_what_to_do(error: int, words: str, command: str, tmp_path: Path) -> None:
    """Whether a filter forbids the system call or the kernel has none: one line, exit 1."""
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"listen": [f"127.0.0.1:{free_port()}"], "probes": {"process_execs": {}}}))
    done = subprocess.run(
        [*forbidding(BPF, error), str(COMMAND), command, "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    [line] = done.stderr.splitlines()
    assert (done.returncode, line.partition("; before Linux 5.11")[0]) == (1, f"ebpf-exporter: {words}")


@pytest.mark.matrix
def test_without_perf_events_probes_fail_with_the_reason() -> None:
    """Each probe whose hooks are perf events says what was refused; what is no perf event runs."""
    prefix = forbidding(PERF_EVENT_OPEN, errno.EPERM)
    with Daemon({"file_opens": {}, "process_execs": {}}, prefix=prefix) as daemon:
        opens, execs = daemon.status("file_opens"), daemon.status("process_execs")
        assert "Traceback" not in daemon.log()
    hook = "tracepoint:syscalls:sys_exit_openat"
    assert opens["state"] == "failed"
    assert f"cannot attach to {hook}: Operation not permitted" in opens["reason"].split("; ")
    assert (execs["state"], execs["mechanism"]) == ("running", "rawtracepoint")


@pytest.mark.matrix
def test_execs_are_counted_where_tracefs_shows_nothing() -> None:
    """As on a kernel that is locked down: by the raw tracepoint, which needs no tracefs, and it says why not better."""
    with Daemon({"process_execs": {}}, prefix=["unshare", "--mount", "sh", "-c", WITHOUT_TRACEFS, "sh"]) as daemon:
        status = daemon.status("process_execs")
        before = count(daemon.samples(), "ebpf_process_execs_total", comm="true")
        for _ in range(13):
            subprocess.run(["/bin/true"], check=True)
        after = by(daemon.samples(), "comm", "ebpf_process_execs_total", user="root")
    assert (status["state"], status["mechanism"]) == ("running", "rawtracepoint")
    assert [attempt["mechanism"] for attempt in status["tried"]] == ["tracepoint"]
    assert status["tried"][0]["reason"] == "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing"
    assert after["true"] == before + 13
