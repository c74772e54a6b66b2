# SPDX-License-Identifier: Apache-2.0
"""The probe file_io against known bytes: all its mechanisms have to say the same."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kernel.conftest import Workload, lacks
from tests.kernel.daemon import ROOT, Daemon, by, count

BYTES, OPERATIONS, LATENCY = (
    "ebpf_file_io_bytes_total",
    "ebpf_file_io_operations_total",
    "ebpf_file_io_latency_seconds",
)
# one after the other as in the YAML; a mechanism is named by its hooks, fentry only where latency is counted
MECHANISMS = ("fexit", "kprobe+kretprobe", "tracepoint", "tracepoint-entries")
EVERYTHING = [BYTES, OPERATIONS, LATENCY]
PRIME = 1_000_003


def only(mechanism: str, folder: Path) -> Path:
    """Returns a folder with file_io as shipped, but for its other mechanisms."""
    declared: dict[str, Any] = yaml.safe_load((ROOT / "bpf" / "file_io.yaml").read_text())
    declared["attach"] = [declared["attach"][MECHANISMS.index(mechanism)]]
    folder.mkdir()
    (folder / "file_io.yaml").write_text(yaml.safe_dump(declared))
    shutil.copy(ROOT / "bpf" / "file_io.c", folder)
    return folder


def require(daemon: Daemon, mechanism: str) -> None:
    status = daemon.status("file_io")
    if status["state"] == "failed":
        lacks(mechanism, status["reason"])
    shown = mechanism.removesuffix("-entries")
    assert (status["state"], status["mechanism"].removeprefix("fentry+")) == ("running", shown)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_bytes_are_what_was_returned(mechanism: str, tmp_path: Path, workload: Workload) -> None:
    """1,000,003 bytes in odd pieces, by all read and all write calls, are counted by file, to the last one."""
    source, target = tmp_path / "source.bin", tmp_path / "target.bin"
    source.write_bytes(bytes(PRIME))
    with Daemon({"file_io": {"metrics": EVERYTHING}}, folder=only(mechanism, tmp_path / "probes")) as daemon:
        require(daemon, mechanism)
        before = daemon.samples()
        read = workload("io-worker", "reads", source, PRIME)
        written = workload("io-worker", "writes", target, PRIME)
        workload("io-worker", "bad-calls", source)
        after = daemon.samples()
    assert read["bytes"] == written["bytes"] == PRIME
    assert by(after, "op", BYTES, comm="io-worker", file="source.bin") == {"read": PRIME}
    assert by(after, "op", BYTES, comm="io-worker", file="target.bin") == {"write": PRIME}
    assert by(after, "op", OPERATIONS, comm="io-worker", file="source.bin") == {"read": read["calls"]}
    assert by(after, "op", OPERATIONS, comm="io-worker", file="target.bin") == {"write": written["calls"]}
    # every operation is in the histogram too; other processes' also, so: as many as operations, in all
    for op in ("read", "write"):
        operations = count(after, OPERATIONS, op=op) - count(before, OPERATIONS, op=op)
        assert count(after, f"{LATENCY}_count", op=op) - count(before, f"{LATENCY}_count", op=op) == operations


@pytest.mark.matrix
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_without_latency_the_bytes_are_the_same(mechanism: str, tmp_path: Path, workload: Workload) -> None:
    """Where only bytes by file are wanted, nothing else is on the page and the bytes are exact."""
    source = tmp_path / "plain.bin"
    source.write_bytes(bytes(PRIME))
    settings = {"metrics": [BYTES], "labels": ["file"]}
    with Daemon({"file_io": settings}, folder=only(mechanism, tmp_path / "probes")) as daemon:
        require(daemon, mechanism)
        workload("io-plain", "reads", source, PRIME)
        after = daemon.samples()
        programs = {program for program, _ in daemon.status("file_io")["attachments"]}
    assert count(after, BYTES, file="plain.bin") == PRIME
    assert {name for name, _ in after if name.startswith("ebpf_file_io")} == {BYTES}
    assert "enter_file" not in programs
    assert ("enter_call" in programs) == (mechanism == "tracepoint-entries")


@pytest.mark.matrix
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_only_regular_files_count_unless_all_are_wanted(mechanism: str, tmp_path: Path, workload: Workload) -> None:
    """What goes through a pipe is not counted by default, and is with all_files."""
    folder = only(mechanism, tmp_path / "probes")
    for everything in (False, True):
        settings = {"options": {"all_files": everything}, "labels": ["op", "comm"]}
        with Daemon({"file_io": settings}, folder=folder) as daemon:
            require(daemon, mechanism)
            workload("io-piper", "pipe", PRIME)
            samples = daemon.samples()
        read, written = (count(samples, BYTES, comm="io-piper", op=op) for op in ("read", "write"))
        # the dynamic loader has read from the libraries' heads, and the generator's own output is a pipe as well
        assert (read >= PRIME, written >= PRIME) == (everything, everything)


def test_a_mechanism_that_does_not_hold_gives_way_to_the_next(tmp_path: Path, workload: Workload) -> None:
    """The probe as shipped runs on every kernel, and says what was tried before."""
    source = tmp_path / "any.bin"
    source.write_bytes(bytes(97))
    with Daemon({"file_io": {}}) as daemon:
        workload("io-any", "reads", source, 97)
        samples = daemon.samples()
        status = daemon.status("file_io")
    assert count(samples, BYTES, comm="io-any", file="any.bin") == 97
    assert status["state"] == "running"
    order = [attempt["mechanism"] for attempt in status["tried"]] + [status["mechanism"]]
    # a kretprobe that is no link misses calls: after both ways to be at the system calls, of which one holds
    assert order in (["fexit", "kprobe+kretprobe"], ["fexit", "tracepoint", "tracepoint"][: len(order)])
    assert all(attempt["reason"] for attempt in status["tried"])
