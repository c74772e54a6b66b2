# SPDX-License-Identifier: Apache-2.0
"""A bpftrace script's text: which maps it has, what they count, and what is added to it so that it tells them.

bpftrace's JSON does not say whether ``{"@x": 5}`` is a count() or a plain number, and ``"a,b"`` may be one part of a
key or two: the text says both.

To read the maps, bpftrace has to print them on demand. On SIGUSR1 it did so by itself, with no mark of the end, and
since 0.22 (pull request 3522) it does not. So a probe is added to the script, which prints a mark, the maps and another
mark whenever bpftrace is sent one of the signals that are ours; the marks have the signal's number in them. bpftrace
ignores these signals, and what the kernel tells the probe of is that they were sent: none is lost, and none does harm
before bpftrace is ready.
"""

import os
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path

# ours among the real-time signals; those below are the C library's or more often used by others
FIRST_SIGNAL = signal.SIGRTMIN + 2
TOKENS = signal.SIGRTMAX - FIRST_SIGNAL + 1
START_TOKEN = TOKENS - 1  # of the supervisor, until bpftrace answers for the first time; all others are the worker's

OWN_MAP = "@ebpf_exporter"

# what bpftrace takes for one token, and so is not to be looked into; a path may look as if it had a comment in it
_TOKENS = re.compile(r'"(?:\\.|[^"\\])*"|/\*.*?\*/|//[^\n]*|:[\w./#+*-]+', re.DOTALL)
_MAP = re.compile(r"@\w*")
_FUNCTION = re.compile(r"\s*=\s*(\w+)\s*\(")
_TYPES = {
    "count": "counter",
    "sum": "counter",
    "min": "gauge",
    "max": "gauge",
    "avg": "gauge",
    "stats": "summary",
    "hist": "histogram",
    "lhist": "histogram",
}
_NUMBER = re.compile(
    r"-?\d\w*|(__builtin_)?(pid|tid|uid|gid|cpu|nsecs|elapsed|cgroup|rand|numaid|curtask|retval|jiffies|ncpus)"
)
_TEXT = re.compile(
    r"(__builtin_)?(comm|username|func|probe|kstack|ustack)\b|(str|buf|usym|ksym|kstack|ustack|path)\s*\("
)


@dataclass
class Use:
    """What a script does with one of its maps: the aggregating functions and other ways by which it is assigned to,
    the expressions that make up its key, and whether keys of it are deleted."""

    functions: set[str] = field(default_factory=set)
    steps: set[str] = field(default_factory=set)  # of ++, --, =
    parts: tuple[str, ...] = ()
    deleted: bool = False

    @property
    def type(self) -> str:
        """counter, gauge, histogram or summary; none for what is no number worth showing.

        A map that is assigned to and deleted from is where a script keeps what it needs later, as in
        ``@start[tid] = nsecs``.
        """
        if self.functions:
            return next((_TYPES[name] for name in sorted(self.functions) if name in _TYPES), "none")
        if self.steps == {"++"}:
            return "counter"
        return "gauge" if self.steps and not (self.parts and self.deleted) else "none"

    @property
    def words(self) -> str:
        """How the map is written, for people: ``count()``, ``++``."""
        return ", ".join([*(f"{name}()" for name in sorted(self.functions)), *sorted(self.steps)])

    @property
    def texts(self) -> tuple[int, ...]:
        """For each part of the key: 0 a number, 2 a text, 1 either."""
        return tuple(0 if _NUMBER.fullmatch(part) else 2 if _TEXT.match(part) else 1 for part in self.parts)


def maps(text: str) -> dict[str, Use]:
    """Returns what a script does with each of its maps: ``{"@opens": Use(…)}``."""
    code = _TOKENS.sub(lambda found: _blank(found[0]), text)
    uses: dict[str, Use] = {}
    for found in _MAP.finditer(code):
        use = uses.setdefault(found[0], Use())
        before, after = code[: found.start()].rstrip(), code[found.end() :]
        if after.lstrip().startswith("["):
            parts, after = _key(after.lstrip()[1:])
            use.parts = use.parts or parts
        if re.search(r"\bdelete\s*\($", before):
            use.deleted = True
        elif (step := re.match(r"\s*(\+\+|--)", after)) or (step := re.search(r"(\+\+|--)$", before)):
            use.steps.add(step[1])
        elif (function := _FUNCTION.match(after)) and function[1] in {*_TYPES, "tseries"}:
            use.functions.add(function[1])
        elif re.match(r"\s*([-+*/%&|^]|<<|>>)?=(?!=)", after):
            use.steps.add("=")
    return uses


def _blank(token: str) -> str:
    """Comments are nothing, and a string is one whatever it says."""
    return '""' if token[0] == '"' else token if token[0] == ":" else " "


def _key(rest: str) -> tuple[tuple[str, ...], str]:
    """Splits ``comm, f(1, 2)] = …`` into the key's parts and what comes after the bracket."""
    parts: list[str] = []
    depth = start = 0
    for at, letter in enumerate(rest):
        if letter in "([{":
            depth += 1
        elif letter in ")]}" and depth:
            depth -= 1
        elif letter == "]":
            return (*parts, rest[start:at].strip()), rest[at + 1 :]
        elif letter == "," and not depth:
            parts.append(rest[start:at].strip())
            start = at + 1
    return (), ""


def ends(text: str) -> bool:
    """Whether a script can end by itself."""
    return bool(re.search(r"\bexit\s*\(", _TOKENS.sub(lambda found: _blank(found[0]), text)))


# the first process's namespace has this number since it has one (PROC_PID_INIT_INO, include/linux/proc_ns.h)
_HOST_PIDS = "pid:[4026531836]"


def with_printer(text: str, names: list[str], marker: str, pid: int) -> str:
    """Returns a script and the probe that prints these maps between two marks, for bpftrace run as process pid.

    The printed marks are ``MARKER begin N`` and ``MARKER end N``. Our own map is printed too: its one key, a newline,
    shows how this bpftrace escapes keys. In a namespace of processes the kernel's number of pid is not known: there,
    all scripts print when one is asked to, each with its own marks.
    """
    alone = Path("/proc/self/ns/pid").readlink() == Path(_HOST_PIDS)
    whom = f"args->pid == {pid}" if alone else 'args->comm == "bpftrace"'
    prints = "".join(f"print({name});" for name in [OWN_MAP, *names])
    return (
        f"{text}\n"
        f"tracepoint:signal:signal_generate /{whom} && args->sig >= {int(FIRST_SIGNAL)}/\n"
        f'{{ printf("{marker} begin %d\\n", args->sig); {OWN_MAP}["\\n"] = 1; {prints} '
        f'printf("{marker} end %d\\n", args->sig); }}\n'
    )


def ask(pid: int, token: int) -> None:
    """Makes bpftrace, run as process pid, print its maps. Raises ProcessLookupError where it has ended."""
    os.kill(pid, FIRST_SIGNAL + token % TOKENS)
