# SPDX-License-Identifier: Apache-2.0
"""Keeps what the cells of the matrix found, in results.json, of which docs/kernels.md is made.

A run of the matrix takes hours, and goes on where one before it ended: what was good, of the same program, is not run
again.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tests.vm.matrix import CELLS, Outcome

FILE = Path(__file__).with_name("results.json")
_OF_PROBES = ("name", "good", "mechanism", "tried", "reason")  # what is kept of doctor's words


def kept() -> list[Outcome]:
    """Returns the last outcome of each cell that has one, in the order of the cells."""
    found = {one["cell"]: Outcome(**one) for one in json.loads(FILE.read_text())} if FILE.exists() else {}
    return [found[name] for name in CELLS if name in found]


def keep(outcome: Outcome) -> None:
    """Keeps an outcome, in place of the former of its cell. What failed steps said is for the log."""
    probes = [{name: probe[name] for name in _OF_PROBES} for probe in outcome.doctor.get("probes", ())]
    slim = dataclasses.replace(outcome, failures="", doctor={"probes": probes})
    found = [slim, *(one for one in kept() if one.cell != outcome.cell)]
    found.sort(key=lambda one: list(CELLS).index(one.cell))
    FILE.write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=1) + "\n")
