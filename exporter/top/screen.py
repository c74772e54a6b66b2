# SPDX-License-Identifier: Apache-2.0
"""The view on a terminal, by curses. Whatever ends it, the terminal is as it was before."""

import contextlib
import curses
import os
import select
import signal
import sys
from types import FrameType

from exporter.top import text, view
from exporter.top.client import Client, Unanswered
from exporter.top.fetcher import Fetcher
from exporter.top.view import View

_ESCAPE_MS = 100  # after which an escape sign is the key of that name, and not the head of another's sequence
_KEYS = {
    "\n": "enter",
    "\r": "enter",
    "\t": "tab",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\b": "backspace",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "pageup",
    curses.KEY_NPAGE: "pagedown",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
}
_REDRAW = "\x0c"  # Ctrl-L


def usable() -> bool:
    """Whether there is a terminal to read keys from and to draw on: one whose cursor can be placed."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        curses.setupterm()
    except curses.error:  # it is none that terminfo knows
        return False
    return curses.tigetstr("cup") is not None


def run(shown: View, client: Client) -> None:
    """Shows what the client is answered, until a key, a signal or Ctrl-C ends it."""
    signal.signal(signal.SIGTERM, _end)
    try:
        curses.wrapper(_Screen, shown, client)
    except KeyboardInterrupt:
        return
    except (OSError, curses.error):
        if _is_there():
            raise
        # it ends with its terminal, and there is nothing to restore


def _is_there() -> bool:
    try:
        os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return False
    return True


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # by way of all that restores the terminal


class _Screen:
    """A run of it: made, it is over."""

    def __init__(self, window: "curses.window", shown: View, client: Client) -> None:
        self._window = window
        self._view = shown
        self._view.encoding = window.encoding
        curses.set_escdelay(_ESCAPE_MS)
        with contextlib.suppress(curses.error):  # a terminal without such a cursor
            curses.curs_set(0)
        window.nodelay(True)
        self._styles = _styles()
        ears, mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        signal.signal(signal.SIGWINCH, lambda *_: None)  # that it came is enough
        self._fetcher = Fetcher(client, shown.interval, lambda: _wake(mouth))
        try:
            while not self._view.quits:
                self._fetcher.want(None if self._view.paused else self._view.probe)
                self._draw()
                select.select([sys.stdin, ears], [], [])
                with contextlib.suppress(BlockingIOError):
                    os.read(ears, 4096)
                self._take()
                self._keys()
        finally:
            signal.set_wakeup_fd(-1)
            self._leave()

    def _leave(self) -> None:
        """Where a terminal has no second screen to come back from, what follows is written on its last line."""
        with contextlib.suppress(curses.error):
            self._window.move(self._window.getmaxyx()[0] - 1, 0)
            self._window.clrtoeol()
            self._window.refresh()

    def _take(self) -> None:
        for probe, answer in self._fetcher.answers():
            if isinstance(answer, Unanswered):
                if probe == self._view.probe and not self._view.paused:
                    self._view.fail(str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            elif not self._view.paused:
                self._view.take(answer)

    def _keys(self) -> None:
        while True:
            try:
                key = self._window.get_wch()
            except curses.error:  # there is none more
                return
            if key == _REDRAW:
                self._window.redrawwin()
            elif isinstance(key, str) or key in _KEYS:
                self._view.press(_KEYS.get(key, key if isinstance(key, str) else ""))

    def _draw(self) -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        if (size.lines, size.columns) != self._window.getmaxyx():
            curses.resizeterm(max(1, size.lines), max(1, size.columns))
        lines, columns = self._window.getmaxyx()
        self._window.erase()
        for number, line in enumerate(self._view.frame(columns, lines)):
            with contextlib.suppress(curses.error):  # after the last column of the last line there is no place
                self._window.addstr(number, 0, text.of(self._view.encoding, line.text), self._styles[line.style])
        self._window.refresh()


def _wake(mouth: int) -> None:
    with contextlib.suppress(BlockingIOError):  # it is woken up anyhow
        os.write(mouth, b"\0")


def _styles() -> dict[str, int]:
    red = curses.A_BOLD
    with contextlib.suppress(curses.error):  # a terminal without colours, or none of its own to leave as they are
        curses.use_default_colors()
        curses.init_pair(1, curses.COLOR_RED, -1)
        red = curses.color_pair(1)
    return {
        view.TITLE: curses.A_REVERSE,
        view.HEAD: curses.A_BOLD | curses.A_UNDERLINE,
        view.ROW: curses.A_NORMAL,
        view.SELECTED: curses.A_REVERSE,
        view.BAD: red,
        view.ALERT: red | curses.A_REVERSE,
        view.DETAIL: curses.A_NORMAL,
        view.KEYS: curses.A_DIM,
    }
