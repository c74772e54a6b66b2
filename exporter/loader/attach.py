# SPDX-License-Identifier: Apache-2.0
"""Attaches loaded programs to hooks, each held by one descriptor: closing it, or dying, detaches.

kprobe, kretprobe, uprobe, uretprobe and tracepoint are perf events (perf_event_open(2); the kprobe and uprobe PMUs are
in the kernel since 4.17), which links hold; so are profile, software and hardware, with one on each processor. fentry,
fexit and raw tracepoints are links themselves, and kretprobes where such links have no limit to the calls that have not
returned. XDP and TC are in ``network``: interfaces come and go.
"""

import ctypes
import errno
import fcntl
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from exporter import libbpf, lockdown, perf, privileges
from exporter.errors import AttachError, HookError, LoadError, UnknownHook
from exporter.hooks import events, files, tracefs
from exporter.hooks.btf import Btf
from exporter.hooks.names import did_you_mean, nearest
from exporter.loader import headers, usdt
from exporter.probe import Hook

if TYPE_CHECKING:
    from exporter.hooks import elf

# families of hooks that are perf events; of these the kprobes, which miss events by themselves too
PERF_EVENTS = ("kprobe", "kretprobe", "uprobe", "uretprobe", "usdt", "tracepoint")
KPROBES = ("kprobe", "kretprobe")
# those that count on a processor: there is a perf event on each
ON_EACH_CPU = ("profile", "software", "hardware")
_EVENTS = {"software": (perf.TYPE_SOFTWARE, events.SOFTWARE), "hardware": (perf.TYPE_HARDWARE, events.HARDWARE)}
_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3}
_PMUS = Path("/sys/bus/event_source/devices")
_SAMPLE_RATE = Path("/proc/sys/kernel/perf_event_max_sample_rate")

_IOC_SET_BPF = 0x40042408
_NOTHING = bytes.fromhex("b700000000000000 9500000000000000")  # r0 = 0; exit

# Raw tracepoints whose events a program's own work can cause, with the systems of their tracepoints. Before 6.1 it is
# run for these events too, until the kernel's stack ends (05b24ff9b2cf, bpf: Prevent bpf program recursion for raw
# tracepoint probes).
_OF_ITSELF = {"page_fault_kernel": "exceptions", "contention_begin": "lock", "contention_end": "lock"}
_KEPT_FROM_ITSELF = (6, 1, 0)

# Programs at the tracepoints of system calls are run with preemption since then, and a program that was preempted is
# skipped for all others on that processor (57918341dd19, bpf: Add sleepable support for classic tracepoint programs).
_PREEMPTED = (7, 2, 0)
# How the names of system calls' own functions begin: __x64_sys_openat
_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
# A return probe that is a link has a task's shadow stack to keep its calls on (4346ba160409, fprobe: Rewrite fprobe on
# function-graph tracer). Before, and as a perf event, it has room for 10 calls, or twice the processors; before 6.2 for
# as many as there are processors where the kernel is not preemptive (3b7ddab8a19a, kprobes: kretprobe events missing on
# 2-core KVM guest).
_RETURN_LINKS = (6, 14, 0)

# what a kernel says that takes every atomic instruction for an addition: before 5.12
# (5ffa25502b5a, bpf: Add instructions for atomic_[cmp]xchg)
_NO_ATOMICS = ("BPF_STX uses reserved fields", "BPF_XADD uses reserved fields")
_UNKNOWN_HELPER = re.compile(r"invalid func unknown#(\d+)")

