# SPDX-License-Identifier: Apache-2.0
"""``ebpf-exporter check`` against this kernel's own descriptions, as root and as somebody who may not read them."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon import COMMAND

NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
EXEC = "tracepoint:sched:sched_process_exec"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may read, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def check(folder: Path, label: str, *words: str, prefix: tuple[str, ...] = (), **probe: Any) -> tuple[int, str, str]:
    """Checks a probe, p, with one label, l."""
    metrics = {"ebpf_p_total": {"type": "counter", "help": "Help.", "labels": {"l": label}}}
    path = folder / "config.yaml"
    path.write_text(json.dumps({"probes": {"p": {"attach": EXEC, "metrics": metrics, **probe}}}, indent=1))
    command = [*prefix, str(COMMAND), "check", "--config", str(path), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, done.stdout.replace(f"{folder}/", ""), done.stderr.replace(f"{folder}/", "")


@pytest.mark.matrix
def test_a_field_of_the_event(folder: Path) -> None:
    """What the event has is good; what it does not have is an error with the line and what there is."""
    assert check(folder, "str(args.filename, 32)", where="args.old_pid > 0") == (0, "config.yaml: good: p\n", "")
    code, out, err = check(folder, "args.filname")
    assert (code, out) == (1, "")
    assert err.startswith("config.yaml:")
    assert "probes.p.metrics.ebpf_p_total.labels.l: args.filname: sched_process_exec has filename, pid, old_pid" in err


@pytest.mark.matrix
def test_a_member_of_a_kernel_structure(folder: Path) -> None:
    """The same for what the arguments of functions point to."""
    hook = "fexit:vfs_read"
    assert check(folder, "args.file.f_inode.i_mode", attach=hook) == (0, "config.yaml: good: p\n", "")
    code, _, err = check(folder, "args.file.f_inod.i_mode", attach=hook)
    assert (code, "f_inod: struct file * has " in err) == (1, True)


@pytest.mark.matrix
def test_what_is_not_here(folder: Path) -> None:
    """A misspelled hook is a warning with the right one: nobody knows on which host the config is meant to run."""
    code, out, err = check(folder, "comm", attach="tracepoint:sched:sched_proces_exec")
    assert (code, out) == (0, "config.yaml: good: p\n")
    assert err.startswith("warning: probe p would not run on this host: this kernel has no tracepoint:sched:sched_proc")
    assert "did you mean sched_process_exec" in err


@pytest.mark.anywhere  # and where the checkout can be read by everybody
def test_without_the_right_to_read(folder: Path) -> None:
    """Whoever may not read tracefs is told so, once, and that nothing is known to be wrong."""
    code, out, err = check(folder, "args.filname", prefix=(*NOBODY,))
    assert (code, out) == (0, "config.yaml: good: p\n")
    assert err == "warning: not compared with this host: cannot read /sys/kernel/tracing: only root can\n"


@pytest.mark.matrix
def test_the_source_is_for_this_kernel(folder: Path) -> None:
    """What --show-source prints is the C for this kernel, with the event's own offsets."""
    code, out, err = check(folder, "args.old_pid", "--show-source", "p")
    format_ = Path("/sys/kernel/tracing/events/sched/sched_process_exec/format").read_text()
    offset = format_.partition("pid_t old_pid;\toffset:")[2].partition(";")[0]
    assert (code, err) == (0, "")
    assert f"(u8 *)ctx + {offset})" in out
