# SPDX-License-Identifier: Apache-2.0
"""A probe against this host, with nothing loaded: whether its expressions say what this kernel's hooks give, and its C.

A config may be checked on another machine than it runs on: a hook that is not here is no error. An expression is one
that the hook's own format, which is here, contradicts.
"""

import dataclasses
import functools
import platform
from dataclasses import dataclass

from exporter.errors import CompileError, HookError, ProbeError, Problem, UnknownHook
from exporter.hooks import elf, files, tracefs
from exporter.hooks.btf import Btf
from exporter.hooks.names import did_you_mean, nearest
from exporter.loader import codegen, context, load, script, usdt
from exporter.loader.context import Context
from exporter.probe import Hook, Mechanism, Probe

_BY_BTF = ("kprobe", "kretprobe", "fentry", "fexit", "rawtracepoint")


@dataclass(frozen=True)
class Comparison:
    """What came of a probe's expressions here: errors, hooks that are absent, and why some could not be looked at.

    absent and unread are empty where one alternative of the probe's holds.
    """

    problems: tuple[Problem, ...] = ()
    absent: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def compare(probe: Probe) -> Comparison:
    """Compares the expressions of a probe with what its hooks give here. One in C has none, nor has a script."""
    if probe.source or probe.script:
        return Comparison()
    good: list[Mechanism] = []
    problems: list[Problem] = []
    absent: list[str] = []
    unread: list[str] = []
    for mechanism in probe.mechanisms:
        try:
            for program in mechanism.programs:
                _find(program.hooks[0])
            contexts = context.here(mechanism)
        except UnknownHook as error:
            absent.append(error.reason)
        except HookError as error:
            unread.append(error.reason)
        except ProbeError as error:
            absent.append(error.reason)
        else:
            found = _problems(probe, *contexts)
            problems += found
            good += [] if found else [mechanism]
    if good:
        try:
            script.resolve(dataclasses.replace(probe, mechanisms=tuple(good)), context.here, usdt.ways)
        except CompileError as error:
            return Comparison((Problem(probe.declaration, 0, error.reason),))
        return Comparison()
    if problems and not unread:
        # another kernel may see that otherwise
        release = f" on kernel {platform.release()}"
        told = {dataclasses.replace(problem, message=problem.message + release) for problem in problems}
        return Comparison(tuple(sorted(told)))
    return Comparison((), tuple(dict.fromkeys(absent)), tuple(dict.fromkeys(unread)))


def source(probe: Probe) -> tuple[str, list[str]]:
    """Returns the whole C of a probe, as it would be compiled here, and remarks on what of it is not as it would be.

    Of a bpftrace script it is the script.
    """
    if probe.script:
        return probe.script.text, []
    try:
        _, c, refused = load.source(probe)
        return c, [f"without {probe.mechanism_name(mechanism)}: {reason}" for mechanism, reason in refused]
    except CompileError as error:
        resolved = script.resolve(probe, context.offline)
        remark = f"{error.reason}; in this C, what only a hook that is here can tell reads 0"
        return codegen.source(resolved.probe, resolved.c), [remark]


def _problems(probe: Probe, end: Context, start: Context | None) -> list[Problem]:
    try:
        return script.problems(probe, end, start)
    except ProbeError as error:  # of a type that is not what an expression takes it for
        return [Problem(probe.declaration, 0, f"{probe.name}: {error.reason}")]


def _find(hook: Hook) -> None:
    """Raises UnknownHook where there is no such hook here, HookError where that can't be seen."""
    if hook.family in ("uprobe", "uretprobe"):
        elf.offset(files.resolve(files.named(hook)), hook.target.rpartition(":")[2])
    elif hook.family == "usdt":
        usdt.places(hook)
    elif hook.family == "rawtracepoint":
        if _btf().raw_tracepoint(hook.target) is None:
            near = nearest(hook.target, _btf().raw_tracepoints())
            raise UnknownHook(f"this kernel has no {hook}{did_you_mean(near)}", near)
    elif hook.family in _BY_BTF and _btf().function(hook.target) is None:
        known = frozenset(tracefs.functions())  # some that can be probed are not in BTF
        if hook.target not in known:
            near = nearest(hook.target, known)
            raise UnknownHook(f"{hook}: this kernel has no function {hook.target}{did_you_mean(near)}", near)


@functools.cache
def _btf() -> Btf:
    return Btf.load()
