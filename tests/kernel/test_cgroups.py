# SPDX-License-Identifier: Apache-2.0
"""Labels of cgroups against cgroups of our own, in which a known number of things is done.

What is counted are calls of readahead on no file: nothing else does that.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.cgroups import BORN_ENTRIES, BORN_PATH, UNKNOWN
from tests.kernel.daemon import Daemon, Samples, by, count

pytestmark = pytest.mark.anywhere

TOTAL = "ebpf_calls_total"
ID = "4f0a7c1b9e2d" + "0" * 52

YAML = """
purpose: Calls of readahead.
attach: tracepoint:syscalls:sys_enter_readahead
metrics:
  ebpf_calls_total:
    type: counter
    help: Calls.
    labels: {cgroup: cgroup, unit: unit, container: container}
"""
C = """
int on_event(struct tracepoint__syscalls__sys_enter_readahead *args)
{
    struct calls_key key = {};

    calls_add(&key, 1);
    return 0;
}
"""

_libc = ctypes.CDLL(None)


@pytest.fixture(params=["expression", "C"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return probe(tmp_path, request.param)


def probe(where: Path, language: str) -> Path:
    """Writes the probe ``calls``. Returns its folder."""
    if language == "C":
        (where / "calls.c").write_text(C)
        (where / "calls.yaml").write_text(YAML.replace("attach: ", "attach:\n  on_event: "))
    else:
        (where / "calls.yaml").write_text(YAML)
    return where


def apart(work: Callable[[], None]) -> None:
    """Does something in a process of its own, which may go to other cgroups."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def go(path: bytes) -> None:
    fd = os.open(path + b"/cgroup.procs", os.O_WRONLY)
    os.write(fd, b"0")
    os.close(fd)


def call(times: int) -> None:
    for _ in range(times):
        _libc.readahead(-1, ctypes.c_int64(0), 0)


def calls_in(path: bytes, times: int) -> None:
    """Calls readahead so often in a cgroup that is there."""

    def work() -> None:
        go(path)
        call(times)

    apart(work)


def make(path: bytes) -> None:
    os.makedirs(path)  # noqa: PTH103


def shown(path: bytes) -> str:
    """A path as the page has it, when a parser has undone the escapes."""
    return path.decode("utf-8", "backslashreplace")


def through(top: bytes, names: list[bytes], times: Callable[[int], int]) -> None:
    """One process goes through cgroups that are each made, used and removed at once."""

    def work() -> None:
        for at, name in enumerate(names):
            make(top + b"/" + name)
            go(top + b"/" + name)
            call(times(at))
            if at:
                os.rmdir(top + b"/" + names[at - 1])  # noqa: PTH106
        go(top)
        os.rmdir(top + b"/" + names[-1])  # noqa: PTH106

    apart(work)


def test_each_cgroup_has_its_number(top: bytes, folder: Path) -> None:
    """Cgroups that were there before the start and such as are made later read as path, unit and container."""
    base = b"/" + os.path.basename(top)  # noqa: PTH119
    wanted = {
        b"/system.slice/ssh.service": (13, "", ""),
        b"/docker-" + ID.encode() + b".scope": (17, "", ID[:12]),
        b"/machine.slice/libpod-conmon-" + ID.encode() + b".scope": (19, "", ""),
        b"/machine.slice/machine-web\\x2d1.scope/payload": (23, "", "web-1"),
        b'/lxc.payload.q"uote\\ \xff\xfe \x1b': (29, "", 'q"uote\\ \\xff\\xfe \\x1b'),
        b"/kubepods/burstable/pod1/" + ID.encode(): (31, "", ID[:12]),
    }
    paths = list(wanted)
    for path in paths[:3]:
        make(top + path)
    with Daemon({"calls": {}}, folder) as daemon:
        for path in paths[3:]:
            make(top + path)
        for path, (times, _, _) in wanted.items():
            calls_in(top + path, times)
        total = sum(times for times, _, _ in wanted.values())
        # where there is an engine, a container that none has a name for is waited for
        daemon.wait_for(lambda: count(daemon.samples(), TOTAL) == total, "the last word on containers' names")
        samples = daemon.samples()
        state = daemon.status("calls")
    found = {labels["cgroup"]: (value, labels["unit"], labels["container"]) for labels, value in rows(samples)}
    assert found == {shown(base + path).replace("\x1b", "\\x1b"): value for path, value in wanted.items()}
    assert (state["state"], state["tried"]) == ("running", [])


