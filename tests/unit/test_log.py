# SPDX-License-Identifier: Apache-2.0
"""Log lines: their fields, that each is one line, and what is left out."""

import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import log

Begin = Callable[..., io.StringIO]
LOGGER = logging.getLogger("a test")


@pytest.fixture
def begin() -> Iterator[Begin]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def to_text(form: str = "text") -> io.StringIO:
        stream = io.StringIO()
        log.begin(form, stream)
        return stream

    yield to_text
    root.handlers[:] = handlers
    root.setLevel(level)


def test_fields_follow_the_message_in_the_order_in_which_they_were_given(begin: Begin) -> None:
    out = begin()
    LOGGER.error("probe failed", extra={"probe": "xdp", "reason": 'no "eth0"', "empty": "", "tries": 2})
    assert out.getvalue() == 'ERROR probe failed probe=xdp reason="no \\"eth0\\"" tries=2\n'


def test_json_has_time_level_message_and_fields(begin: Begin) -> None:
    out = begin("json")
    LOGGER.warning("probe %s", "degraded", extra={"probe": "xdp", "reason": "a\nb", "tries": 2})
    (line,) = out.getvalue().splitlines()
    fact = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fact.pop("time"))
    assert fact == {"level": "warning", "message": "probe degraded", "probe": "xdp", "reason": "a\nb", "tries": 2}


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_one_line_too(begin: Begin, form: str) -> None:
    out = begin(form)
    try:
        raise ValueError("here")
    except ValueError:
        LOGGER.exception("a fault of ours")
    (line,) = out.getvalue().splitlines()
    assert "ValueError: here" in line


def test_what_repeats_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch, begin: Begin) -> None:
    now = 1000.0
    monkeypatch.setattr("exporter.log.time.monotonic", lambda: now)
    out = begin()
    for _ in range(7):
        LOGGER.error("the worker ended", extra={"code": 1})
    LOGGER.error("the worker ended", extra={"code": 2})
    now += log.REPEAT_SECONDS
    LOGGER.error("the worker ended", extra={"code": 1})
    assert out.getvalue().splitlines() == [
        "ERROR the worker ended code=1",
        "ERROR the worker ended code=2",
        "ERROR the worker ended code=1 repeated=6",
    ]


def test_lines_that_are_remembered_are_few(begin: Begin) -> None:
    begin()
    for number in range(1000):
        LOGGER.info("a line", extra={"number": number})
    (repeats,) = logging.getLogger().handlers[0].filters
    assert isinstance(repeats, log.Repeats)
    assert len(repeats._seen) <= 256


def test_the_journal_is_told_the_level(monkeypatch: pytest.MonkeyPatch, begin: Begin) -> None:
    begin()
    ours, theirs = os.pipe()
    found = os.fstat(theirs)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    with os.fdopen(theirs, "w") as stream:
        log.begin("text", stream)
        LOGGER.error("bad")
        LOGGER.info("good")
    with os.fdopen(ours) as read:
        assert read.read() == "<3>ERROR bad\n<6>INFO good\n"


@given(st.text(), st.text())
def test_whatever_is_in_a_field_is_one_line(message: str, value: str) -> None:
    record = logging.makeLogRecord({"levelname": "INFO", "msg": message, "args": (), "reason": value})
    for form in (log.Text(), log.Json()):
        assert len(form.format(record).splitlines()) == 1
