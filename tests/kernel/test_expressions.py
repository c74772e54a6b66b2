# SPDX-License-Identifier: Apache-2.0
"""Conditions and labels of probes in YAML: their counts are the truth's, and those of bpftrace in the same run."""

import ctypes
import json
import os
import platform
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from tests.kernel.daemon import Daemon, Samples, by, count

pytestmark = [
    pytest.mark.anywhere,
    pytest.mark.skipif(shutil.which("bpftrace") is None, reason="needs bpftrace"),
]

OPENAT = {"x86_64": 257}.get(platform.machine(), 56)  # the C library gives no mode to what makes no file
COMM = "xp workload"
AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)
_libc.readahead.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_size_t)

PR_SET_NAME = 15


class Same(NamedTuple):
    """A predicate as a probe has it, as bpftrace does, and what it is of an event."""

    ours: str
    theirs: str
    true: Callable[..., bool]


def wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


# 101 calls of readahead(fd, offset, count) that fail, each of numbers at an edge
_chance = Random(101)
READAHEADS = [
    (
        _chance.choice((-1, -5, -(2**31), 2**31 - 1, 1_000_003)),
        _chance.choice((0, 1, -1, 5, -5, 17, 255, 4095, 4096, 65536, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63))),
        _chance.choice((0, 1, 255, 2**16 - 1, 4096, 12288, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)),
    )
    for _ in range(101)
]
OF_READAHEAD = [
    Same("args.fd == -1", "(int32)args->fd == -1", lambda fd, __, ___: fd == -1),
    Same("args.fd < 0", "(int32)args->fd < 0", lambda fd, __, ___: fd < 0),
    Same("args.fd != -5", "(int32)args->fd != -5", lambda fd, __, ___: fd != -5),
    Same("args.offset < 0", "args->offset < 0", lambda _, offset, ___: offset < 0),
    Same("args.offset >= 4096", "args->offset >= 4096", lambda _, offset, ___: offset >= 4096),
    Same("args.offset <= -5", "args->offset <= -5", lambda _, offset, ___: offset <= -5),
    Same(
        "args.count > 9223372036854775807",
        "args->count > 0x7fffffffffffffff",
        lambda _, __, size: size > 2**63 - 1,
    ),
    Same("args.count >= 4096", "args->count >= 4096", lambda _, __, size: size >= 4096),
    Same(
        "0 < args.offset < 65536",
        "args->offset > 0 && args->offset < 65536",
        lambda _, offset, ___: 0 < offset < 65536,
    ),
    Same(
        "-6 < args.offset <= 17 != args.fd",
        "args->offset > -6 && args->offset <= 17 && 17 != (int32)args->fd",
        lambda fd, offset, ___: -6 < offset <= 17 != fd,
    ),
    Same(
        "args.offset == -1 or args.count == 0",
        "args->offset == -1 || args->count == 0",
        lambda _, offset, size: offset == -1 or size == 0,
    ),
    Same(
        "not (args.offset == -1 or args.count == 0)",
        "!(args->offset == -1 || args->count == 0)",
        lambda _, offset, size: not (offset == -1 or size == 0),
    ),
    Same(
        "args.fd == -1 and args.offset > 0 or args.count == 255",
        "(int32)args->fd == -1 && args->offset > 0 || args->count == 255",
        lambda fd, offset, size: (fd == -1 and offset > 0) or size == 255,
    ),
    Same(
        "args.fd == -1 and (args.offset > 0 or args.count == 255)",
        "(int32)args->fd == -1 && (args->offset > 0 || args->count == 255)",
        lambda fd, offset, size: fd == -1 and (offset > 0 or size == 255),
    ),
    # what is between has a higher rank than what compares, unlike in C: bpftrace needs the parentheses
    Same("args.count & 4095 == 0", "(args->count & 4095) == 0", lambda _, __, size: size & 4095 == 0),
    Same("args.count >> 12 == 1", "(args->count >> 12) == 1", lambda _, __, size: size >> 12 == 1),
    Same("args.count / 4096 == 3", "(args->count / 4096) == 3", lambda _, __, size: size // 4096 == 3),
    Same(
        "args.offset > 0 and args.offset % 7 == 3",
        "args->offset > 0 && (args->offset % 7) == 3",
        lambda _, offset, ___: offset > 0 and offset % 7 == 3,
    ),
    Same("args.offset << 1 < 0", "(int64)(args->offset << 1) < 0", lambda _, offset, ___: wrapped(offset << 1) < 0),
    Same("args.offset ^ 255 == 0", "(args->offset ^ 255) == 0", lambda _, offset, ___: offset ^ 255 == 0),
    Same("args.offset | 1 == 17", "(args->offset | 1) == 17", lambda _, offset, ___: offset | 1 == 17),
    Same("~args.offset == 0", "~args->offset == 0", lambda _, offset, ___: ~offset == 0),
    Same("-args.offset == 5", "-args->offset == 5", lambda _, offset, ___: -offset == 5),
    Same("args.offset * 3 == 51", "(args->offset * 3) == 51", lambda _, offset, ___: offset * 3 == 51),
    Same(
        "args.offset + 1 < args.offset",  # it wraps
        "(int64)(args->offset + 1) < args->offset",
        lambda _, offset, ___: offset == 2**63 - 1,
    ),
    Same(
        "args.offset - 4096 == 0 - 4096",
        "(args->offset - 4096) == -4096",
        lambda _, offset, ___: offset == 0,
    ),
    Same("s8(args.count) == -1", "(int8)args->count == -1", lambda _, __, size: size & 255 == 255),
    Same("u16(args.count) == 65535", "(uint16)args->count == 65535", lambda _, __, size: size & 65535 == 65535),
    Same("comm == 'xp workload'", 'comm == "xp workload"', lambda _, __, ___: True),
    Same("comm != 'xp  workload'", 'comm != "xp  workload"', lambda _, __, ___: True),
    Same("comm == 'xp workloa'", 'comm == "xp workloa"', lambda _, __, ___: False),
    Same("uid == 0 and gid == 0", "uid == 0 && gid == 0", lambda _, __, ___: True),
    Same("tid == pid", "tid == pid", lambda _, __, ___: True),
    Same("cpu < 0", "(int64)cpu < 0", lambda _, __, ___: False),
]

# 103 calls of openat(dfd, path, flags, mode)
LONG = "/nowhere/" + "a" * 90
PATHS = ("/nowhere/a", "/nowhere/b", "/dev/null", "", LONG, LONG + "b", "/nowhere/ü")
OPENATS = [
    (
        _chance.choice((AT_FDCWD, -1, 77)),
        _chance.choice(PATHS),
        _chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CLOEXEC, os.O_WRONLY | os.O_APPEND)),
        _chance.choice((0, 0o640, 0o777)),
    )
    for _ in range(103)
]
OF_OPENAT = [
    Same("args.dfd == -100", "(int32)args->dfd == -100", lambda dfd, __, ___, ____: dfd == AT_FDCWD),
    Same("args.flags & 3 == 1", "(args->flags & 3) == 1", lambda _, __, flags, ____: flags & 3 == 1),
    Same(
        "args.flags & 0x80000 and args.mode",
        "(args->flags & 0x80000) && args->mode",
        lambda _, __, flags, mode: bool(flags & 0x80000 and mode),
    ),
    Same("args.mode == 0o640", "args->mode == 0640", lambda _, __, ___, mode: mode == 0o640),
    Same(
        "str(args.filename) == '/nowhere/a'",
        'str(args->filename) == "/nowhere/a"',
        lambda _, path, ___, ____: path == "/nowhere/a",
    ),
    Same(
        "str(args.filename) != '/nowhere/a' and args.dfd < 0",
        'str(args->filename) != "/nowhere/a" && (int32)args->dfd < 0',
        lambda dfd, path, ___, ____: path != "/nowhere/a" and dfd < 0,
    ),
    Same("str(args.filename) == ''", 'str(args->filename) == ""', lambda _, path, ___, ____: path == ""),
    Same(
        "str(args.filename, 9) == '/nowhere'",  # its first eight bytes and the end
        'strncmp(str(args->filename), "/nowhere", 8) == 0',
        lambda _, path, ___, ____: path.startswith("/nowhere"),
    ),
    Same(
        "str(args.filename) == '/nowhere/ü'",
        'str(args->filename) == "/nowhere/ü"',
        lambda _, path, ___, ____: path == "/nowhere/ü",
    ),
]


