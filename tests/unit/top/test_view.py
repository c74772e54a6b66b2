# SPDX-License-Identifier: Apache-2.0
"""top/view.py: what keys do, and what is on the screen then."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.top import text
from exporter.top.view import ALERT, BAD, HEAD, KEYS, SELECTED, TITLE, View

from .support import metric, probe, probes, series

ESCAPE = "\x1b]0;owned\x07"


def overview(time: float = 12, extra: int = 0) -> object:
    """Probes a, b and c, of which a costs most, and d, which has failed; extra is what a has counted more."""
    found = [
        probe(name, events_total=events * (time - 10), run_seconds_total=0.0, purpose=f"Counts {name}.")
        for name, events in (("c", 10), ("a", 30 + extra), ("b", 20))
    ]
    bad = probe("d", state="failed", reason="no such interface", events_total=None, run_seconds_total=None)
    return probes(time, *found, bad)


def started(probe: str = "") -> View:
    """Returns the screen after two looks."""
    view = View("http://localhost:9435", 2.0, probe)
    view.take(overview(10))  # type: ignore[arg-type]
    view.take(overview(12))  # type: ignore[arg-type]
    return view


def press(view: View, *keys: str) -> None:
    for key in keys:
        view.press(key)


def lines(view: View, columns: int = 80, rows: int = 24) -> list[str]:
    return [line.text.rstrip() for line in view.frame(columns, rows)]


def body(view: View) -> list[str]:
    """Returns the first words of the rows."""
    frame = view.frame(80, 24)
    head = next(at for at, line in enumerate(frame) if line.style == HEAD)
    return [line.text.split()[0] for line in frame[head + 1 :] if line.text.strip()][: -3 if not view.probe else -2]


def selected(view: View) -> str:
    return next(line.text.split()[0] for line in view.frame(80, 24) if line.style == SELECTED)


def of_one(time: float, count: int = 3, name: str = "a") -> object:
    found = {(f"p{number:04}", "ok"): int(time) * (count - number) for number in range(count)}
    other = {("read",): 5 * int(time)}
    return series(
        time,
        metric(found, "ebpf_a_opens_total", ("comm", "result")),
        metric(other, "ebpf_a_reads_total", ("op",)),
        name=name,
    )


def test_all_probes() -> None:
    """A title, the columns' heads, a row for each probe, details of the selected one, the keys."""
    frame = started().frame(80, 24)
    assert len(frame) == 24
    assert {len(line.text) for line in frame} == {80}
    styles = [line.style for line in frame if line.style != "row" or line.text.strip()]
    assert styles == [TITLE, HEAD, SELECTED, "row", "row", BAD, "detail", "detail", KEYS]
    shown = [line.text.split() for line in frame]
    assert shown[0][:6] == ["ebpf-exporter", "http://localhost:9435", "4", "probes,", "1", "not"]
    assert shown[2][:4] == ["a", "running", "30.0", "0"]
    assert [line[0] for line in shown[2:6]] == ["a", "b", "c", "d"]
    assert " ".join(shown[21]) == "a: Counts a."
    assert shown[23][:2] == ["q", "quit"]


def test_details_of_what_failed() -> None:
    """The reason stands there in full, though its column may be cut."""
    view = started()
    press(view, "end")
    assert (selected(view), lines(view)[22]) == ("d", "failed by tracepoint: no such interface")


def test_selection() -> None:
    """It stays with its row when rows change places; at the top it stays at the top."""
    view = started()
    assert selected(view) == "a"
    view.take(overview(14, extra=-29))  # type: ignore[arg-type]
    assert selected(view) == "b"
    press(view, "down")
    assert selected(view) == "c"
    view.take(overview(16))  # type: ignore[arg-type]
    assert selected(view) == "c"
    press(view, "up", "up", "up")
    assert selected(view) == "a"


def test_sorting() -> None:
    """By the columns before and after, and the other way round; each table has its own order."""
    view = started()
    press(view, "r")
    assert body(view) == ["c", "b", "a", "d"]
    press(view, "<", "left")
    assert body(view) == ["a", "b", "c", "d"]
    assert "PROBE^" in lines(view)[1]
    press(view, "r")
    assert body(view) == ["d", "c", "b", "a"]
    press(view, "left")
    assert "REASON" in lines(view, 200)[1]


def test_filter() -> None:
    """Typed after a slash; Enter keeps it, Escape drops it, while it is typed and later."""
    view = started()
    press(view, "/", *"failed")
    assert (body(view), lines(view)[23]) == (["d"], "/failed_")
    press(view, "q", "backspace", "enter")
    assert not view.quits
    assert lines(view)[23].startswith("1 of 4 with 'failed'")
    press(view, "escape")
    assert body(view) == ["a", "b", "c", "d"]
    press(view, "/", "x", "escape")
    assert body(view) == ["a", "b", "c", "d"]
    press(view, "/", *"zzz", "enter", "enter", "down")
    assert (lines(view)[2], view.probe) == ("", "")


