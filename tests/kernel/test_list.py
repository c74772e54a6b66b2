# SPDX-License-Identifier: Apache-2.0
"""``ebpf-exporter list`` against bpftrace, readelf and the kernel's own files."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernel.conftest import lacks
from tests.kernel.daemon import COMMAND

pytestmark = pytest.mark.anywhere

EVENTS = Path("/sys/kernel/tracing/events")
PMUS = Path("/sys/bus/event_source/devices")
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def run(*arguments: str, prefix: list[str] | None = None) -> tuple[int, list[str], list[str]]:
    """Runs the command. Returns its exit code and the lines of stdout and stderr."""
    command = [*(prefix or []), str(COMMAND), "list", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def bpftrace(*arguments: str) -> list[str]:
    if not shutil.which("bpftrace"):
        pytest.skip("needs bpftrace")
    done = subprocess.run(["bpftrace", *arguments], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()


def readelf(*arguments: str) -> str:
    if not shutil.which("readelf"):
        pytest.skip("needs readelf")
    return subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, check=True).stdout


def offered(family: str) -> None:
    """Skips where this kernel does not have a family, having looked that the list says so."""
    code, out, err = run(f"{family}:*")
    if not out:
        assert code == 1
        assert len(err) == 1
        assert err[0].startswith(f"{family}: this kernel ")
        lacks(family, err[0])


@pytest.mark.parametrize("pattern", ["tracepoint:*", "tracepoint:sched:*", "tracepoint:syscalls:sys_enter_*open*"])
def test_tracepoints_are_those_of_bpftrace(pattern: str) -> None:
    """All of them, and those of a glob: exactly the same names."""
    code, out, err = run(pattern)
    assert (code, err) == (0, [])
    assert sorted(out) == sorted(bpftrace("-l", pattern))


@pytest.mark.parametrize(
    "event", ["syscalls:sys_enter_openat", "syscalls:sys_exit_read", "sched:sched_switch", "sched:sched_process_exec"]
)
def test_fields_are_those_of_bpftrace(event: str) -> None:
    """The same names with the same types; but that a string is behind the record is bpftrace's own word."""
    code, out, err = run("-v", f"tracepoint:{event}")
    expected = [
        re.sub(r"__data_loc (\w+)\[\] (\w+)", r"\1 \2[]", line) for line in bpftrace("-lv", f"tracepoint:{event}")
    ]
    assert (code, out, err) == (0, expected, [])


def test_part_of_a_name_and_a_whole_one() -> None:
    """A word is found wherever it stands in a name; what is a whole name means itself alone."""
    expected = sorted(f"tracepoint:{path.parent.name}:{path.name}" for path in EVENTS.glob("*/*sys_enter_open*"))
    _, out, _ = run("sys_enter_open")
    assert [name for name in out if name.startswith("tracepoint:")] == expected
    assert len(expected) > 1
    _, out, _ = run("tracepoint:syscalls:sys_enter_openat")
    assert out == ["tracepoint:syscalls:sys_enter_openat"]


def test_what_matches_nothing() -> None:
    """It is told, with what is most like it; the exit code is that of grep."""
    code, out, err = run("tracepoint:sched:sched_swich")
    assert (code, out) == (1, [])
    assert err[0].startswith(
        "nothing here matches tracepoint:sched:sched_swich; did you mean tracepoint:sched:sched_switch"
    )


def test_a_family_is_listed_or_told_to_be_missing() -> None:
    """Either its hooks are on stdout, or why there are none is on stderr; never both, never neither."""
    code, out, err = run()
    assert code == 0
    listed = {line.partition(":")[0] for line in out}
    missing = {line.partition(":")[0] for line in err}
    assert listed | missing == {
        "tracepoint", "rawtracepoint", "kprobe", "fentry", "software", "hardware", "profile",
    }  # fmt: skip
    assert not listed & missing
    assert ("kprobe" in listed) == (PMUS / "kprobe").exists()
    assert {"tracepoint", "software", "profile"} <= listed


