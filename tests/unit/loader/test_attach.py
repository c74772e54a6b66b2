# SPDX-License-Identifier: Apache-2.0
"""loader/attach.py: what holds a program, and whether its misses are told, on kernels that this one is not."""

import ctypes
import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import libbpf, perf
from exporter.errors import AttachError, LoadError
from exporter.loader import attach
from exporter.probe import Hook


@pytest.fixture
def event() -> Iterator[int]:
    """What stands in for a perf event: a descriptor."""
    fd = os.memfd_create("event")
    yield fd
    os.close(fd)


def refusing(number: int) -> object:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


def test_without_links_the_perf_event_itself_is_given_its_program(monkeypatch: pytest.MonkeyPatch, event: int) -> None:
    """Before 5.15 a link is refused as an unknown kind: the program goes to the event, which must then be held."""
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(libbpf, "link_create", refusing(errno.EINVAL))
    monkeypatch.setattr(fcntl, "ioctl", lambda fd, _, program: given.append((fd, program)))
    held = attach.give(event, 7)
    assert given == [(event, 7)]
    assert (held != event, os.path.sameopenfile(held, event), os.get_inheritable(held)) == (True, True, False)
    os.close(held)


def test_what_is_refused_otherwise_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, event: int) -> None:
    """As many programs as a hook takes are as many by whichever way."""
    monkeypatch.setattr(libbpf, "link_create", refusing(errno.E2BIG))
    with pytest.raises(OSError, match="Argument list too long"):
        attach.give(event, 7)


@pytest.mark.parametrize(
    ("family", "missed", "told"),
    [
        ("kretprobe", lambda _: 5, True),
        ("tracepoint", lambda _: 0, True),
        ("tracepoint", lambda _: None, False),
        ("uretprobe", lambda _: None, False),
        ("kprobe", refusing(errno.EINVAL), False),
        ("fexit", refusing(errno.EINVAL), True),
        ("rawtracepoint", refusing(errno.EINVAL), True),
        ("usdt", lambda _: 0, True),
        ("software", lambda _: 0, False),
    ],
)
def test_whether_misses_are_told(monkeypatch: pytest.MonkeyPatch, family: str, missed: object, told: bool) -> None:
    """Of perf events by a link that tells them; of what is no perf event always."""
    monkeypatch.setattr(libbpf, "link_missed", missed)
    assert attach.tells_missed(Hook(family, "f"), 3) is told


@pytest.mark.parametrize(
    ("hook", "opened"),
    [
        (Hook("profile", "hz:99"), (1, 0, 99, perf.FREQUENCY)),
        (Hook("profile", "ms:10"), (1, 0, 10_000_000, 0)),
        (Hook("profile", "s:1"), (1, 0, 1_000_000_000, 0)),
        (Hook("software", "page-faults:1"), (1, 2, 1, 0)),
        (Hook("software", "cs"), (1, 3, 1000, 0)),
        (Hook("hardware", "cache-misses"), (0, 3, 1_000_000, 0)),
    ],
    ids=str,
)
def test_a_perf_event_on_each_processor(
    monkeypatch: pytest.MonkeyPatch, hook: Hook, opened: tuple[int, int, int, int]
) -> None:
    """Type, config, period and flags as perf_event_open(2) has them, on each processor that is online."""
    seen: list[tuple[int, int, int, int, int]] = []

    def event_open(kind: int, config: int, pid: int, cpu: int, *, period: int, flags: int) -> int:
        assert pid == -1
        seen.append((cpu, kind, config, period, flags))
        return os.memfd_create("event")

    monkeypatch.setattr(perf, "event_open", event_open)
    monkeypatch.setattr(attach, "_online_cpus", lambda: [0, 2, 3])
    monkeypatch.setattr(libbpf, "link_create", lambda _, event, __: os.dup(event))
    held = attach.attach(hook, 7)
    assert seen == [(cpu, *opened) for cpu in (0, 2, 3)]
    assert len(set(held)) == 3
    for fd in held:
        os.close(fd)


def test_what_one_processor_refuses_is_on_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """All or nothing: what was opened on others is closed."""
    before = set(Path("/proc/self/fd").iterdir())

    def event_open(*where: int, **_: int) -> int:
        if where[-1] == 3:
            raise OSError(errno.ENOENT, "No such file or directory")
        return os.memfd_create("event")

    monkeypatch.setattr(perf, "event_open", event_open)
    monkeypatch.setattr(attach, "_online_cpus", lambda: [0, 2, 3])
    monkeypatch.setattr(libbpf, "link_create", lambda _, event, __: os.dup(event))
    with pytest.raises(AttachError, match="no PMU of this machine counts that"):
        attach.attach(Hook("hardware", "cycles"), 7)
    assert set(Path("/proc/self/fd").iterdir()) == before


