# SPDX-License-Identifier: Apache-2.0
"""lockdown.py: a kernel that keeps its memory to itself is told as the reason of what it refuses, and no other."""

import errno
from pathlib import Path

import pytest

from exporter import libbpf, lockdown
from exporter.errors import HookError, LoadError
from exporter.hooks import tracefs
from exporter.loader import attach
from exporter.probe import Hook

HINT = ": the kernel is locked down; boot it with lockdown=integrity in place of confidentiality"


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's own file, as one has it that is locked down."""
    state = tmp_path / "lockdown"
    state.write_text("none integrity [confidentiality]\n")
    monkeypatch.setattr(lockdown, "STATE", state)
    return state


def test_only_confidentiality_is_a_reason(locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integrity, which secure boot brings, refuses nothing that is wanted here; nor does a kernel without either."""
    assert lockdown.hint() == HINT
    locked.write_text("none [integrity] confidentiality\n")
    assert lockdown.hint() == ""
    monkeypatch.setattr(lockdown, "STATE", tmp_path / "absent")
    assert lockdown.hint() == ""


@pytest.mark.usefixtures("locked")
def test_tracepoints_that_it_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To mount tracefs would be in vain."""
    monkeypatch.setattr(tracefs, "ROOTS", (tmp_path,))
    with pytest.raises(HookError) as told:
        tracefs.events()
    assert told.value.reason == f"this kernel shows no tracepoints{HINT}"


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("program of this type cannot use helper bpf_probe_read_kernel_str#115", HINT),
        ("unknown func bpf_probe_read_kernel#113", HINT),
        ("invalid access to packet", ""),
    ],
)
def test_programs_that_read_its_memory(said: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper that it does not have is why; what the verifier refuses for other reasons has those alone."""

    def refuse(*_: object) -> int:
        raise libbpf.Refused(errno.EINVAL, f"0: (b7) r0 = 0\n{said}\nprocessed 1 insns\n")

    monkeypatch.setattr(libbpf, "prog_load", refuse)
    with pytest.raises(LoadError) as told:
        attach.load_for(Hook("kprobe", "vfs_read"), "on_read", b"")
    refused = "kprobe:vfs_read: the kernel refuses the program on_read"
    assert told.value.reason == f"{refused}: {said} (Invalid argument){hint}"