def test_a_probe_and_back() -> None:
    """Enter shows the series of the selected one, Tab those with other labels, Escape all probes."""
    view = started()
    press(view, "down", "enter")
    assert view.probe == "b"
    assert "waiting for the exporter" in lines(view)[1]
    view.take(overview(14))  # type: ignore[arg-type]  # was asked for before
    view.take(of_one(10, name="a"))  # type: ignore[arg-type]
    assert "waiting for the exporter" in lines(view)[1]
    view.take(of_one(14, name="b"))  # type: ignore[arg-type]
    view.take(of_one(16, name="b"))  # type: ignore[arg-type]
    assert lines(view)[1].split() == ["COMM", "RESULT", "OPENS/Sv", "OPENS"]
    assert body(view) == ["p0000", "p0001", "p0002"]
    assert lines(view)[2].split() == ["p0000", "ok", "3.00", "48"]
    assert "table 1 of 2" in lines(view)[0]
    press(view, "tab")
    assert lines(view)[2].split() == ["read", "5.00", "80"]
    press(view, "tab", "backspace")
    assert (view.probe, selected(view)) == ("", "b")


def test_a_probe_without_series() -> None:
    """It says so."""
    view = View("x", 2.0, "a")
    view.take(series(1, name="a"))
    assert lines(view)[1] == "it has no series; Esc: how it stands"


def test_pause_help_and_quit() -> None:
    """The title says that it is paused; any key ends the help; q quits from both."""
    view = started()
    press(view, "p")
    assert (view.paused, "PAUSED" in lines(view)[0]) == (True, True)
    press(view, " ", "?")
    assert (view.paused, any("sort by the column" in line for line in lines(view))) == (False, True)
    press(view, "x")
    assert (view.help, view.quits) == (False, False)
    press(view, "h", "q")
    assert view.quits


def test_an_exporter_that_is_away() -> None:
    """Why stands over the last values, with the time that they are of, until it answers again."""
    view = started()
    before = lines(view)
    view.fail("http://localhost:9435 does not answer: Connection refused")
    frame = view.frame(80, 24)
    assert (frame[1].style, frame[1].text.rstrip()) == (
        ALERT,
        "http://localhost:9435 does not answer: Connection refused",
    )
    assert [line.text.rstrip() for line in frame[2:6]] == before[1:5]
    view.take(overview(14))  # type: ignore[arg-type]
    assert not view.alert


def test_nothing_was_read_in_between() -> None:
    """An answer of the same read changes no rate."""
    view = started()
    before = lines(view)
    view.take(overview(12))  # type: ignore[arg-type]
    assert lines(view) == before


def test_many_rows() -> None:
    """What is selected is on the screen, wherever one goes."""
    view = View("x", 2.0, "a")
    view.take(of_one(10, 5000))  # type: ignore[arg-type]
    view.take(of_one(12, 5000))  # type: ignore[arg-type]
    assert selected(view) == "p0000"
    for keys, name in (
        (["end"], "p4999"),
        (["up"], "p4998"),
        (["home", "pagedown"], "p0020"),
        (["pageup"], "p0000"),
        (["down"] * 100, "p0100"),
    ):
        press(view, *keys)
        assert selected(view) == name
    press(view, "/", *"p4321")
    assert body(view) == ["p4321"]


def test_hostile_names() -> None:
    """No escape sequence of a name, a reason or a place gets to the terminal."""
    view = View(f"http://x/{ESCAPE}", 2.0)
    bad = probe(f"a{ESCAPE}", state=ESCAPE, reason=ESCAPE, purpose=ESCAPE, mechanism=ESCAPE)
    view.take(probes(10, bad))
    frames = [view.frame(200, 24)]
    press(view, "/", "a", "\x1b")
    frames.append(view.frame(80, 24))
    press(view, "enter", "enter")
    view.fail(ESCAPE)
    hostile = metric({(ESCAPE, "\u202e"): 1}, f"ebpf_{ESCAPE}_total", (ESCAPE, "b"))
    view.take(series(11, hostile, name=f"a{ESCAPE}"))
    frames.append(view.frame(80, 24))
    assert r"\x1b]0;owned\x07" in " ".join(line.text for line in frames[-1])
    assert all(line.text.isprintable() for frame in frames for line in frame)


def test_right_to_left_names() -> None:
    """What follows them in a line or in the details stays where it is, by a mark that is nowhere shown."""
    view = View("x", 2.0, "a")
    view.take(series(1, metric({("קובץ", "b"): 1}, labels=("comm", "file")), name="a"))
    frame = view.frame(80, 24)
    assert [line.text.count("\u200e") for line in frame if "קובץ" in line.text] == [1, 1]
    assert not any(r"\u200e" in line.text for line in frame)


KEY = st.sampled_from([*"q?hrp/< >ab", "up", "down", "pageup", "pagedown", "home", "end"]) | st.sampled_from(
    ["left", "right", "tab", "enter", "escape", "backspace"]
)


@given(st.lists(KEY, max_size=40), st.integers(0, 90), st.integers(0, 30))
def test_any_keys_on_any_screen(keys: list[str], columns: int, rows: int) -> None:
    """Whatever is pressed, however small the terminal is: as many lines as it has, each as wide as it is."""
    view = started()
    times = itertools.count(20)
    for key in keys:
        view.press(key)
        now = next(times)
        view.take(of_one(now, name=view.probe) if view.probe else overview(now))  # type: ignore[arg-type]
        frame = view.frame(columns, rows)
        assert len(frame) == (rows if columns else 0)
        assert {text.width(line.text) for line in frame} <= {columns}


@pytest.mark.parametrize(
    ("columns", "words"), [(40, ["PROBE", "STATE", "EVENTS/Sv", "%CORE"]), (20, ["PROBE", "STATE"])]
)
def test_narrow(columns: int, words: list[str]) -> None:
    """What matters most stays."""
    assert lines(started(), columns)[1].split()[: len(words)] == words
