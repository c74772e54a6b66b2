# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the pipes, with a bpftrace that is played here."""

import asyncio
import os
from collections.abc import Callable, Coroutine

import pytest

from exporter import kinds
from exporter.bpftrace import reader
from exporter.bpftrace.reader import Reader
from exporter.bpftrace.script import FIRST_SIGNAL
from exporter.probe import Label, Metric, Probe, Script, ScriptMap
from tests.unit.support import probe, samples


def scripted() -> Probe:
    metric = Metric("ebpf_x_total", "counter", "Help.", (Label("key", kinds.parse("string(256)")),))
    base = probe()
    script = Script("", "x.bt", base.declaration.parent, (ScriptMap("@x", metric, (2,)),), False)
    return Probe("x", "Counts.", base.declaration, base.source, (), (metric,), script=script)


class Played:
    """Answers each question with the next of the given lines; None is no answer."""

    def __init__(self, answers: list[bytes | None]) -> None:
        self._answers = answers
        self.output, self._write = os.pipe()
        self._asked, self.ask = os.pipe()
        self.questions = 0
        asyncio.get_running_loop().add_reader(self._asked, self._answer)

    def _answer(self) -> None:
        for token in os.read(self._asked, 100):
            self.questions += 1
            lines = self._answers.pop(0)
            if lines is not None:
                marks = [
                    b'{"type": "printf", "data": "m %s %d\\n"}\n' % (word, FIRST_SIGNAL + token)
                    for word in (b"begin", b"end")
                ]
                os.write(self._write, marks[0] + lines + marks[1])

    def print(self, data: bytes) -> None:
        os.write(self._write, data)

    def end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._asked)
        os.close(self._asked)
        os.close(self._write)


def line(**values: int) -> bytes:
    pairs = ", ".join(f'"{key}": {value}' for key, value in values.items())
    return b'{"type": "map", "data": {"@x": {%s}}}\n' % pairs.encode()


def shown(found: Reader) -> dict[str, float]:
    text = "".join(lines.decode() for table in found.tables for _, lines in table.render())
    return {dict(labels)["key"]: value for labels, value in samples(text).get("ebpf_x_total", {}).items()}


def play(run: Callable[[Reader], Coroutine[None, None, None]]) -> None:
    asyncio.run(run(Reader(scripted())))


def test_each_read_asks_once_and_shows_the_answer() -> None:
    """The values as they are after the question."""

    async def run(found: Reader) -> None:
        bpftrace = Played([line(a=1), line(a=3, b=2)])
        found.adopt("m", bpftrace.output, bpftrace.ask)
        await found.read()
        assert shown(found) == {"a": 1}
        await found.read()
        assert shown(found) == {"a": 3, "b": 2}
        assert bpftrace.questions == 2
        bpftrace.end()

    play(run)


def test_no_answer_is_said_and_one_that_comes_late_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values are those of before, until it comes."""
    monkeypatch.setattr(reader, "ANSWER_SECONDS", 0.01)

    async def run(found: Reader) -> None:
        bpftrace = Played([line(a=1), None, line(a=5)])
        found.adopt("m", bpftrace.output, bpftrace.ask)
        await found.read()
        await found.read()
        assert (found.late, shown(found)) == (True, {"a": 1})
        await found.read()
        assert (found.late, shown(found)) == (False, {"a": 5})
        bpftrace.end()

    play(run)


def test_a_map_has_to_be_missing_twice() -> None:
    """Else the word to print it may have been lost, and what it holds would be counted a second time."""

    async def run(found: Reader) -> None:
        bpftrace = Played([line(a=7), b"", line(a=8), b"", b"", line(a=3)])
        found.adopt("m", bpftrace.output, bpftrace.ask)
        for expected in (7, 8, 8, 11):
            await found.read()
            assert (found.late, shown(found)) == (False, {"a": expected})
        assert bpftrace.questions == 6
        bpftrace.end()

    play(run)


def test_another_bpftrace_goes_on_where_the_last_one_ended() -> None:
    """Also with what that one printed at its end; without any, a read is over at once."""

    async def run(found: Reader) -> None:
        first = Played([line(a=7)])
        found.adopt("m", first.output, first.ask)
        await found.read()
        first.print(b'{"type": "lost_events", "data": {"events": 2}}\n\n\n' + line(a=9))
        first.end()
        second = Played([line(a=9)])
        found.adopt("m", second.output, second.ask)
        assert shown(found) == {"a": 9}
        await found.read()
        assert (found.missed, shown(found)) == (2, {"a": 18})
        second.end()
        await found.read()
        assert not found.late
        await found.read()
        assert not found.late

    play(run)