def _probe(hook: str, predicates: list[Same], metric: str) -> dict[str, Any]:
    """A probe that counts each predicate by a label of its own."""
    labels = {f"p{at}": same.ours for at, same in enumerate(predicates)}
    return {
        "attach": hook,
        "where": f"comm == '{COMM}'",
        "metrics": {metric: {"type": "counter", "help": "Events.", "labels": labels}},
    }


def _clauses(hook: str, predicates: list[Same], name: str) -> str:
    return "".join(
        f'{hook} /comm == "{COMM}" && ({same.theirs})/ {{ @{name}{at} = count(); }}\n'
        for at, same in enumerate(predicates)
    )


@contextmanager
def bpftrace(script: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Runs a script beside what is within; at its end the result has its maps, as bpftrace prints them."""
    file = folder / "script.bt"
    file.write_text('BEGIN { printf("ready\\n"); }\n' + script)
    found: dict[str, Any] = {}
    process = subprocess.Popen(
        ["bpftrace", "-f", "json", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "ready" in line:
                break
        else:
            raise AssertionError(process.stderr.read() if process.stderr else "")
        yield found
        for line in _ended(process).splitlines():
            if line.strip():
                said = json.loads(line)
                if said["type"] == "map":
                    found.update(said["data"])
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _ended(process: subprocess.Popen[str]) -> str:
    """Interrupts bpftrace, which at times does not hear it (0.17). Returns what it says at its end."""
    for _ in range(12):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)[0]
    raise AssertionError("bpftrace does not end")


def work(what: Callable[[], None]) -> int:
    """Does something in a process of a name of its own. Returns its number."""
    child = os.fork()
    if not child:
        try:
            _libc.prctl(PR_SET_NAME, COMM.encode(), 0, 0, 0)
            what()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return child


def truth(predicates: list[Same], events: list[Any]) -> dict[str, int]:
    return {same.ours: sum(map(bool, (same.true(*event) for event in events))) for same in predicates}


def ours(samples: Samples, predicates: list[Same], metric: str) -> dict[str, int]:
    return {same.ours: int(count(samples, metric, **{f"p{at}": "true"})) for at, same in enumerate(predicates)}


def theirs(maps: dict[str, Any], predicates: list[Same], name: str) -> dict[str, int]:
    return {same.ours: maps.get(f"@{name}{at}", 0) for at, same in enumerate(predicates)}


def test_conditions_of_numbers(tmp_path: Path) -> None:
    """Signed and unsigned, wrapping, casts, chains, and, or, not: as in the calls made, and as in bpftrace."""
    hook, metric = "tracepoint:syscalls:sys_enter_readahead", "ebpf_readaheads_total"

    def calls() -> None:
        for call in READAHEADS:
            _libc.readahead(*call)

    with (
        Daemon({"calls": _probe(hook, OF_READAHEAD, metric)}) as daemon,
        bpftrace(_clauses(hook, OF_READAHEAD, "p"), tmp_path) as maps,
    ):
        work(calls)
        samples = daemon.samples()
    expected = truth(OF_READAHEAD, READAHEADS)
    assert count(samples, metric) == len(READAHEADS)
    assert ours(samples, OF_READAHEAD, metric) == expected
    assert theirs(maps, OF_READAHEAD, "p") == expected


def test_conditions_of_texts(tmp_path: Path) -> None:
    """Paths whole, cut and empty, flags by their bits, small negative numbers in slots of eight bytes."""
    hook, metric = "tracepoint:syscalls:sys_enter_openat", "ebpf_openats_total"
    by_path = "ebpf_paths_total"
    probe = _probe(hook, OF_OPENAT, metric)
    probe["metrics"][by_path] = {
        "type": "counter",
        "help": "Events.",
        "labels": {"path": "str(args.filename, 24)", "dfd": "args.dfd", "pid": "pid"},
    }
    script = _clauses(hook, OF_OPENAT, "p") + (
        f'{hook} /comm == "{COMM}"/ {{ @path[str(args->filename, 23)] = count(); @dfd[(int32)args->dfd] = count(); }}\n'
    )

    def calls() -> None:
        for dfd, path, flags, mode in OPENATS:
            fd = _libc.syscall(OPENAT, dfd, path.encode(), flags, mode)
            if fd >= 0:
                os.close(fd)

    with Daemon({"calls": probe}) as daemon, bpftrace(script, tmp_path) as maps:
        child = work(calls)
        samples = daemon.samples()
    expected = truth(OF_OPENAT, OPENATS)
    assert ours(samples, OF_OPENAT, metric) == expected
    assert theirs(maps, OF_OPENAT, "p") == expected
    paths = Counter(path.encode()[:23].decode() for _, path, _, _ in OPENATS)
    assert by(samples, "path", by_path) == paths
    # bpftrace counts without the NUL, and has no way to write what is not ASCII
    ascii_paths = {path: times for path, times in maps["@path"].items() if path.isascii()}
    assert ascii_paths.items() <= paths.items()
    assert len(ascii_paths) == len(paths) - 1
    dfds = Counter(str(dfd) for dfd, _, _, _ in OPENATS)
    assert by(samples, "dfd", by_path) == maps["@dfd"] == dfds
    assert by(samples, "pid", by_path) == {str(child): len(OPENATS)}


def test_what_calls_return(tmp_path: Path) -> None:
    """Of calls that fail the return value is a negative number."""
    hook, metric = "tracepoint:syscalls:sys_exit_openat", "ebpf_returns_total"
    returned = [
        Same("args.ret < 0", "args->ret < 0", lambda value: value < 0),
        Same("args.ret == -2", "args->ret == -2", lambda value: value == -2),
        Same("args.ret >= 0", "args->ret >= 0", lambda value: value >= 0),
        Same("-10 < args.ret < -1", "args->ret > -10 && args->ret < -1", lambda value: -10 < value < -1),
    ]
    wanted = [("/nowhere/a", -2)] * 13 + [("/dev/null/x", -20)] * 7 + [("/dev/null", 3)] * 11

    def calls() -> None:
        for path, _ in wanted:
            fd = _libc.syscall(OPENAT, AT_FDCWD, path.encode(), os.O_RDONLY, 0)
            if fd >= 0:
                os.close(fd)

    with (
        Daemon({"calls": _probe(hook, returned, metric)}) as daemon,
        bpftrace(_clauses(hook, returned, "p"), tmp_path) as maps,
    ):
        work(calls)
        samples = daemon.samples()
    expected = truth(returned, [(value,) for _, value in wanted])
    assert ours(samples, returned, metric) == expected
    assert theirs(maps, returned, "p") == expected


def test_texts_of_records(tmp_path: Path) -> None:
    """A text somewhere in the record, whose place the record tells, and one that is an array of the record."""
    program = tmp_path / "xp-program"
    program.symlink_to("/bin/true")
    times = 17
    exec_, switch = "tracepoint:sched:sched_process_exec", "tracepoint:sched:sched_switch"
    probes = {
        "execs": {
            "attach": exec_,
            "where": f"str(args.filename, 256) == '{program}' and args.pid == pid",
            "metrics": {"ebpf_execs_total": {"type": "counter", "help": "H.", "labels": {"path": "args.filename"}}},
        },
        "switches": {
            "attach": switch,
            "where": f"args.prev_comm == '{COMM}' and args.prev_state & 1 != 0",
            "metrics": {"ebpf_switches_total": {"type": "counter", "help": "H.", "labels": {"comm": "args.prev_comm"}}},
        },
    }
    script = (
        f'{exec_} /str(args->filename) == "{str(program)[:63]}" && args->pid == pid/ {{ @execs = count(); }}\n'
        f'{switch} /args->prev_comm == "{COMM}" && (args->prev_state & 1) != 0/ {{ @switches = count(); }}\n'
    )

    def sleeps() -> None:
        for _ in range(times):
            ctypes.CDLL(None).usleep(1000)

    with Daemon(probes) as daemon, bpftrace(script, tmp_path) as maps:
        for _ in range(times):
            subprocess.run([str(program)], check=True)
        work(sleeps)
        samples = daemon.samples()
    assert by(samples, "path", "ebpf_execs_total") == {str(program)[:63]: times}
    assert maps["@execs"] == times
    assert by(samples, "comm", "ebpf_switches_total") == {COMM: maps["@switches"]}
    assert maps["@switches"] >= times