# family -> type of program, and attach type where the program is loaded for one function
PROGRAM_TYPES = {
    "kprobe": (libbpf.PROG_TYPE_KPROBE, 0),
    "kretprobe": (libbpf.PROG_TYPE_KPROBE, 0),
    "uprobe": (libbpf.PROG_TYPE_KPROBE, 0),
    "uretprobe": (libbpf.PROG_TYPE_KPROBE, 0),
    "usdt": (libbpf.PROG_TYPE_KPROBE, 0),
    "tracepoint": (libbpf.PROG_TYPE_TRACEPOINT, 0),
    "rawtracepoint": (libbpf.PROG_TYPE_RAW_TRACEPOINT, 0),
    **dict.fromkeys(ON_EACH_CPU, (libbpf.PROG_TYPE_PERF_EVENT, 0)),
    "fentry": (libbpf.PROG_TYPE_TRACING, libbpf.ATTACH_TRACE_FENTRY),
    "fexit": (libbpf.PROG_TYPE_TRACING, libbpf.ATTACH_TRACE_FEXIT),
    "tc": (libbpf.PROG_TYPE_SCHED_CLS, 0),
    "xdp": (libbpf.PROG_TYPE_XDP, 0),
}


class NoSuchHook(AttachError):
    """The hook does not exist on this host: harmless where it is optional."""


def exists(hook: Hook) -> bool:
    """Whether a hook is there, for the families where that can be known without attaching."""
    try:
        if hook.family == "tracepoint":
            _tracepoint_id(hook)
        elif hook.family in KPROBES:
            return _has_function(hook)
        elif hook.family in ("uprobe", "uretprobe"):
            _resolve(hook)
        elif hook.family == "usdt":
            _places(hook)
        elif hook.family in _EVENTS:
            kind, event = _event(hook)
            return events.offered(kind, event)
    except NoSuchHook:
        return False
    return True


def _has_function(hook: Hook) -> bool:
    try:
        os.close(_kprobe_event(hook)[0])
    except OSError as error:
        return error.errno != errno.ENOENT
    return True


def require(hook: Hook) -> None:
    """Raises AttachError where attaching would do harm, or NoSuchHook where that is known to be in vain."""
    if hook.family != "uretprobe":
        return
    from exporter.hooks import elf

    path, _ = _resolve(hook)
    with _translated(hook):
        if elf.is_go(Path(path)):
            raise AttachError(
                f"cannot attach to {hook}: {path} is a Go program, which moves its stacks and would crash on a changed"
                f" return address; use uprobe:{hook.target}, which has its calls"
            )


def misses(hook: Hook) -> bool:
    """Whether this kernel skips events of a hook that it need not skip at others: as a program is preempted, or as
    calls that wait have taken the room that a kretprobe has.
    """
    if hook.family == "kretprobe":
        return not _return_links()
    return hook.family == "tracepoint" and hook.target.startswith("syscalls:") and _kernel() >= _PREEMPTED


def _kernel() -> tuple[int, int, int]:
    return headers.version(platform.release())


@cache
def _return_links() -> bool:
    """Whether kretprobes are links here."""
    if _kernel() < _RETURN_LINKS:
        return False
    try:
        program = libbpf.prog_load(libbpf.PROG_TYPE_KPROBE, "", _NOTHING, libbpf.ATTACH_KPROBE_MULTI)
    except OSError:
        return False
    try:
        libbpf.return_link_create(program, None)
    except OSError as error:
        return error.errno == errno.EINVAL
    finally:
        os.close(program)
    raise AssertionError("a link to nothing")


def load_for(hook: Hook, name: str, instructions: bytes) -> int:
    """Loads a program for a hook. Returns its descriptor; raises LoadError with the verifier's words."""
    kind, attach_type = PROGRAM_TYPES[hook.family]
    btf_id = 0
    if hook.family == "kretprobe" and _return_links():
        attach_type = libbpf.ATTACH_KPROBE_MULTI
    if kind == libbpf.PROG_TYPE_TRACING:
        try:
            btf_id = libbpf.vmlinux_btf_id(hook.target, attach_type)
        except OSError as error:
            near = _nearest(hook.target, lambda: Btf.load().functions(modules=False))
            raise LoadError(f"{hook}: this kernel has no BTF of a function {hook.target}{near}") from error
    try:
        return libbpf.prog_load(kind, name, instructions, attach_type, btf_id)
    except libbpf.Refused as error:
        why = _last_line(error) if error.log else _explain(hook, error.errno or 0)
        if "bpf_probe_read" in why:  # of the kernel's memory: there is no such helper then
            why += lockdown.hint()
        raise LoadError(f"{hook}: the kernel refuses the program {name}: {why}", error.log) from error


