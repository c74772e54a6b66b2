# SPDX-License-Identifier: Apache-2.0
"""What labels cost each event, and what is saved by leaving them out."""

import statistics
from typing import Any

from tests.bench.loops import Cost, cost, statistics_on
from tests.bench.measure import Aim, Bench, Result, processes, programs, table
from tests.kernel.daemon import Daemon

# of each loop and probe: all labels first, the fewest last
CHOICES: dict[tuple[str, str], list[list[str]]] = {
    ("reads", "file_io"): [["op", "comm", "file"], ["op", "comm"], ["op"]],
    ("opens", "file_opens"): [["comm", "file", "result"], ["comm", "result"], ["result"]],
}


def section(bench: Bench) -> Result:
    rows, aims = [], []
    with statistics_on():
        for (what, probe), choices in CHOICES.items():
            alone = cost(bench, what, frozenset(programs()))
            rows.append([what, "nothing", "", *alone.row(alone)])
            found = [_cost(bench, what, probe, {"labels": labels}) for labels in choices]
            rows += [
                [what, f"`{probe}`", ", ".join(labels), *one.row(alone)]
                for labels, one in zip(choices, found, strict=True)
            ]
            most, *_, least = [statistics.median(one.in_bpf) for one in found]
            figures = f"{most:.0f} ns with all, {least:.0f} ns with one"
            aims.append(Aim(f"labels of `{probe}` that are left out cost nothing", figures, least < most))
    head = ["loop of", "with", "labels", "ns in BPF for each", "ns in its processes", "ns of the loop", "times alone"]
    return Result(table(head, rows), tuple(aims))


def _cost(bench: Bench, what: str, probe: str, settings: dict[str, Any]) -> Cost:
    before = frozenset(programs())
    with Daemon({probe: settings}) as daemon:
        return cost(bench, what, before, tuple(processes(daemon)))
