# SPDX-License-Identifier: Apache-2.0
"""doctor.py: what is found as a table and as JSON. That it finds what is so is tested on a kernel."""

import dataclasses
import json

import pytest

from exporter import doctor
from exporter.doctor import ABSENT, FAILED, MOVED, STILL, Finding
from exporter.probe import Probe, Selftest
from exporter.status import Attempt

from .support import counter, label, probe

PROBE = probe(counter("ebpf_a_total", label("comm", "comm")))
TESTED = dataclasses.replace(PROBE, name="tested", selftest=Selftest(("/bin/true",)))
TRIED = (
    Attempt("fexit", "this kernel does not allow tracing programs", "the kernel's words"),
    Attempt("kprobe", "this kernel has no kprobes", ""),
)


@pytest.mark.parametrize(
    ("which", "counters", "good"),
    [
        (TESTED, MOVED, True),
        (TESTED, STILL, False),
        (TESTED, FAILED, False),
        (TESTED, ABSENT, False),
        (PROBE, MOVED, True),
        (PROBE, STILL, True),
        (PROBE, FAILED, False),
        (PROBE, ABSENT, True),
    ],
)
def test_what_is_good(which: Probe, counters: str, good: bool) -> None:
    """Bad is what failed, and what did not count the thing that it must count."""
    assert Finding(which, counters).good == good


def test_table() -> None:
    """Columns stand under each other; what was tried before stands below its row, and so do reasons."""
    found = [
        Finding(TESTED, MOVED, mechanism="tracepoint", tried=TRIED, runs=2, nanoseconds=3001),
        Finding(PROBE, STILL, "its programs never ran", mechanism="uprobe+uretprobe", runs=0),
        Finding(PROBE, FAILED, "; ".join(one.reason for one in TRIED), tried=TRIED),
    ]
    assert doctor.table(found, 80) == (
        "PROBE   MECHANISM         NS/RUN  COUNTERS\n"
        "tested  tracepoint         1,500  moved\n"
        "    fexit: this kernel does not allow tracing programs\n"
        "    kprobe: this kernel has no kprobes\n"
        "p       uprobe+uretprobe       -  did not move\n"
        "    its programs never ran\n"
        "p       -                      -  failed\n"
        "    fexit: this kernel does not allow tracing programs\n"
        "    kprobe: this kernel has no kprobes"
    )


@pytest.mark.parametrize(("asked", "width"), [(10, 60), (80, 80), (1000, 100)])
def test_long_reasons_are_wrapped(asked: int, width: int) -> None:
    """No line is longer than the terminal, nor so long that nobody likes to read it."""
    reason = " ".join(["word"] * 200)
    lines = doctor.table([Finding(PROBE, FAILED, reason)], asked).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines[2:]).split()) == reason


def test_what_a_terminal_would_obey() -> None:
    """Words of the kernel's and of compilers do nothing to a terminal."""
    text = doctor.table([Finding(PROBE, FAILED, "a\x1b[2Jb\x07")], 80)
    assert text.splitlines()[-1] == "    a\\x1b[2Jb\\x07"


def test_json() -> None:
    """The same for programs, with all details."""
    one = Finding(TESTED, MOVED, mechanism="tracepoint", tried=TRIED, runs=2, nanoseconds=3001, moved=("ebpf_a_total",))
    [found] = json.loads(doctor.as_json([one]))["probes"]
    assert found == {
        "name": "tested",
        "counters": "moved",
        "good": True,
        "reason": "",
        "mechanism": "tracepoint",
        "tried": [dataclasses.asdict(attempt) for attempt in TRIED],
        "attachments": [],
        "runs": 2,
        "ns_per_run": 1500.5,
        "moved": ["ebpf_a_total"],
        "selftest": ["/bin/true"],
        "details": "",
    }