def _last_line(error: libbpf.Refused) -> str:
    """What the verifier complains of stands ahead of its statistics; without a log, the errno must do."""
    lines = [line for line in error.log.splitlines() if line and not line.startswith(("processed ", "verification"))]
    if not lines:
        return str(error.strerror)
    if lines[-1] in _NO_ATOMICS:
        return "this kernel has no atomic instructions but additions (others since 5.12); keep: max wants one"
    if unknown := _UNKNOWN_HELPER.fullmatch(lines[-1]):
        return f"this kernel has no helper {headers.helper(int(unknown[1]))}"
    return f"{lines[-1]} ({error.strerror})"


def attach(hook: Hook, program: int) -> list[int]:
    """Attaches a loaded program. Returns the descriptors that hold it; raises AttachError or NoSuchHook."""
    try:
        if hook.family in KPROBES:
            return [_kprobe(hook, program)]
        if hook.family in ("uprobe", "uretprobe"):
            return [_uprobe(hook, program)]
        if hook.family == "usdt":
            return _usdt(hook, program)
        if hook.family == "tracepoint":
            return [_perf_event(perf.TYPE_TRACEPOINT, _tracepoint_id(hook), program)]
        if hook.family in ON_EACH_CPU:
            return _on_each_cpu(hook, program)
        name = hook.target if hook.family == "rawtracepoint" else None
        if name in _OF_ITSELF and _kernel() < _KEPT_FROM_ITSELF:
            raise AttachError(
                f"cannot attach to {hook}: a program that causes its own event there brings a kernel before 6.1 down;"
                f" use tracepoint:{_OF_ITSELF[name]}:{name}"
            )
        return [libbpf.raw_tracepoint_open(name, program)]
    except NoSuchHook as error:
        if hook.family == "tracepoint":
            with _translated(hook):
                tracefs.fields(hook.target)  # which knows the names that are near
        raise error from None
    except OSError as error:
        number = error.errno or 0
        raise AttachError(f"cannot attach to {hook}: {_explain(hook, number)}", errno=number) from error


def tells_missed(hook: Hook, fd: int) -> bool:
    """Whether the kernel tells how many of a hook's events its program did not run for; fd is of what ``attach``
    returned.

    Of programs on perf events it does since 6.7 (dd8657894c11, bpf: Count missed stats in trace_call_bpf), which is
    also when links came to tell what kprobes missed; of tracing programs since 5.12, which is when they began to miss.
    What perf itself counts on a processor passes a busy program by (bpf_overflow_handler), and is told nowhere.
    """
    if hook.family in ON_EACH_CPU:
        return False
    if hook.family not in PERF_EVENTS:
        return True
    try:
        return libbpf.link_missed(fd) is not None
    except OSError:  # no link, but the perf event
        return False


def _nearest(name: str, names: Callable[[], Iterable[str]]) -> str:
    """Returns the end of a message: which names there are that are like one. It takes a second: for failures alone."""
    try:
        return did_you_mean(nearest(name, names()))
    except HookError:
        return ""


def _explain(hook: Hook, number: int) -> str:
    if number == errno.ENOENT and hook.family in KPROBES:
        near = _nearest(hook.target, tracefs.functions)
        return f"this kernel has no function {hook.target} that can be probed{near}"
    if number == errno.ENOENT and hook.family == "rawtracepoint":
        near = _nearest(hook.target, lambda: Btf.load().raw_tracepoints())
        return f"this kernel has no such event{near}"
    if number == errno.E2BIG:
        return "there are as many programs as the kernel takes on one hook (64)"
    if number == errno.EADDRNOTAVAIL:
        return f"{hook.target} is not a function that the kernel lets be probed"
    if number in (errno.EPERM, errno.EACCES) and hook.family in ("fentry", "fexit"):
        return "this kernel does not allow tracing programs (fentry, fexit)"
    if hook.family == "hardware" and number in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL):
        return "no PMU of this machine counts that; virtual machines often have none"
    if hook.family == "software" and number in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
        return "this kernel does not count that"
    if hook.family == "profile" and number == errno.EINVAL:
        return f"at most {_SAMPLE_RATE.read_text().strip()} Hz are allowed (kernel.perf_event_max_sample_rate)"
    if number not in (errno.EPERM, errno.EACCES):
        return os.strerror(number)
    return os.strerror(number) + (privileges.lacking(hook.family) or lockdown.hint())


