# SPDX-License-Identifier: Apache-2.0
"""loader/load.py: which mechanism is taken, what is let go of, and what is said, with the kernel left out."""

import dataclasses
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import cgroups, libbpf, symbols
from exporter.child import Crashed
from exporter.errors import AttachError, CompileError, ExporterError, LoadError
from exporter.loader import attach, births, load
from exporter.loader.bytecode import Bytecode, Map
from exporter.loader.load import NothingHolds
from exporter.probe import Hook, Mechanism, Probe, Program

from ..support import counter, label


class Kernel:
    """What stands in for the kernel: each object is a descriptor of a file with a name."""

    def __init__(self) -> None:
        self.opened: dict[int, str] = {}
        self.refused: set[str] = set()  # hooks to which nothing can be attached
        self.absent: set[str] = set()  # hooks that do not exist
        self.mute: set[str] = set()  # hooks of which it does not tell what was missed

    def open(self, name: str) -> int:
        fd = os.memfd_create("object")
        self.opened[fd] = name
        return fd

    def held(self) -> list[str]:
        """The names of what is open."""
        return sorted(name for fd, name in self.opened.items() if Path(f"/proc/self/fd/{fd}").exists())

    def map_create(self, kind: int, name: str, *_: int) -> int:
        if kind == 99:
            raise OSError(22, "Invalid argument")
        return self.open(f"map {name}")

    def exists(self, hook: Hook) -> bool:
        return str(hook) not in self.absent

    def load_for(self, hook: Hook, name: str, instructions: bytes) -> int:
        del instructions
        return self.open(f"program {name} for {hook.family}")

    def attach(self, hook: Hook, program: int) -> list[int]:
        if str(hook) in self.absent:
            raise attach.NoSuchHook(f"no {hook}")
        if str(hook) in self.refused:
            raise AttachError(f"refused {hook}", "its words")
        processors = (0, 1) if hook.family in attach.ON_EACH_CPU else (0,)
        return [self.open(f"{self.opened[program]} at {hook}") for _ in processors]

    def tells_missed(self, hook: Hook, fd: int) -> bool:
        assert self.opened[fd].endswith(f" at {hook}")
        return str(hook) not in self.mute


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    stand_in = Kernel()
    monkeypatch.setattr(libbpf, "map_create", stand_in.map_create)
    for name in ("exists", "load_for", "attach", "tells_missed"):
        monkeypatch.setattr(attach, name, getattr(stand_in, name))
    yield stand_in
    for fd in stand_in.opened:
        if Path(f"/proc/self/fd/{fd}").exists():
            os.close(fd)


MAPS = tuple(Map(name, 1, 4, 8, 10, 0) for name in ("writing", "a_0", "a_1", "a_rest", "own", "off_0"))
BYTECODE = Bytecode(MAPS, {"one": b"", "two": b""}, "0.26")


def probe(*mechanisms: dict[str, list[Hook]]) -> Probe:
    found = tuple(
        Mechanism(tuple(Program(name, tuple(hooks)) for name, hooks in mechanism.items())) for mechanism in mechanisms
    )
    metrics = (counter("ebpf_a_total", label("comm", "comm")), counter("ebpf_off_total", chosen=False))
    return Probe("p", "", Path("p.yaml"), Path("p.c"), found, metrics)


def test_the_first_mechanism_that_holds_is_taken(kernel: Kernel) -> None:
    """What comes first is used if it can be; names and descriptors come in the same order: maps, programs, hooks."""
    loaded, fds = load.load(probe({"one": [Hook("kprobe", "f")]}, {"two": [Hook("xdp", "")]}), BYTECODE)
    assert (loaded.mechanism, loaded.tried, loaded.compiler) == ("kprobe", (), "0.26")
    assert loaded.maps == ("writing", "a_0", "a_1", "a_rest")
    assert (loaded.programs, loaded.attachments) == (("one",), (("one", "kprobe:f"),))
    assert [kernel.opened[fd] for fd in fds] == [
        "map writing",
        "map a_0",
        "map a_1",
        "map a_rest",
        "program one for kprobe",
        "program one for kprobe at kprobe:f",
    ]


@pytest.mark.parametrize(
    ("release", "links", "order"),
    [
        ("6.1.0", False, ["kprobe", "tracepoint", "kretprobe"]),
        ("7.1.4", True, ["kretprobe", "kprobe", "tracepoint"]),
        ("7.2.0", True, ["kretprobe", "kprobe", "tracepoint"]),
        ("7.2.0", False, ["kprobe", "kretprobe", "tracepoint"]),
    ],
)
def test_what_misses_events_is_tried_last(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, release: str, links: bool, order: list[str]
) -> None:
    """Where programs at the tracepoints of system calls are preempted, and where kretprobes have room for few calls,
    all other mechanisms come before them.
    """
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(attach, "_return_links", lambda: links)
    hooks = [Hook("kretprobe", "f"), Hook("kprobe", "f"), Hook("tracepoint", "syscalls:sys_exit_openat")]
    found = probe(*({"one": [hook]} for hook in hooks))
    assert load.load(found, BYTECODE)[0].mechanism == order[0]
    kernel.refused = {str(hook) for hook in hooks}
    with pytest.raises(NothingHolds) as caught:
        load.load(found, BYTECODE)
    assert [attempt.mechanism for attempt in caught.value.tried] == order


