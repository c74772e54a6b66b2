# SPDX-License-Identifier: Apache-2.0
"""Writes what the cells of the matrix found into docs/kernels.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from exporter import __version__
from tests.bench.measure import table
from tests.vm.matrix import CELLS, Outcome

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"


def write(outcomes: Sequence[Outcome]) -> None:
    """Puts the tables of these outcomes where the document has them."""
    text = DOCUMENT.read_text()
    for name, block in (
        ("results", f"{_head(outcomes)}\n\n{_results(outcomes)}"),
        ("mechanisms", _mechanisms(outcomes)),
        ("reasons", _reasons(outcomes)),
    ):
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, _, rest = text.partition(start)
        text = f"{before}{start}{block}{end}{rest.partition(end)[2]}"
    DOCUMENT.write_text(text)


def _head(outcomes: Sequence[Outcome]) -> str:
    programs = len({one.program for one in outcomes})
    words = f"`sudo tests/vm/run --all`, with the package of {__version__}"
    words += f" in {programs} states (tests/vm/results.json has which)." if programs > 1 else "."
    missing = [f"`{name}`" for name in CELLS if name not in {one.cell for one in outcomes}]
    return f"{words} Not run yet: {', '.join(missing)}." if missing else words


def _results(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for one in outcomes:
        failed = [name for name, (good, _) in one.steps.items() if not good]
        verdict = "the emulator" if one.of_emulator else "; ".join(failed) or "ok"
        rows.append([one.cell, one.date, one.kernel, one.userland, one.bcc, one.python, verdict, one.tests or "none"])
    return table(["cell", "date", "kernel", "userland", "BCC", "Python", "failed", "tests"], rows)


def _mechanisms(outcomes: Sequence[Outcome]) -> str:
    names = list(dict.fromkeys(probe["name"] for one in outcomes for probe in one.doctor.get("probes", ())))
    rows = []
    for one in outcomes:
        found = {probe["name"]: probe["mechanism"] or "none" for probe in one.doctor.get("probes", ())}
        rows.append([one.cell, *(found.get(name, "") for name in names)])
    return table(["cell", *names], rows)


def _reasons(outcomes: Sequence[Outcome]) -> str:
    """Each reason with the cells in which it was given; release names differ, and are left out."""
    cells: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for one in outcomes:
        for probe in one.doctor.get("probes", ()):
            tried = [(attempt["mechanism"], attempt["reason"]) for attempt in probe["tried"]]
            if not tried and probe["reason"] and not probe["good"]:
                tried = [("any", probe["reason"])]
            for mechanism, reason in tried:
                cells[probe["name"], mechanism, reason.replace(one.kernel, "RELEASE")].append(one.cell)
    rows = [[probe, mechanism, reason, ", ".join(names)] for (probe, mechanism, reason), names in cells.items()]
    return table(["probe", "not by", "because", "in"], rows)
