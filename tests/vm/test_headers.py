# SPDX-License-Identifier: Apache-2.0
"""A kernel without BTF, in a machine where it can be hidden: with its headers installed, and without."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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


def test_installed_headers_serve_where_there_is_no_btf(tmp_path: Path, workload: Workload) -> None:
    """Opens and bytes are exact against the kernel's headers as well, by kprobes: fexit wants BTF."""
    (tmp_path / "file").write_bytes(bytes(1009))
    with headers(), Daemon({"file_opens": {}, "file_io": {}}) as daemon:
        workload("opener-h", "opens", tmp_path, 16, 7)
        (tmp_path / "file").write_bytes(bytes(1009))
        workload("reader-h", "reads", tmp_path / "file", 1009)
        samples = daemon.samples()
        status = daemon.status("file_io")
    assert by(samples, "result", "ebpf_file_opens_total", comm="opener-h") == {"ok": 16, "ENOENT": 5, "EISDIR": 2}
    assert count(samples, "ebpf_file_io_bytes_total", comm="reader-h", file="file") == 1009
    assert (status["state"], status["mechanism"]) == ("running", "kprobe+kretprobe")
    assert [attempt["reason"] for attempt in status["tried"]] == [
        "fexit:vfs_read: this kernel has no BTF of a function vfs_read"
    ]


def test_without_either_the_package_to_install_is_named() -> None:
    """Neither BTF nor headers: the probe says which package it wants."""
    with Daemon({"file_opens": {}}) as daemon:
        status = daemon.status("file_opens")
    assert status["state"] == "failed"
    assert status["reason"] == (
        f"this kernel has no BTF (/sys/kernel/btf/vmlinux): install its headers, linux-headers-{RELEASE}"
    )