def test_the_next_mechanism_is_taken_where_one_fails(kernel: Kernel) -> None:
    """A mechanism of which one hook fails is let go of whole; why is kept."""
    kernel.refused = {"fexit:g"}
    loaded, _ = load.load(
        probe({"one": [Hook("fentry", "f")], "two": [Hook("fexit", "g")]}, {"one": [Hook("kprobe", "f")]}), BYTECODE
    )
    assert loaded.mechanism == "kprobe"
    assert [(attempt.mechanism, attempt.reason, attempt.details) for attempt in loaded.tried] == [
        ("fentry+fexit", "refused fexit:g", "its words")
    ]
    assert [name for name in kernel.held() if "fentry" in name or "fexit" in name] == []


def test_nothing_holds(kernel: Kernel) -> None:
    """Where every mechanism fails, all the reasons are told and nothing stays attached."""
    kernel.refused = {"kprobe:f", "kprobe:g"}
    with pytest.raises(NothingHolds) as caught:
        load.load(probe({"one": [Hook("kprobe", "f")]}, {"two": [Hook("kprobe", "g")]}), BYTECODE)
    assert str(caught.value) == "refused kprobe:f; refused kprobe:g"
    assert caught.value.details == "refused kprobe:f\nits words\n\nrefused kprobe:g\nits words"
    assert [attempt.reason for attempt in caught.value.tried] == ["refused kprobe:f", "refused kprobe:g"]
    assert [name for name in kernel.held() if not name.startswith("map ")] == []


@pytest.mark.parametrize(("optional", "holds"), [(True, True), (False, False)])
def test_an_optional_hook_may_be_absent(kernel: Kernel, optional: bool, holds: bool) -> None:
    """A hook that this kernel does not have is passed over only if the YAML says that it may be."""
    kernel.absent = {"tracepoint:a:b"}
    one = probe({"one": [Hook("tracepoint", "a:a"), Hook("tracepoint", "a:b", optional)]})
    if holds:
        assert load.load(one, BYTECODE)[0].attachments == (("one", "tracepoint:a:a"),)
    else:
        with pytest.raises(NothingHolds, match="no tracepoint:a:b"):
            load.load(one, BYTECODE)


@pytest.mark.parametrize(
    ("family", "programs"),
    [("kprobe", ("one",)), ("fexit", ("one", "one@g"))],
)
def test_one_function_at_two_hooks(kernel: Kernel, family: str, programs: tuple[str, ...]) -> None:
    """A function is loaded once for all its hooks, but once for each kernel function where the kernel wants that."""
    loaded, _ = load.load(probe({"one": [Hook(family, "f"), Hook(family, "g")]}), BYTECODE)
    assert loaded.programs == programs
    assert loaded.attachments == (("one", f"{family}:f"), (programs[-1], f"{family}:g"))
    assert len([name for name in kernel.opened.values() if name == f"program one for {family}"]) == len(programs)


def test_links_that_tell_what_they_missed(kernel: Kernel) -> None:
    """Kprobes that do go ahead of all other attachments; a program with a hook that does not is named as unknown."""
    kernel.mute = {"tracepoint:a:b", "kprobe:h"}
    hooks = {
        "one": [Hook("tracepoint", "a:a"), Hook("kretprobe", "f"), Hook("kprobe", "g")],
        "two": [Hook("kretprobe", "f"), Hook("kprobe", "h"), Hook("tracepoint", "a:b")],
    }
    loaded, fds = load.load(probe(hooks), BYTECODE)
    assert (loaded.links, loaded.misses_unknown) == (("one", "one", "two"), ("two",))
    assert loaded.attachments == tuple((name, str(hook)) for name, found in hooks.items() for hook in found)
    assert [kernel.opened[fd].rpartition(" at ")[2] for fd in fds[len(loaded.maps) + len(loaded.programs) :]] == [
        *("kretprobe:f", "kprobe:g", "kretprobe:f"),
        *("tracepoint:a:a", "kprobe:h", "tracepoint:a:b"),
    ]


def test_what_is_on_each_processor_comes_last(kernel: Kernel) -> None:
    """A hook with a descriptor on each processor is one attachment; how many descriptors there are is told."""
    hooks = {"one": [Hook("profile", "hz:99"), Hook("kprobe", "f")], "two": [Hook("software", "cs")]}
    loaded, fds = load.load(probe(hooks), BYTECODE)
    assert loaded.attachments == (("one", "profile:hz:99"), ("one", "kprobe:f"), ("two", "software:cs"))
    assert loaded.on_each_cpu == 4
    assert [kernel.opened[fd].rpartition(" at ")[2] for fd in fds[-5:]] == [
        *("kprobe:f", "profile:hz:99", "profile:hz:99", "software:cs", "software:cs")
    ]