def rows(samples: Samples) -> Iterator[tuple[dict[str, str], float]]:
    for (name, labels), value in samples.items():
        if name == TOTAL:
            # to Prometheus a label that is empty and one that is not there are the same
            yield {"unit": "", "container": "", **dict(labels)}, value


def test_short_lived_cgroups_have_their_names(top: bytes, tmp_path: Path) -> None:
    """1,000 cgroups that are made, act and are removed between two reads: each has its name and its number."""
    base = shown(b"/" + os.path.basename(top))  # noqa: PTH119
    names = [b"job-%d.scope" % number for number in range(1000)]
    with Daemon({"calls": {"max_series": 1100}}, probe(tmp_path, "expression"), interval="60s") as daemon:
        daemon.page()
        through(top, names, lambda at: at % 7 + 1)
        samples = daemon.samples()
        again = daemon.samples()
    found = by(samples, "cgroup", TOTAL)
    assert found == {f"{base}/{shown(name)}": at % 7 + 1 for at, name in enumerate(names)}
    assert by(again, "cgroup", TOTAL) == found


def test_more_short_lived_cgroups_than_can_be_kept(top: bytes, tmp_path: Path) -> None:
    """Of more births between two reads than there is room for, the rest is one series, and the sum is exact."""
    total = BORN_ENTRIES + 503
    names = [b"job-%d.scope" % number for number in range(total)]
    with Daemon({"calls": {"max_series": 5000}}, probe(tmp_path, "expression"), interval="60s") as daemon:
        daemon.page()
        through(top, names, lambda at: at % 3 + 1)
        samples = daemon.samples()
    assert count(samples, TOTAL) == sum(at % 3 + 1 for at in range(total))
    unknown = [labels for labels, _ in rows(samples) if labels["cgroup"] == UNKNOWN]
    # this host's other cgroups, if any were made, took room as well
    assert unknown == [{"cgroup": UNKNOWN, "unit": UNKNOWN, "container": UNKNOWN}]
    assert len(by(samples, "cgroup", TOTAL)) <= BORN_ENTRIES + 1


def test_what_was_unknown_stays_where_it_was(top: bytes, tmp_path: Path) -> None:
    """A path that is too long to be kept is found while it lives; what read as unknown never becomes less."""
    long = b"/".join([b"x" * 200] * (BORN_PATH // 200 + 1))
    with Daemon({"calls": {}}, probe(tmp_path, "expression"), interval="60s") as daemon:
        daemon.page()
        make(top + b"/" + long)
        through(top, [b"y" * 200 + b"/" + b"z" * 200], lambda _: 5)
        calls_in(top + b"/" + long, 7)
        first = by(daemon.samples(), "cgroup", TOTAL)
        calls_in(top + b"/" + long, 11)
        second = by(daemon.samples(), "cgroup", TOTAL)
    named = shown(b"/" + os.path.basename(top) + b"/" + long)  # noqa: PTH119
    assert first == {UNKNOWN: 5, named: 7}
    assert second == {UNKNOWN: 5, named: 18}


def test_a_new_worker_knows_the_names(top: bytes, tmp_path: Path) -> None:
    """When the worker ends and another takes over, it finds the cgroups that live and learns those that come."""
    base = shown(b"/" + os.path.basename(top))  # noqa: PTH119
    make(top + b"/old")
    with Daemon({"calls": {}}, probe(tmp_path, "expression"), interval="60s") as daemon:
        old = daemon.worker_pid()
        make(top + b"/born")
        daemon.page()
        os.kill(old, signal.SIGKILL)
        through(top, [b"between"], lambda _: 3)
        calls_in(top + b"/old", 5)
        calls_in(top + b"/born", 7)
        daemon.wait_for(lambda: count(daemon.samples(), TOTAL) >= 15, "what was counted meanwhile")
        found = by(daemon.samples(), "cgroup", TOTAL)
        assert daemon.worker_pid() != old
    assert found == {f"{base}/old": 5, f"{base}/born": 7, f"{base}/between": 3}


def test_what_ends_before_the_first_read_is_known(top: bytes, tmp_path: Path) -> None:
    """A cgroup that was there at the start has its name, though it ends before anything is read."""
    make(top + b"/early")
    with Daemon({"calls": {}}, probe(tmp_path, "expression"), interval="60s") as daemon:
        daemon.wait_for(lambda: bool(daemon.status("calls")["state"] == "running"), "the probe")
        calls_in(top + b"/early", 13)
        os.rmdir(top + b"/early")  # noqa: PTH106
        found = by(daemon.samples(), "cgroup", TOTAL)
    assert found == {f"{shown(b'/' + os.path.basename(top))}/early": 13}  # noqa: PTH119
