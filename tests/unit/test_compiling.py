# SPDX-License-Identifier: Apache-2.0
"""supervisor/compiling.py: as many children at once as there are processors, and systemd waits for each of them."""

import os
import re
import selectors
from functools import partial
from typing import Any

import pytest

from exporter import systemd
from exporter.supervisor.compiling import COMPILE_SECONDS, Compilers, Given, Job


def test_systemd_waits_for_each_compile_that_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start of many probes takes as long as it takes: each job asks for more time than it may have itself."""
    told: list[str] = []
    done: list[object] = []
    monkeypatch.setattr(systemd, "notify", told.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})

    def work(number: int) -> tuple[Any, list[int]]:
        return number, []

    def given(number: int) -> Given:
        return (number,), ()

    with selectors.DefaultSelector() as selector:
        compilers = Compilers(selector)
        for number in range(3):
            compilers.add(Job("p", work, partial(given, number), lambda result, _: done.append(result), done.append))
        assert len(told) == 1  # the others wait
        while len(done) < 3:
            for key, _ in selector.select(60):
                key.data()
    assert done == [0, 1, 2]
    [asked] = set(told)
    extended = re.fullmatch(r"EXTEND_TIMEOUT_USEC=(\d+)", asked)
    assert extended
    assert len(told) == 3
    assert int(extended[1]) > COMPILE_SECONDS * 1e6
