# SPDX-License-Identifier: Apache-2.0
"""What ``ebpf-exporter list`` prints: the hooks that this host really offers, named as a probe's YAML takes them.

A family that this kernel lacks, or that the user may not look at, is not guessed: why is said at the end.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase, translate
from functools import cached_property
from pathlib import Path

from exporter import libbpf, perf
from exporter.errors import HookError
from exporter.hooks import elf, events, files, tracefs
from exporter.hooks.btf import Btf
from exporter.hooks.names import did_you_mean, nearest
from exporter.hooks.types import Function, Type

PMUS = Path("/sys/bus/event_source/devices")

# never run but by tests of the kernel's own (net/bpf/test_run.c, 5.5); then one that there is without CONFIG_NET
_HARMLESS = ("bpf_fentry_test1", "ksys_sync")
_RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")  # r0 = 0; exit
_ENOTSUPP = 524  # the kernel's own, which has no name in user space

_INDENT = "    "


class Missing(Exception):
    """A family is not offered here; the text says why."""


class Listing:
    """The hooks of this host, family by family, each read when it is asked for."""

    def __init__(self) -> None:
        # kretprobe and fexit are where kprobe and fentry are: they are listed where a pattern names them
        self._families: dict[str, Callable[[], Iterable[str]]] = {
            "tracepoint": tracefs.tracepoints,
            "rawtracepoint": self._raw_tracepoints,
            "kprobe": self._kprobes,
            "fentry": self._fentries,
            "software": lambda: _counted("software", perf.TYPE_SOFTWARE, events.SOFTWARE),
            "hardware": lambda: _counted("hardware", perf.TYPE_HARDWARE, events.HARDWARE),
            "profile": _profiles,
        }
        self._on_request: dict[str, Callable[[], Iterable[str]]] = {
            "kretprobe": self._kprobes,
            "fexit": self._fentries,
        }

    @cached_property
    def _btf(self) -> Btf:
        return Btf.load()

    def find(self, pattern: str) -> tuple[list[str], list[str]]:
        """Returns the hooks that a pattern means, in the order of the families, and for each family missing why.

        A pattern with ``*``, ``?`` or ``[`` is a glob over whole names; another is part of a name, or a whole one,
        which then means itself alone. Raises HookError where a file that the pattern names can't be read.
        """
        family, colon, rest = pattern.partition(":")
        if family in ("uprobe", "uretprobe", "usdt"):
            return self._files(family, rest)
        families = self._families
        if colon:
            every = self._families | self._on_request
            families = {family: every[family]} if family in every else _matching(self._families, family)
        found, missing = [], []
        matches = _matcher(pattern)
        for name, hooks in families.items():
            try:
                found += [hook for hook in (f"{name}:{target}" for target in hooks()) if matches(hook)]
            except (HookError, Missing) as error:
                missing.append(f"{name}: {error}")
        return ([pattern] if pattern in found else found), missing

    def _files(self, family: str, rest: str) -> tuple[list[str], list[str]]:
        """Lists what is in the file that a pattern names: ``libc:get*``, ``/usr/bin/python3:python:function*``."""
        name, _, wanted = rest.partition(":") if family == "usdt" else _last_colon(rest)
        try:
            _needs_pmu("uprobe")
        except Missing as error:
            return [], [f"{family}: {error}"]
        if not name:
            raise HookError(f"{family}: of which file? {family}:/PATH:PATTERN or {family}:LIBRARY:PATTERN")
        path = files.resolve(name)
        if family == "usdt":
            probes = dict.fromkeys(f"{probe.provider}:{probe.name}" for probe in elf.usdt(path))
            wanted = wanted if ":" in wanted or not wanted else f"*:{wanted}"
            known: Iterable[str] = probes
        else:
            known = sorted(elf.symbols(path))
        matches = _matcher(wanted)
        found = [target for target in known if matches(target)]
        return [f"{family}:{path}:{target}" for target in ([wanted] if wanted in found else found)], []

    def details(self, hook: str) -> Iterator[str]:
        """Yields a line for each thing that a hook gives, with its type in C: ``const char * filename``."""
        family, _, target = hook.partition(":")
        if family == "tracepoint":
            for field in tracefs.fields(target):
                yield declaration(field.type, field.name)
        elif family == "usdt":
            name, _, probe = target.partition(":")
            found = elf.usdt(Path(name))
            yield from dict.fromkeys(
                item.arguments for item in found if f"{item.provider}:{item.name}" == probe and item.arguments
            )
        elif family in ("kprobe", "kretprobe", "fentry", "fexit", "rawtracepoint"):
            try:
                find = self._btf.raw_tracepoint if family == "rawtracepoint" else self._btf.function
            except HookError:  # without BTF kprobes are there, but nothing tells what they are given
                return
            if function := find(target):
                yield from _signature(function)

    def prepare_details(self) -> None:
        """Makes ``details`` of very many functions quick: one pass over all, in place of one for each."""
        try:
            for _ in self._btf.functions():
                return
        except HookError:
            return

    def _raw_tracepoints(self) -> Iterable[str]:
        return sorted(self._btf.raw_tracepoints())

    def _kprobes(self) -> Iterable[str]:
        _needs_pmu("kprobe")
        return sorted(tracefs.functions())

    def _fentries(self) -> Iterable[str]:
        """Only those of the kernel itself: a program for a module's function would have to name its BTF too."""
        functions = self._btf.functions(modules=False)
        _needs_tracing_programs()
        traceable = tracefs.traceable()
        return sorted(name for name in functions if not traceable or name in traceable)


def _last_colon(rest: str) -> tuple[str, str, str]:
    name, colon, wanted = rest.rpartition(":")
    return (name, colon, wanted) if colon else (rest, "", "")


def _matching(families: dict[str, Callable[[], Iterable[str]]], pattern: str) -> dict[str, Callable[[], Iterable[str]]]:
    """Returns the families that ``*probe`` means; all where the word before the colon is none: ``tcp:tcp_probe``."""
    return {name: hooks for name, hooks in families.items() if fnmatchcase(name, pattern)} or families


def _matcher(pattern: str) -> Callable[[str], object]:
    if any(sign in pattern for sign in "*?["):
        return re.compile(translate(pattern)).match
    return lambda name: pattern in name


def declaration(kind: Type, name: str) -> str:
    """Returns C's declaration of a name: ``char[16]``, comm -> ``char comm[16]``."""
    before, brackets, behind = kind.name.partition("[")
    if "(*" in kind.name:
        before, star, behind = kind.name.partition("(*")
        return f"{before}{star}{name}{behind}"
    return f"{before.rstrip()} {name}{brackets}{behind}".rstrip()


def _signature(function: Function) -> Iterator[str]:
    for name, kind in function.parameters:
        yield declaration(kind, name)
    if function.returns.name != "void":
        yield declaration(function.returns, "retval")


def _counted(family: str, kind: int, known: dict[str, events.Event]) -> list[str]:
    """Returns ``page-faults:100``, … for the events of a table that this machine counts."""
    try:
        found = [f"{name}:{event.period}" for name, event in known.items() if events.offered(kind, event)]
    except OSError as error:
        raise Missing(_no_perf_events(error)) from error
    if not found:
        raise Missing(f"this machine has no {family} counters that perf knows; few virtual machines have")
    return found


def _profiles() -> list[str]:
    try:
        events.offered(perf.TYPE_SOFTWARE, events.SOFTWARE["cpu-clock"])
    except OSError as error:
        raise Missing(_no_perf_events(error)) from error
    return ["hz:99"]


def _no_perf_events(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "only root may look (kernel.perf_event_paranoid)"
    return f"this kernel has no perf events (CONFIG_PERF_EVENTS): {error.strerror}"


def _needs_pmu(name: str) -> None:
    if not (PMUS / name).exists():
        raise Missing(f"this kernel has no {name}s (CONFIG_{name.upper()}_EVENTS)")


def _needs_tracing_programs() -> None:
    """Loads a program of two instructions for a function that is not called, attaches it and lets it go."""
    for name in _HARMLESS:
        try:
            number = libbpf.vmlinux_btf_id(name, libbpf.ATTACH_TRACE_FENTRY)
        except OSError:
            continue
        break
    else:
        raise Missing("the kernel's BTF has none of its functions")
    try:
        program = libbpf.prog_load(libbpf.PROG_TYPE_TRACING, "try", _RETURN_0, libbpf.ATTACH_TRACE_FENTRY, number)
        try:
            os.close(libbpf.raw_tracepoint_open(None, program))
        finally:
            os.close(program)
    except OSError as error:
        if os.geteuid() != 0:
            raise Missing("whether this kernel loads tracing programs can be asked by root alone") from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise Missing("this kernel does not allow tracing programs") from error
        words = "not on this architecture" if error.errno == _ENOTSUPP else error.strerror
        raise Missing(f"this kernel does not attach tracing programs: {words} (CONFIG_FUNCTION_TRACER)") from error


def lines(pattern: str = "*", verbose: bool = False) -> tuple[Iterator[str], list[str]]:
    """Returns the lines to print, and what is to be said beside them: the families missing, or that nothing matches.

    Raises HookError where a file that the pattern names can't be read.
    """
    listing = Listing()
    found, missing = listing.find(pattern)
    if not found and not missing:
        every, _ = listing.find("*") if not pattern.startswith(("uprobe:", "uretprobe:", "usdt:")) else ([], [])
        missing = [f"nothing here matches {pattern}{did_you_mean(nearest(pattern, every))}"]
    if verbose and len(found) > 100:
        listing.prepare_details()

    def all_lines() -> Iterator[str]:
        for hook in found:
            yield hook
            if verbose:
                yield from (_INDENT + line for line in listing.details(hook))

    return all_lines(), missing