def test_xdp_is_loaded_and_not_attached(kernel: Kernel) -> None:
    """XDP's program is handed over: its interfaces come and go."""
    loaded, fds = load.load(probe({"one": [Hook("xdp", "")]}), BYTECODE)
    assert (loaded.programs, loaded.attachments) == (("one",), ())
    assert kernel.opened[fds[-1]] == "program one for xdp"


def test_a_function_that_was_not_compiled(kernel: Kernel) -> None:
    """A static function is no program; which it is, is told."""
    assert kernel.opened == {}
    with pytest.raises(NothingHolds, match=r"p.c has no function three that is not static"):
        load.load(probe({"three": [Hook("kprobe", "f")]}), BYTECODE)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(99, "the kernel refuses the map big: Invalid argument"), (12, "map big: maps of maps are not supported")],
)
def test_a_map_that_cannot_be(kernel: Kernel, kind: int, reason: str) -> None:
    """A map that the kernel or this loader refuses is named."""
    assert kernel.opened == {}
    with pytest.raises(LoadError, match=f"^{reason}$"):
        load.load(probe({"one": [Hook("kprobe", "f")]}), Bytecode((Map("big", kind, 4, 8, 1, 0),), {}, ""))


@pytest.mark.parametrize(
    ("error", "words", "reason"),
    [
        (CompileError("cannot compile p"), "", "cannot compile p"),
        (
            CompileError("cannot compile p"),
            "p.c:2:1: warning: x\np.c:3:9: error: use of undeclared identifier 'y'\n  y\np.c:4:1: error: z\n",
            "cannot compile: p.c:3:9: error: use of undeclared identifier 'y'",
        ),
        (
            Crashed("the process was ended by SIGSEGV"),
            "p.c:1:1: fatal error: 'x.h' file not found\n",
            "cannot compile: p.c:1:1: fatal error: 'x.h' file not found",
        ),
        (Crashed("the process was ended by SIGSEGV"), "", "the process was ended by SIGSEGV"),
        (LoadError("the kernel refuses it"), "libbpf: error: something\n", "the kernel refuses it"),
    ],
)
def test_reason(error: ExporterError, words: str, reason: str) -> None:
    """The compiler's first error is the reason where it complained, also where it crashed afterwards."""
    assert load.reason(error, words) == reason


BORN = Bytecode(
    (*MAPS, Map(cgroups.BORN, 1, 8, cgroups.BORN_PATH, cgroups.BORN_ENTRIES, 0)),
    {**BYTECODE.programs, births.PROGRAM: b""},
    "0.26",
)


def by(kind: str) -> Probe:
    one = probe({"one": [Hook("kprobe", "f")]})
    return dataclasses.replace(one, metrics=(counter("ebpf_a_total", label("where", kind)),))


def test_births_of_cgroups_are_watched_before_anything_counts(kernel: Kernel) -> None:
    """The program that keeps names is attached first, held like all others, and its map goes to the worker."""
    loaded, fds = load.load(by("unit"), BORN)
    assert loaded.maps == ("writing", "a_0", "a_1", "a_rest", cgroups.BORN)
    assert loaded.attachments == (("one", "kprobe:f"), (births.PROGRAM, "rawtracepoint:cgroup_mkdir"))
    assert (loaded.programs, loaded.misses_unknown) == (("one",), ())
    names = [kernel.opened[fd] for fd in fds]
    assert names[-1] == f"program {births.PROGRAM} for rawtracepoint at rawtracepoint:cgroup_mkdir"
    opened = list(kernel.opened.values())
    assert opened.index(names[-1]) < opened.index("program one for kprobe at kprobe:f")
    assert f"program {births.PROGRAM} for rawtracepoint" not in kernel.held()


@pytest.mark.parametrize("bytecode", [BORN, BYTECODE])
def test_without_births_a_probe_runs(kernel: Kernel, bytecode: Bytecode) -> None:
    """Where they can't be watched, that is told, and names are found by looking."""
    kernel.refused = {"rawtracepoint:cgroup_mkdir"}
    loaded, _ = load.load(by("cgroup"), bytecode)
    assert loaded.mechanism == "kprobe"
    assert [attempt.mechanism for attempt in loaded.tried] == ["births of cgroups"]


def test_a_table_of_symbols(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made for whom it names functions, and goes to the worker with the maps."""
    monkeypatch.setattr(symbols, "build", lambda: kernel.open("symbols"))
    loaded, fds = load.load(by("ksym"), BYTECODE)
    assert loaded.maps == ("writing", "a_0", "a_1", "a_rest", symbols.TABLE)
    assert kernel.opened[fds[4]] == "symbols"
    assert symbols.TABLE not in load.load(by("u64"), BYTECODE)[0].maps
