# SPDX-License-Identifier: Apache-2.0
"""The worker's end: asks bpftrace for its maps, and takes what it prints.

To ask is to write a byte to the supervisor, which alone may signal bpftrace; the byte is a number that comes back in
the marks around the maps, so it is known that they were read after they were asked for. No answer is waited for longer
than ANSWER_SECONDS; one that comes late is taken when it comes.
"""

import asyncio
import contextlib
import os

from exporter.bpftrace.output import Block, Parser
from exporter.bpftrace.script import START_TOKEN
from exporter.bpftrace.totals import shown
from exporter.probe import Probe

ANSWER_SECONDS = 0.5
_QUESTIONS = 3  # until an answer is whole
_PIECE = 256 * 1024  # bytes that are read before others have their turn
_OLD_PIECES = 64  # more than a pipe holds, and an end where a script prints without one


class Reader:
    """One script's maps, through all lives of the bpftrace that runs it. ``late``: the last question is not answered,
    what is shown is older."""

    def __init__(self, probe: Probe) -> None:
        assert probe.script is not None
        self.probe = probe
        self._maps = {map_.name: bool(map_.texts) for map_ in probe.script.maps}
        self._shown = {map_.name: shown(map_, probe.max_series) for map_ in probe.script.maps}
        self.tables = list(self._shown.values())
        self.late = False
        self._lost_before = 0
        self._parser: Parser | None = None
        self._output = self._ask = -1
        self._token = 0
        self._filled: set[str] = set()  # maps that had entries at the last answer
        self._vanished: set[str] = set()  # and those of them that the last one did not have
        self._answered: asyncio.Future[bool] | None = None

    @property
    def missed(self) -> int:
        """Events that bpftrace lost."""
        return self._lost_before + (self._parser.lost if self._parser else 0)

    def adopt(self, marker: str, output: int, ask: int) -> None:
        """Reads another bpftrace from now on: its output, and where to write to have it asked."""
        while self._output >= 0 and self._readable():  # what the last one wrote before it ended
            pass
        if self._output >= 0:
            self._ended()
        if self._parser is not None:
            self._lost_before += self._parser.lost
        for table in self.tables:
            table.forget()
        if self._ask >= 0:
            os.close(self._ask)
        self._parser = Parser(marker, self._maps)
        self._output, self._ask = output, ask
        for fd in (output, ask):
            os.set_blocking(fd, False)
        self._filled.clear()
        asyncio.get_running_loop().add_reader(output, self._readable)
        for _ in range(_OLD_PIECES):  # what another worker asked for and did not read
            if self._output < 0 or not self._readable():
                break

    def close(self) -> None:
        """Reads no more: the script is not wanted any more."""
        if self._output >= 0:
            self._ended()
        if self._ask >= 0:
            os.close(self._ask)
            self._ask = -1

    async def read(self) -> None:
        """Brings the series up to now, if bpftrace answers in time."""
        self.late = self._output >= 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                for _ in range(_QUESTIONS):
                    if self._output < 0 or await self._answer():
                        self.late = False
                        break

    async def _answer(self) -> bool:
        """Asks once. Returns whether the answer was whole."""
        self._token = (self._token + 1) % START_TOKEN
        self._answered = asyncio.get_running_loop().create_future()
        with contextlib.suppress(OSError):  # full, as the supervisor has no time; or at its end, which the output shows
            os.write(self._ask, bytes([self._token]))
        return await self._answered

    def _readable(self) -> bool:
        """Takes a piece of the output. Returns whether there was any."""
        assert self._parser is not None
        try:
            data = os.read(self._output, _PIECE)
        except BlockingIOError:
            return False
        for block in self._parser.feed(data):
            self._take(block)
        if not data:
            self._ended()
        return True

    def _ended(self) -> None:
        assert self._parser is not None
        asyncio.get_running_loop().remove_reader(self._output)
        os.close(self._output)
        self._output = -1
        if (final := self._parser.end()) is not None:
            self._take(final)
        self._answer_is(whole=True)  # the last there will be

    def _take(self, block: Block) -> None:
        """Takes a block. A map that is not there is empty, or the word to print it was lost, which bpftrace may say
        later: so one that had entries has to be missing twice. At bpftrace's end it may be cut off."""
        vanished = self._filled - block.maps.keys() if block.token is not None else set()
        whole = not block.torn and vanished <= self._vanished
        self._vanished = vanished
        if whole:
            for name, table in self._shown.items():
                entries = block.maps.get(name, [] if block.token is not None else None)
                if entries is not None:
                    table.take(entries)
            self._filled = set(block.maps)
        if block.token == self._token:
            self._answer_is(whole)

    def _answer_is(self, whole: bool) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(whole)
