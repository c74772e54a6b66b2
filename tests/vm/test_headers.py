# SPDX-License-Identifier: Apache-2.0
"""A kernel without BTF, in a machine where it can be hidden: with its headers installed, and without."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.kernel.conftest import Workload, workload, workload_binary
from tests.kernel.daemon import Daemon, by, count

__all__ = ["workload", "workload_binary"]  # fixtures

RELEASE = os.uname().release
BUILD = Path(f"/lib/modules/{RELEASE}/build")
AWAY = BUILD.with_name("build.away")  # where tests/vm/inside puts it, so that all other tests are without headers


@pytest.fixture(autouse=True)
def _without_btf() -> Iterator[None]:
    btf = "/sys/kernel/btf"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", btf], check=True)
    yield
    subprocess.run(["umount", btf], check=True)


@contextmanager
def headers() -> Iterator[None]:
    AWAY.rename(BUILD)
    try:
        yield
    finally:
        BUILD.rename(AWAY)


@contextmanager
def blocked_readers(daemon: Daemon, processes: int) -> Iterator[None]:
    """So many processes are in a read(2) that began after the probes were there."""
    with ExitStack() as stack:
        reader, writer = os.pipe()
        waiting = [stack.enter_context(subprocess.Popen(["cat"], stdin=reader)) for _ in range(processes)]
        os.close(reader)
        calls = [Path(f"/proc/{one.pid}/syscall") for one in waiting]
        daemon.wait_for(lambda: all(call.read_text().startswith("0 0x0 ") for call in calls), "all to be in read(2)")
        yield
        os.close(writer)


def test_installed_headers_serve_where_there_is_no_btf(tmp_path: Path, workload: Workload) -> None:
    """Opens and bytes are exact against the kernel's headers as well, and with many readers that wait for more: fexit
    wants BTF, and a kretprobe that is no link has no room for them all.
    """
    (tmp_path / "file").write_bytes(bytes(1009))
    with headers(), Daemon({"file_opens": {}, "file_io": {}}) as daemon, blocked_readers(daemon, 24):
        workload("opener-h", "opens", tmp_path, 16, 7)
        (tmp_path / "file").write_bytes(bytes(1009))
        workload("reader-h", "reads", tmp_path / "file", 1009)
        samples = daemon.samples()
        status = daemon.status("file_io")
    assert by(samples, "result", "ebpf_file_opens_total", comm="opener-h") == {"ok": 16, "ENOENT": 5, "EISDIR": 2}
    assert count(samples, "ebpf_file_io_bytes_total", comm="reader-h", file="file") == 1009
    assert (status["state"], status["mechanism"]) == ("running", "tracepoint")
    assert status["tried"][0]["reason"] == "fexit:vfs_read: this kernel has no BTF of a function vfs_read"


def test_without_either_the_package_to_install_is_named() -> None:
    """Neither BTF nor headers: the probe says which package it wants."""
    with Daemon({"file_opens": {}}) as daemon:
        status = daemon.status("file_opens")
    assert status["state"] == "failed"
    assert status["reason"] == (
        f"this kernel has no BTF (/sys/kernel/btf/vmlinux): install its headers, linux-headers-{RELEASE}"
    )