def _tracepoint_id(hook: Hook) -> int:
    category, _, event = hook.target.partition(":")
    for root in tracefs.ROOTS:
        if (root / "events").is_dir():
            try:
                return int((root / "events" / category / event / "id").read_text())
            except FileNotFoundError as error:
                raise NoSuchHook(f"this kernel has no {hook}", errno=errno.ENOENT) from error
            except OSError as error:
                why = f"{error.strerror}{privileges.lacking(hook.family)}"
                raise AttachError(f"cannot read {root}: {why}", errno=error.errno or 0) from error
    raise AttachError(tracefs.absent())


def _pmu(name: str) -> tuple[int, int]:
    """Returns the type of a PMU and the config bit that makes its probes return probes."""
    folder = _PMUS / name
    try:
        kind = int((folder / "type").read_text())
        bit = (folder / "format" / "retprobe").read_text().strip().removeprefix("config:")
    except OSError as error:
        option = f"CONFIG_{name.upper()}_EVENTS"
        raise AttachError(f"this kernel has no {name}s ({option})", errno=errno.EOPNOTSUPP) from error
    return kind, 1 << int(bit)


def _kprobe(hook: Hook, program: int) -> int:
    event, function = _kprobe_event(hook)
    with os.fdopen(event):
        if hook.family == "kprobe" or not _return_links():
            return give(event, program)
    # of several functions of one name a link takes the first: the event was refused then
    return libbpf.return_link_create(program, function)


def _kprobe_event(hook: Hook) -> tuple[int, str]:
    """Opens a kprobe's perf event. Returns it, and the name that the kernel has for the function: ``sys_openat`` of a
    system call stands for its own function, whose name begins with the architecture's."""
    kind, return_bit = _pmu("kprobe")
    config = return_bit if hook.family == "kretprobe" else 0
    names = [hook.target]
    if hook.target.startswith("sys_"):
        names.append(f"__{_ARCHITECTURES.get(platform.machine(), platform.machine())}_{hook.target}")
    for name in names:
        buffer = ctypes.create_string_buffer(name.encode())
        try:
            cpu = _online_cpus()[0]
            return perf.event_open(kind, config, -1, cpu, config1=ctypes.addressof(buffer), config2=0), name
        except OSError as error:
            if error.errno != errno.ENOENT or name == names[-1]:
                raise
    raise AssertionError(hook)


def _uprobe(hook: Hook, program: int) -> int:
    kind, return_bit = _pmu("uprobe")
    path, offset = _resolve(hook)
    name = ctypes.create_string_buffer(path.encode())
    config = return_bit if hook.family == "uretprobe" else 0
    return _perf_event(kind, config, program, ctypes.addressof(name), offset)


def _resolve(hook: Hook) -> tuple[str, int]:
    """Returns the file that has a uprobe's symbol and the symbol's offset in it. A library may be named as ``libc``."""
    from exporter.hooks import elf  # pyelftools: only the children that need it load it

    with _translated(hook):
        path = files.resolve(files.named(hook))
        return str(path), elf.offset(path, hook.target.rpartition(":")[2])


def _places(hook: Hook) -> tuple[str, "tuple[elf.Place, ...]"]:
    """Returns the file that has a USDT probe, and its places in it."""
    with _translated(hook):
        return str(files.resolve(files.named(hook))), usdt.places(hook)


