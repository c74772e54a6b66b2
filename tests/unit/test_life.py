# SPDX-License-Identifier: Apache-2.0
"""supervisor/life.py: what is let go of while a child is at work on it, or is yet to be."""

import dataclasses
import os
import selectors
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from exporter.hooks import files
from exporter.loader import load
from exporter.probe import Hook, Mechanism, Probe, Program
from exporter.status import Again, File, Loaded
from exporter.supervisor.compiling import Compilers, Given, Job
from exporter.supervisor.life import Life
from tests.unit import support

PATIENCE = 60.0  # seconds, after which a test is taken to hang


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as one:
        yield one


def probe_on(path: Path) -> Probe:
    mechanism = Mechanism((Program("on_event", (Hook("uprobe", f"{path}:f"),)),))
    return dataclasses.replace(support.probe(), mechanisms=(mechanism,))


def loaded(probe: Probe, *maps: str, compiler: str = "") -> Loaded:
    followed = tuple(
        File(name, files.identity(name), 0)
        for name in (files.named(hook) for program in probe.mechanisms[0].programs for hook in program.hooks)
    )
    nothing: tuple[str, ...] = ()
    return Loaded(
        *(probe, "uprobe", (), maps, nothing, nothing, followed, 0, (), (), nothing, compiler, nothing),
        *(probe.mechanisms[0], ""),
    )


def begin(probe: Probe, compilers: Compilers, before: Life | None = None) -> Life:
    return Life(probe, compilers, lambda _: None, lambda _: None, before)


def finish(selector: selectors.BaseSelector) -> None:
    """Returns when no child runs any more."""
    while selector.get_map():
        for key, _ in selector.select(PATIENCE):
            key.data()


def disable(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life._overhead, "exceeded", lambda *_: 50.0)
    life._look_at = 0.0
    life.tick()
    assert life.status.state == "disabled"


def test_disabled_while_it_is_attached_again(
    selector: selectors.BaseSelector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file was replaced, and before that is attached to the probe costs too much: it stays disabled."""
    path = tmp_path / "program"
    path.write_text("one")
    monkeypatch.setattr(load, "start", lambda probe, _: (loaded(probe), []))
    monkeypatch.setattr(load, "again", lambda *_: (Again(()), []))
    compilers = Compilers(selector)
    life = begin(probe_on(path), compilers)
    finish(selector)
    assert life.status.state == "running"
    path.write_text("another")
    life._look_at_files_at = 0.0
    life.tick()
    assert compilers.has(life._job)
    disable(life, monkeypatch)
    finish(selector)
    assert (life.status.state, life.up, life._stale) == ("disabled", False, set())
    again_at = life._again_at
    path.write_text("a third")
    life._look_at_files_at = 0.0
    life.tick()
    assert (life._again_at, compilers.has(life._job)) == (again_at, False)  # whoever writes files has no say in it
    life._again_at = 0.0
    life.tick()  # from the start
    finish(selector)
    assert (life.status.state, life.up) == ("running", True)


@pytest.mark.parametrize("disabled", [False, True])
def test_the_one_before_ends_while_it_waits(
    selector: selectors.BaseSelector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disabled: bool
) -> None:
    """A life that is to go on with another's maps has them when its turn comes; if they are gone by then, its own."""

    def start(probe: Probe, maps: Mapping[str, int]) -> tuple[Loaded, list[int]]:
        return loaded(probe, "m", compiler=repr(dict(maps))), [os.memfd_create("m")]

    def wait(fd: int) -> tuple[None, list[int]]:
        os.read(fd, 1)
        return None, []

    reader, writer = os.pipe()

    def given() -> Given:
        return (reader,), (reader,)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(load, "start", start)
    compilers = Compilers(selector)
    probe = probe_on(tmp_path / "program")
    before = begin(probe, compilers)
    finish(selector)
    assert before.held is not None
    maps = before.held.maps
    compilers.add(Job("busy", wait, given, lambda *_: None, lambda _: None))
    after = begin(probe, compilers, before)
    if disabled:
        disable(before, monkeypatch)
    os.close(writer)
    finish(selector)
    os.close(reader)
    assert after.held is not None
    assert after.held.loaded.compiler == repr({} if disabled else maps)
    assert maps.keys() == {"m"}
