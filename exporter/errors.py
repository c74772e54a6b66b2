# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as a tree.

ExporterError
├── ConfigError        a file that a user wrote is wrong; holds every problem found, each with file and line
├── StartError         the daemon can't start here: not root, a port is taken, a library is missing
└── ProbeError         one probe can't run; all others do
    ├── HookError      what a hook gives can't be known here: no BTF, no tracefs, no right to read them
    │   └── UnknownHook    it does not exist here
    ├── HeadersError   neither BTF nor kernel headers
    ├── CompileError   the compiler refused the C; holds the compiler's words
    ├── LoadError      the kernel refused a program or a map; holds the verifier's words
    └── AttachError    a hook does not exist here or can't be attached to

All are made from positional arguments alone, so that they survive being pickled on the way between two processes.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class ExporterError(Exception):
    """Anything that a user is told in one line and without a traceback."""


@dataclass(frozen=True, order=True)
class Problem:
    """One fault in a user's file. ``line`` counts from 1; 0 stands for the file as a whole. Sorted by file and line."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else f"{self.path}"
        return one_line(f"{place}: {self.message}")


class ConfigError(ExporterError):
    """A file that a user wrote is wrong. ``problems`` holds all that was found, in the order of the files' lines."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class StartError(ExporterError):
    """The daemon can't start on this host as it was asked to."""


class ProbeError(ExporterError):
    """One probe can't run. ``reason`` is one line; ``details`` what the compiler or the kernel said, as it said it."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason, details)
        self.reason = reason
        self.details = details

    def __str__(self) -> str:
        return self.reason


class HookError(ProbeError):
    """What a hook is and gives can't be known here."""


class UnknownHook(HookError):
    """There is no such hook, function or file here. ``nearest`` has the names most like it, best first."""

    def __init__(self, reason: str, nearest: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.args = (reason, nearest)
        self.nearest = nearest


class HeadersError(ProbeError):
    """There is nothing here to compile against."""


class CompileError(ProbeError):
    """The compiler refused the C of a probe."""


class LoadError(ProbeError):
    """The kernel refused a program or a map."""


class AttachError(ProbeError):
    """A program was loaded but can't be attached to its hook. ``errno`` is the kernel's, 0 where it said none."""

    def __init__(self, reason: str, details: str = "", errno: int = 0) -> None:
        super().__init__(reason, details)
        self.args = (reason, details, errno)
        self.errno = errno


def one_line(text: str) -> str:
    """Returns the text as it is, or, where signs of it can't be printed, with escapes as JSON has them."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def one_of(word: str, allowed: Sequence[str]) -> str:
    """Returns what could stand in a word's place: the likely one, if one is near, and all that are allowed."""
    near = difflib.get_close_matches(word, allowed, n=1)
    listed = f"allowed: {', '.join(allowed) or 'none'}"
    return f"did you mean {near[0]!r}? {listed}" if near else listed
