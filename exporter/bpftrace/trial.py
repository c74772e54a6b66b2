# SPDX-License-Identifier: Apache-2.0
"""Scripts on trial: each is run by bpftrace for a while, and it is told whether its maps change. For ``doctor``."""

import asyncio
import contextlib
import logging
import os
import selectors
import time
from dataclasses import dataclass

from exporter.bpftrace import runner
from exporter.bpftrace.reader import Reader
from exporter.bpftrace.runner import Runner
from exporter.probe import Probe
from exporter.status import ProbeStatus

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Trial:
    """What became of a script: its status, and the metrics that moved."""

    status: ProbeStatus
    moved: tuple[str, ...]


def watch(probes: list[Probe], seconds: float) -> dict[str, Trial]:
    """Runs scripts until each has changed a map, has failed, or has run for so many seconds. Returns trials by name."""
    runner.log.setLevel(logging.CRITICAL)  # what fails is in its trial
    return asyncio.run(_watch(probes, seconds)) if probes else {}


async def _watch(probes: list[Probe], seconds: float) -> dict[str, Trial]:
    """The two ends, which else are two processes, in one: what the one asks of the other goes through its selector."""
    loop = asyncio.get_running_loop()
    # what a failed one does next, to start again, is nothing that is wanted here: the first change is the last
    settled: dict[str, asyncio.Event] = {probe.name: asyncio.Event() for probe in probes}
    with selectors.EpollSelector() as selector:
        runners = [Runner(probe, selector, lambda one: settled[one.probe.name].set()) for probe in probes]

        def pump() -> None:
            for key, _ in selector.select(0):
                key.data()

        loop.add_reader(selector, pump)
        ticking = asyncio.create_task(_tick(runners, settled))
        try:
            trials = await asyncio.gather(*(_try(one, settled[one.probe.name], seconds) for one in runners))
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
            loop.remove_reader(selector)
            for one in runners:
                one.kill()
            for one in runners:
                one.wait()
    return {one.probe.name: trial for one, trial in zip(runners, trials, strict=True)}


async def _tick(runners: list[Runner], settled: dict[str, asyncio.Event]) -> None:
    while True:
        for one in runners:
            if not settled[one.probe.name].is_set() and time.monotonic() >= one.deadline:
                one.tick()
        await asyncio.sleep(_POLL_SECONDS)


async def _try(one: Runner, settled: asyncio.Event, seconds: float) -> Trial:
    await settled.wait()
    status = one.status
    if not one.shared:
        return Trial(status, ())
    reader = Reader(one.probe)
    reader.adopt(one.marker, *map(os.dup, one.shared))
    names = [metric.name for table in reader.tables for metric, _ in table.render()]
    before = _lines(reader)
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        await reader.read()
        moved = tuple(name for name, was, now in zip(names, before, _lines(reader), strict=True) if was != now)
        if moved or began >= deadline or one.status.state != "running":
            return Trial(status if one.status.state == "running" else one.status, moved)
        await asyncio.sleep(_POLL_SECONDS)


def _lines(reader: Reader) -> list[bytes]:
    return [lines for table in reader.tables for _, lines in table.render()]
