# SPDX-License-Identifier: Apache-2.0
"""Tests of what tests/vm makes of a machine that the emulator brings down: nothing was learnt, and it is run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import matrix, results
from tests.vm.machine import BootError

END = "Kernel panic - not syncing: Fatal exception in interrupt"
STALE_BREAKPOINT = ("Oops: int3: 0000 [#1] PREEMPT SMP NOPTI", *["RIP: 0010:sched_clock_cpu+0x9/0x1d0"] * 200, END)
ASSERTION = ("qemu-system-x86_64: system/physmem.c:2671: iotlb_to_section: Assertion `section_index < 1' failed.",)
FAULT = ("BUG: unable to handle page fault for address: ffffc90000", END)
CELL = matrix.CELLS["debian-12"]


class Machines:
    """Stands for Machine: each that is entered panics, with the next of these consoles."""

    def __init__(self, *consoles: tuple[str, ...]) -> None:
        self._consoles = list(consoles)
        self.cpu_seconds = 0.0

    def __call__(self, *_positional: object, **_named: object) -> Machines:
        return self

    def __enter__(self) -> None:
        raise BootError("the machine did not boot", self._consoles.pop(0))

    def __exit__(self, *_error: object) -> None:
        pass


@pytest.mark.parametrize(
    ("consoles", "attempts", "of_emulator"),
    [
        pytest.param([STALE_BREAKPOINT, FAULT], 2, False, id="a fault of the kernel is the cell's"),
        pytest.param([ASSERTION, FAULT], 2, False, id="QEMU's own fault"),
        pytest.param([STALE_BREAKPOINT] * matrix.ATTEMPTS, matrix.ATTEMPTS, True, id="not for ever"),
        pytest.param([FAULT], 1, False, id="not for any panic"),
    ],
)
def test_a_cell_is_run_again_where_the_emulator_failed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    consoles: list[tuple[str, ...]],
    attempts: int,
    of_emulator: bool,
) -> None:
    monkeypatch.setattr(matrix, "built", lambda image: image)
    monkeypatch.setattr(matrix, "Machine", Machines(*consoles))
    outcome = matrix._run(CELL, tmp_path, tmp_path, 60)
    assert not outcome.good
    assert (outcome.attempt, outcome.of_emulator) == (attempts, of_emulator)
    assert "FAILED: boot" in outcome.line
    # The log keeps what brought each of them down.
    log = (tmp_path / "debian-12.log").read_text()
    assert log.count("the last lines of the console") == attempts


def test_outcomes_are_kept_one_a_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the order of the cells, the last of each, without what is for the log."""
    monkeypatch.setattr(results, "FILE", tmp_path / "results.json")
    assert results.kept() == []
    for cell, failures in (("debian-sid", ""), ("debian-12", "much"), ("debian-sid", "more")):
        results.keep(matrix.Outcome(cell, failures=failures, kernel=failures))
    assert [(one.cell, one.kernel, one.failures) for one in results.kept()] == [
        ("debian-12", "much", ""),
        ("debian-sid", "more", ""),
    ]