class Functions:
    """Stands in for a kernel of these functions, of which it has each name but for those once; what was done to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, release: str, links: int = errno.EINVAL) -> None:
        self.done: list[object] = []
        self.names = {"f": 1, "__x64_sys_openat": 1, "twice": 2}
        self._links = links
        monkeypatch.setattr(platform, "release", lambda: release)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(attach, "_pmu", lambda _: (8, 1))
        monkeypatch.setattr(attach, "_online_cpus", lambda: [0])
        monkeypatch.setattr(perf, "event_open", self._event_open)
        monkeypatch.setattr(libbpf, "prog_load", self._prog_load)
        monkeypatch.setattr(libbpf, "link_create", self._link_create)
        monkeypatch.setattr(libbpf, "return_link_create", self._return_link_create)
        attach._return_links.cache_clear()

    def _event_open(self, kind: int, config: int, *_: int, config1: int, config2: int) -> int:
        name = (ctypes.string_at(config1)).decode()
        assert (kind, config2) == (8, 0)
        count = self.names.get(name, 0)
        if count != 1:
            raise OSError(errno.EADDRNOTAVAIL if count else errno.ENOENT, "")
        return os.memfd_create(f"{'kretprobe' if config else 'kprobe'}:{name}")

    def _prog_load(self, kind: int, name: str, _: bytes, attach_type: int = 0, btf_id: int = 0) -> int:
        assert (kind, btf_id) == (libbpf.PROG_TYPE_KPROBE, 0)
        if name:
            self.done.append(("load", attach_type))
        return os.memfd_create("program")

    def _link_create(self, _: int, event: int, __: int) -> int:
        self.done.append(("event", Path(f"/proc/self/fd/{event}").readlink().name.removesuffix(" (deleted)")))
        return os.dup(event)

    def _return_link_create(self, _: int, function: str | None) -> int:
        if not function:
            raise OSError(self._links, "")
        self.done.append(("link", function))
        return os.memfd_create("link")


@pytest.mark.parametrize(
    ("release", "links", "hook", "done"),
    [
        ("6.14.0", errno.EINVAL, "kretprobe:f", [("load", 42), ("link", "f")]),
        ("7.2.0", errno.EINVAL, "kretprobe:sys_openat", [("load", 42), ("link", "__x64_sys_openat")]),
        ("7.2.0", errno.EOPNOTSUPP, "kretprobe:f", [("load", 0), ("event", "memfd:kretprobe:f")]),
        ("6.13.9", errno.EINVAL, "kretprobe:f", [("load", 0), ("event", "memfd:kretprobe:f")]),
        ("7.2.0", errno.EINVAL, "kprobe:sys_openat", [("load", 0), ("event", "memfd:kprobe:__x64_sys_openat")]),
    ],
)
def test_kprobes_are_events_and_kretprobes_links_where_they_can_be(
    monkeypatch: pytest.MonkeyPatch, release: str, links: int, hook: str, done: list[object]
) -> None:
    """A program is loaded for what it will be attached by; a system call stands for its own function."""
    kernel = Functions(monkeypatch, release, links)
    family, _, target = hook.partition(":")
    before = set(Path("/proc/self/fd").iterdir())
    held = [attach.load_for(Hook(family, target), "count", b""), *attach.attach(Hook(family, target), 7)]
    assert kernel.done == done
    for fd in held:
        os.close(fd)
    assert set(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("twice", "twice is not a function that the kernel lets be probed"),
        ("sys_creat", "this kernel has no function sys_creat that can be probed"),
    ],
)
def test_a_function_of_which_there_is_not_one(monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    """A link would be to one of several: it is refused as an event is. What is not there may be optional."""
    kernel = Functions(monkeypatch, "7.2.0")
    monkeypatch.setattr(attach, "_nearest", lambda *_: "")
    with pytest.raises(AttachError, match=words):
        attach.attach(Hook("kretprobe", name), 7)
    assert kernel.done == []
    assert attach.exists(Hook("kretprobe", name, optional=True)) is (name == "twice")


@pytest.mark.parametrize(("text", "cpus"), [("0\n", [0]), ("0-3,5\n", [0, 1, 2, 3, 5]), ("1,4-5\n", [1, 4, 5])])
def test_processors_that_are_online(monkeypatch: pytest.MonkeyPatch, text: str, cpus: list[int]) -> None:
    """As the kernel writes lists of them."""
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert attach._online_cpus() == cpus


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("invalid func unknown#158", "this kernel has no helper bpf_get_current_task_btf"),
        ("invalid func unknown#9999", "this kernel has no helper 9999"),
        *(
            (
                f"{instruction} uses reserved fields",
                "this kernel has no atomic instructions but additions (others since 5.12); keep: max wants one",
            )
            for instruction in ("BPF_STX", "BPF_XADD")
        ),
        ("R1 invalid mem access 'inv'", "R1 invalid mem access 'inv' (Invalid argument)"),
        ("", "Invalid argument"),
    ],
)
def test_why_the_verifier_refuses_a_program(said: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last line ahead of its statistics; a helper that the kernel does not know is told by its name."""

    def refuse(*_: object) -> int:
        raise libbpf.Refused(errno.EINVAL, f"0: (85) call\n{said}\nprocessed 1 insns (limit 1000000)\n" if said else "")

    monkeypatch.setattr(libbpf, "prog_load", refuse)
    with pytest.raises(LoadError) as told:
        attach.load_for(Hook("kprobe", "vfs_read"), "on_read", b"")
    assert told.value.reason == f"kprobe:vfs_read: the kernel refuses the program on_read: {why}"


@pytest.mark.parametrize("release", ["5.10.0-32-amd64", "6.0.12"])
def test_a_program_that_could_run_for_itself_is_refused(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Where the kernel would run it for its own faults without end; what does no harm is said."""
    monkeypatch.setattr(platform, "release", lambda: release)
    with pytest.raises(AttachError, match=r"before 6\.1 down; use tracepoint:exceptions:page_fault_kernel$"):
        attach.attach(Hook("rawtracepoint", "page_fault_kernel"), 7)


def test_a_raw_tracepoint_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others everywhere, and those where the kernel keeps a program from itself."""
    monkeypatch.setattr(libbpf, "raw_tracepoint_open", lambda name, program: f"{name} by {program}")
    for release, name in (
        ("5.10.0", "sched_switch"),
        ("6.1.0-18-amd64", "page_fault_kernel"),
        ("unknown", "sys_enter"),
    ):
        monkeypatch.setattr(platform, "release", lambda release=release: release)
        held: list[object] = [*attach.attach(Hook("rawtracepoint", name), 7)]
        assert held == [f"{name} by 7"]
