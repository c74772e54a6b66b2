# SPDX-License-Identifier: Apache-2.0
"""A real terminal, which is tmux's: a command on it, keys for it, and what is to be seen."""

import os
import re
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

SECONDS = 60.0  # on a machine that has much else to do


class Terminal:
    """Runs a command; when that has ended, ``ended with CODE`` is on the screen, and the terminal stays."""

    def __init__(
        self, *command: object, size: tuple[int, int] = (80, 24), environment: Mapping[str, str | None] | None = None
    ) -> None:
        """size is columns and lines. Of the environment, None takes a name away."""
        self._folder = tempfile.TemporaryDirectory()
        self._work = Path(self._folder.name)
        self._size = size
        self._environment = {"LC_ALL": "C.UTF-8", "TERM": "screen", **(environment or {})}
        self._command = shlex.join(map(str, command))
        self._open = False
        self.received = b""  # all that the terminal was sent

    def __enter__(self) -> Self:
        columns, lines = self._size
        gone = [word for name, value in self._environment.items() if value is None for word in ("-u", name)]
        kept = [f"{name}={value}" for name, value in self._environment.items() if value is not None]
        run = f"{shlex.join(['env', *gone, *kept])} {self._command}"
        pipe, begin = self._work / "pipe", self._work / "begin"
        os.mkfifo(pipe)
        os.mkfifo(begin)
        script = (
            f"echo before; read -r _ <{begin}; stty -g >{self._work}/first; {run}; code=$?; stty -g >{self._work}/last;"
            ' echo "ended with $code"; exec cat'
        )
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", lines, f"bash -c {shlex.quote(script)}")
        self._open = True
        self.tmux("pipe-pane", f"exec cat >{pipe}")
        self._pipe = os.open(pipe, os.O_RDONLY)
        with begin.open("w") as go:
            go.write("\n")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        os.close(self._pipe)
        self._folder.cleanup()

    def close(self) -> None:
        """Closes the terminal, as the window of one is closed."""
        if self._open:
            self._open = False
            self.tmux("kill-server")

    def tmux(self, *words: object) -> str:
        command = ["tmux", "-u", "-S", str(self._work / "socket"), *map(str, words)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "TMUX"))}
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env={**environment, "LC_ALL": "C.UTF-8"}
        ).stdout

    def press(self, *keys: str) -> None:
        """Presses keys, by tmux's names; a text of several signs is typed."""
        for key in keys:
            self.tmux("send-keys", *([key] if key in _NAMED or len(key) == 1 else ["-l", key]))

    def resize(self, columns: int, lines: int) -> None:
        self.tmux("resize-window", "-x", columns, "-y", lines)

    def screen(self) -> list[str]:
        """Returns the lines that are to be seen, without what is empty at their ends."""
        return [line.rstrip() for line in self.tmux("capture-pane", "-p").split("\n")[:-1]]

    def when(self, condition: Callable[[list[str]], object]) -> list[str]:
        """Returns the screen as soon as a condition holds for it: looks again when the terminal has been sent more."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            screen = self.screen()
            if condition(screen):
                return screen
            ready, _, _ = select.select([self._pipe], [], [], 1.0)
            if ready:
                self.received += os.read(self._pipe, 65536)
        raise AssertionError("\n".join(screen))

    def wait_for(self, pattern: str) -> list[str]:
        """Returns the screen when a line has this expression."""
        return self.when(lambda screen: any(re.search(pattern, line) for line in screen))

    def wait_for_end(self) -> tuple[int, bool]:
        """Returns the command's code, and whether the terminal is set as it was before."""
        screen = self.wait_for(r"^ended with \d+$")
        code = next(int(line.removeprefix("ended with ")) for line in screen if line.startswith("ended with "))
        return code, (self._work / "first").read_text() == (self._work / "last").read_text()

    def pid(self, name: str) -> int:
        """Returns the process of the command, whose script has this name."""
        shell = self.tmux("list-panes", "-F", "#{pane_pid}").strip()
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        return next(int(one) for one in children if name in Path(f"/proc/{one}/cmdline").read_text())


_NAMED = {
    "Enter",
    "Escape",
    "Tab",
    "BSpace",
    "Up",
    "Down",
    "Left",
    "Right",
    "PPage",
    "NPage",
    "Home",
    "End",
    "C-c",
    "C-u",
    "C-z",
}