def test_kprobes_with_their_parameters() -> None:
    """vfs_read can be probed; what it takes and returns is that of the kernel's source."""
    offered("kprobe")
    code, out, err = run("-v", "kprobe:vfs_read")
    signature = ["struct file * file", "char * buf", "size_t count", "loff_t * pos", "ssize_t retval"]
    assert (code, out, err) == (0, ["kprobe:vfs_read", *(f"    {line}" for line in signature)], [])
    assert run("kretprobe:vfs_read") == (0, ["kretprobe:vfs_read"], [])


def test_fentry_functions_with_their_parameters() -> None:
    """Those that BTF has and ftrace knows."""
    offered("fentry")
    code, out, err = run("-v", "fentry:vfs_read")
    signature = ["struct file * file", "char * buf", "size_t count", "loff_t * pos", "ssize_t retval"]
    assert (code, out, err) == (0, ["fentry:vfs_read", *(f"    {line}" for line in signature)], [])


def test_software_events_and_their_periods() -> None:
    """By perf's names, aliases too."""
    code, out, err = run("software:*")
    assert (code, err) == (0, [])
    assert {"software:page-faults:100", "software:faults:100", "software:cs:1000", "software:major-faults:1"} <= {*out}


def test_functions_of_a_library_are_those_of_readelf() -> None:
    """A library by its short name, a glob over its functions; the hook has the whole path."""
    code, out, err = run("uprobe:libc:get*")
    path = Path(out[0].split(":")[1])
    rows = [line.split() for line in readelf("-s", str(path)).splitlines()]
    names = {
        row[7].partition("@")[0]
        for row in rows
        if len(row) > 7 and row[3] in ("FUNC", "IFUNC") and row[6] != "UND" and row[7].startswith("get")
    }
    assert (code, err) == (0, [])
    assert out == [f"uprobe:{path}:{name}" for name in sorted(names)]
    assert "uprobe:" not in "".join(run("getpid")[1])


def test_usdt_probes_are_those_of_readelf() -> None:
    """All of a file, those of a glob, and with -v their arguments."""
    pythons = map(Path, ("/usr/bin/python3.11", "/usr/bin/python3.13", "/usr/bin/python3"))
    path = next((file for file in pythons if file.exists()), None)
    if path is None or not (found := re.findall(r"Provider: (\S+)\s+Name: (\S+)", readelf("-n", str(path)))):
        pytest.skip("no file with USDT probes here")
    names = [f"usdt:{path}:{provider}:{name}" for provider, name in dict.fromkeys(found)]
    assert run(f"usdt:{path}:*") == (0, names, [])
    functions = [name for name in names if ":function" in name]
    assert run(f"usdt:{path}:function*")[1] == run(f"usdt:{path}:python:function*")[1] == functions
    notes = readelf("-n", str(path))
    arguments = dict.fromkeys(
        re.findall(r"Name: function__entry\n\s+Location: .*\n\s+Arguments: (.*\S)", notes),
    )
    assert run("-v", f"usdt:{path}:function__entry")[1] == [
        f"usdt:{path}:python:function__entry",
        *(f"    {line}" for line in arguments),
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("uprobe:/no/such/file:x", "ebpf-exporter: there is no /no/such/file here"),
        ("uprobe:no-such-library:x", "ebpf-exporter: there is no library and no program no-such-library here"),
        ("usdt:", "ebpf-exporter: usdt: of which file? usdt:/PATH:PATTERN or usdt:LIBRARY:PATTERN"),
    ],
)
def test_a_file_that_is_not_there(pattern: str, expected: str) -> None:
    """One line says what is wrong."""
    assert run(pattern) == (1, [], [expected])


def test_a_user_without_privileges_is_told_what_cannot_be_read() -> None:
    """The rest is listed."""
    code, out, err = run(prefix=NOBODY)
    assert "tracepoint: cannot read /sys/kernel/tracing: only root can" in err
    assert not any(line.startswith("tracepoint:") for line in out)
    assert code == (0 if out else 1)


def test_a_pipe_that_closes_ends_it_quietly() -> None:
    """As with `| head -1`: no traceback, no words."""
    read, write = os.pipe()
    with subprocess.Popen([str(COMMAND), "list", "tracepoint:*"], stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        os.close(read)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