@contextmanager
def _translated(hook: Hook) -> Iterator[None]:
    try:
        yield
    except UnknownHook as error:
        raise NoSuchHook(f"cannot attach to {hook}: {error}", errno=errno.ENOENT) from error
    except HookError as error:
        raise AttachError(f"cannot attach to {hook}: {error}") from error


def _usdt(hook: Hook, program: int) -> list[int]:
    """Attaches to each place of a USDT probe, for all processes.

    A semaphore is a number in a program's memory that says how many look: the program asks it whether a probe's
    arguments are wanted at all. The kernel counts it up in each process, those to come as well, while there is a probe
    whose config has its place in the upper half (since 4.20, a6ca88b241d5, trace_uprobe: support reference counter in
    fd-based uprobe).
    """
    kind, _ = _pmu("uprobe")
    path, places = _places(hook)
    name = ctypes.create_string_buffer(path.encode())
    fds: list[int] = []
    try:
        for place in places:
            config = place.semaphore << _semaphore_shift()
            fds.append(_perf_event(kind, config, program, ctypes.addressof(name), place.offset))
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def _semaphore_shift() -> int:
    """Returns the lowest bit of ``config:32-63``."""
    text = (_PMUS / "uprobe" / "format" / "ref_ctr_offset").read_text()
    return int(text.strip().removeprefix("config:").partition("-")[0])


def _perf_event(kind: int, config: int, program: int, config1: int = 0, config2: int = 0) -> int:
    """Opens a perf event for all processes and gives it its program. Returns the descriptor that holds both.

    It is opened on one CPU, the first that is online, and yet the program runs on all: a probe is one thing to the
    kernel, and only its perf samples, which are not wanted, are per CPU.
    """
    fd = perf.event_open(kind, config, -1, _online_cpus()[0], config1=config1, config2=config2)
    try:
        return give(fd, program)
    finally:
        os.close(fd)


def _event(hook: Hook) -> tuple[int, events.Event]:
    """Returns the type and the event that ``software:page-faults:100`` names; without its period, the usual one."""
    kind, known = _EVENTS[hook.family]
    name, _, period = hook.target.partition(":")
    return kind, events.Event(known[name].config, int(period) if period else known[name].period)


def _on_each_cpu(hook: Hook, program: int) -> list[int]:
    """Opens a perf event on each processor that is online, and gives it its program. Returns what holds them.

    Of a processor that goes offline the kernel keeps the event, and does not count again when it comes back.
    """
    flags = 0
    if hook.family == "profile":
        unit, _, number = hook.target.partition(":")
        flags = perf.FREQUENCY if unit == "hz" else 0
        kind, config, period = perf.TYPE_SOFTWARE, events.SOFTWARE["cpu-clock"].config, int(number)
        period *= _NANOSECONDS.get(unit, 1)
    else:
        kind, (config, period) = _event(hook)
    fds: list[int] = []
    try:
        for cpu in _online_cpus():
            event = perf.event_open(kind, config, -1, cpu, period=period, flags=flags)
            try:
                fds.append(give(event, program))
            finally:
                os.close(event)
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def give(event: int, program: int) -> int:
    """Gives a perf event its program, by a link. Returns the link, or where there are none the event's duplicate."""
    try:
        return libbpf.link_create(program, event, libbpf.ATTACH_PERF_EVENT)
    except OSError as error:
        # links to perf events are in the kernel since 5.15 (b89fbfbb854c, bpf: Implement minimal BPF perf link)
        if error.errno != errno.EINVAL:
            raise
    fcntl.ioctl(event, _IOC_SET_BPF, program)
    return os.dup(event)


def _online_cpus() -> list[int]:
    """Returns the numbers in ``0-3,5``."""
    parts = Path("/sys/devices/system/cpu/online").read_text().strip().split(",")
    ends = [part.partition("-") for part in parts]
    return [cpu for first, _, last in ends for cpu in range(int(first), int(last or first) + 1)]
