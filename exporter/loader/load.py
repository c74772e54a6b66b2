# SPDX-License-Identifier: Apache-2.0
"""From bytecode to descriptors: creates the maps, then tries one mechanism after the other until one holds whole."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from exporter import cgroups, libbpf, symbols
from exporter.child import Crashed
from exporter.errors import AttachError, CompileError, ExporterError, LoadError, ProbeError
from exporter.hooks import files
from exporter.hooks.files import Identity
from exporter.loader import attach, births, cache, codegen, context, rulemaps, script, usdt
from exporter.loader.bytecode import Bytecode, Map, relocate
from exporter.probe import ON_INTERFACES, Hook, Mechanism, Probe
from exporter.rules import tables
from exporter.status import MAX_DETAILS, Again, Attempt, File, Loaded


class NothingHolds(ProbeError):
    """No mechanism of a probe could be loaded and attached; ``tried`` has each with its reason."""

    def __init__(self, reason: str, details: str, tried: tuple[Attempt, ...]) -> None:
        super().__init__(reason, details)
        self.args = (reason, details, tried)
        self.tried = tried


@dataclass(frozen=True)
class _Attachment:
    """A program, by its name, at a hook. fds hold it there."""

    program: str
    hook: Hook
    fds: tuple[int, ...]
    tells_missed: bool


def start(probe: Probe, existing: Mapping[str, int] | None = None) -> tuple[Loaded, list[int]]:
    """Compiles, loads and attaches a probe; to be run in a process of its own. Raises ProbeError.

    existing are as ``load`` has them.
    """
    made, c, refused = source(probe)
    attempts = [Attempt(probe.mechanism_name(mechanism), why, "") for mechanism, why in refused]
    if not made.mechanisms:
        raise NothingHolds("; ".join(why for _, why in refused), "", tuple(attempts))
    bytecode = cache.compiled(probe.name, c, probe.source.parent if probe.source else None)
    return load(made, bytecode, attempts, existing, _digest(c))


def again(
    probe: Probe, before: Loaded, programs: dict[str, int], names: frozenset[str]
) -> tuple[Again | Loaded, list[int]]:
    """Attaches what was loaded of a probe to files that have changed: those that these names mean now.

    programs are the descriptors of what was loaded, by name; their maps go on. Where another program is needed, as a
    USDT probe may have its arguments elsewhere now, or nothing holds as it is, the probe is loaded anew, as ``start``
    does it.
    """
    made, c, _ = source(probe)
    if _digest(c) == before.source and before.chosen in made.mechanisms:
        try:
            return _attach_to(made, before.chosen, programs, names)
        except ProbeError:  # whether it is for good is seen when it is loaded anew
            pass
    return start(probe)


def _attach_to(
    probe: Probe, mechanism: Mechanism, programs: dict[str, int], names: frozenset[str]
) -> tuple[Again, list[int]]:
    before = {name: files.identity(name) for name in sorted(names)}
    attachments: list[_Attachment] = []
    try:
        for program in probe.programs(mechanism):
            for hook in program.hooks:
                if files.named(hook) not in names or (hook.optional and not attach.exists(hook)):
                    continue
                attach.require(hook)
                if program.name not in programs:
                    raise LoadError(f"{program.name} is not loaded")
                fds = tuple(attach.attach(hook, programs[program.name]))
                attachments.append(_Attachment(program.name, hook, fds, False))
        _require_same(before)
    except ProbeError:
        _close(attachments)
        raise
    found, fds_of_files = _of_files(attachments, before)
    return Again(found), fds_of_files


def _of_files(
    attachments: Iterable[_Attachment], identities: dict[str, Identity | None]
) -> tuple[tuple[File, ...], list[int]]:
    """Returns the files that programs are attached to, if they are there, and the descriptors in their order."""
    held: dict[str, list[int]] = {name: [] for name in identities}
    for one in attachments:
        if name := files.named(one.hook):
            held[name].extend(one.fds)
    return (
        tuple(File(name, identities[name], len(fds)) for name, fds in held.items()),
        [fd for fds in held.values() for fd in fds],
    )


def _require_same(before: dict[str, Identity | None]) -> None:
    """Raises AttachError where a file is not the one that it was: nobody knows which of the two was attached to."""
    for name, identity in before.items():
        if files.identity(name) != identity:
            raise AttachError(f"{name} changed while it was attached to")


def _close(attachments: Iterable[_Attachment]) -> None:
    for one in attachments:
        for fd in one.fds:
            os.close(fd)


def _digest(c: str) -> str:
    return hashlib.sha256(c.encode("utf-8", "surrogateescape")).hexdigest()


def source(probe: Probe) -> tuple[Probe, str, Iterable[tuple[Mechanism, str]]]:
    """Returns a probe as it is on this host, its whole C, and the mechanisms that can't be, with why.

    Raises CompileError where none of its expressions can be.
    """
    if probe.source:
        made, ahead, behind, refused = usdt.wrapped(probe)
        return made, codegen.source(made, behind, ahead), refused
    resolved = script.resolve(probe, context.here, usdt.ways)
    return resolved.probe, codegen.source(resolved.probe, resolved.c), resolved.refused


def reason(error: ExporterError, words: str) -> str:
    """Returns in one line why a probe failed. words is what its process wrote to descriptor 2: the compiler's output.

    BCC's own exception only says that it failed, and it crashes on some errors: the first line with ``error:`` is why.
    """
    if isinstance(error, CompileError | Crashed):
        match = re.search(r"^.*?\b(?:fatal )?error: .*$", words, re.MULTILINE)
        if match:
            return f"cannot compile: {match[0].strip()}"
    return str(error)


def load(
    probe: Probe,
    bytecode: Bytecode,
    refused: Iterable[Attempt] = (),
    existing: Mapping[str, int] | None = None,
    source: str = "",
) -> tuple[Loaded, list[int]]:
    """Loads and attaches compiled programs. Returns what came of it, with the descriptors.

    refused were tried before. existing are descriptors of maps by name that are used in place of new ones: programs
    then go on counting where others do. Maps of rules are always new. source tells the C from another.
    """
    maps = _maps(probe, bytecode, existing or {})
    tried: list[Attempt] = list(refused)
    watching: list[_Attachment] = []
    if births.wanted(probe):
        try:
            watching.append(_Attachment(births.PROGRAM, births.HOOK, tuple(births.watch(bytecode, maps)), True))
        except ProbeError as error:
            tried.append(Attempt("births of cgroups", error.reason, error.details[-MAX_DETAILS:]))
    ksyms = [(symbols.TABLE, symbols.build())] if "ksym" in probe.chosen_kinds else []
    for mechanism in sorted(probe.mechanisms, key=lambda one: _misses(probe, one)):
        name = probe.mechanism_name(mechanism)
        hooks = [hook for program in probe.programs(mechanism) for hook in program.hooks]
        identities = {name: files.identity(name) for name in sorted({files.named(hook) for hook in hooks} - {""})}
        try:
            programs, attachments, on_interfaces = _attach(probe, mechanism, bytecode, maps, identities)
        except ProbeError as error:
            tried.append(Attempt(name, error.reason, error.details[-MAX_DETAILS:]))
            continue
        attachments += watching
        wanted = {"writing", "missed", cgroups.BORN}.union(
            *(codegen.map_names(table) for table in probe.tables if table.chosen)
        )
        kept = [(map_.name, fd) for map_, fd in zip(bytecode.maps, maps, strict=True) if map_.name in wanted]
        kept += ksyms
        private = [(map_.name, fd) for map_, fd in zip(bytecode.maps, maps, strict=True) if map_.name == tables.PLACES]
        links = [one for one in attachments if one.tells_missed and one.hook.family in attach.KPROBES]
        processors = [fd for one in attachments if one.hook.family in attach.ON_EACH_CPU for fd in one.fds]
        of_kernel = [one for one in attachments if not files.named(one.hook) and one not in links]
        others = [one for one in of_kernel if one.hook.family not in attach.ON_EACH_CPU]
        of_files, fds_of_files = _of_files(attachments, identities)
        loaded = Loaded(
            probe=replace(probe, rules=()),
            mechanism=name,
            tried=tuple(tried),
            maps=tuple(map_name for map_name, _ in kept),
            programs=tuple(programs),
            links=tuple(link.program for link in links),
            files=of_files,
            on_each_cpu=len(processors),
            attachments=tuple((one.program, str(one.hook)) for one in attachments),
            on_interfaces=tuple(on_interfaces),
            misses_unknown=tuple(dict.fromkeys(one.program for one in attachments if not one.tells_missed)),
            compiler=bytecode.compiler,
            private=tuple(map_name for map_name, _ in private),
            chosen=mechanism,
            source=source,
        )
        links_fds = [fd for one in links for fd in one.fds]
        rest = [fd for one in others for fd in one.fds] + fds_of_files + processors
        return loaded, [fd for _, fd in kept] + list(programs.values()) + links_fds + [fd for _, fd in private] + rest
    reasons = "; ".join(attempt.reason for attempt in tried)
    details = "\n\n".join(f"{attempt.reason}\n{attempt.details}".strip() for attempt in tried)
    raise NothingHolds(reasons, details, tuple(tried))


def _misses(probe: Probe, mechanism: Mechanism) -> bool:
    """Whether a mechanism misses events on this kernel that another may not: it is tried after those."""
    return any(attach.misses(hook) for program in probe.programs(mechanism) for hook in program.hooks)


def _maps(probe: Probe, bytecode: Bytecode, existing: Mapping[str, int]) -> list[int]:
    of_rules = rulemaps.of(probe)
    return [
        of_rules[form.name](form) if form.name in of_rules else _same(form, existing) or _create(form)
        for form in bytecode.maps
    ]


def _same(form: Map, existing: Mapping[str, int]) -> int | None:
    """Returns the map of this name that is there, if one is. Raises LoadError where it is of another form."""
    fd = existing.get(form.name)
    if fd is not None and libbpf.map_form(fd) != (form.type, form.key_size, form.value_size, form.entries):
        raise LoadError(f"the map {form.name} is there in another form")
    return fd


def _create(form: Map) -> int:
    if form.type == libbpf.MAP_TYPE_ARRAY_OF_MAPS:
        raise LoadError(f"map {form.name}: maps of maps are not supported")
    return rulemaps.create(form)


def _attach(
    probe: Probe, mechanism: Mechanism, bytecode: Bytecode, maps: list[int], identities: dict[str, Identity | None]
) -> tuple[dict[str, int], list[_Attachment], list[tuple[str, str]]]:
    """Loads and attaches the programs of one mechanism, all or none; returned last are those for interfaces, and hooks.
    identities are of its files, before that.

    A function that is attached to several hooks is loaded once, except for fentry and fexit, where a program is loaded
    for one kernel function: those are named ``function@target`` from the second on.
    """
    programs: dict[str, int] = {}
    attachments: list[_Attachment] = []
    on_interfaces: list[tuple[str, str]] = []
    wanted = [
        hook
        for program in probe.programs(mechanism)
        for hook in program.hooks
        if not hook.optional or attach.exists(hook)
    ]
    for hook in wanted:  # before any of them is attached
        attach.require(hook)
    try:
        for program in probe.programs(mechanism):
            if program.name not in bytecode.programs:
                raise CompileError(
                    f"{probe.source or probe.declaration} has no function {program.name} that is not static"
                )
            instructions = relocate(bytecode.programs[program.name], maps.__getitem__)
            for hook in program.hooks:
                if hook not in wanted:
                    continue
                name = program.name
                if name in programs and hook.family in ("fentry", "fexit"):
                    name = f"{program.name}@{hook.target}"
                if name not in programs:
                    programs[name] = attach.load_for(hook, program.name, instructions)
                if hook.family in ON_INTERFACES:
                    on_interfaces.append((name, str(hook)))
                else:
                    fds = tuple(attach.attach(hook, programs[name]))
                    attachments.append(_Attachment(name, hook, fds, attach.tells_missed(hook, fds[0])))
        _require_same(identities)
    except ProbeError:
        _close(attachments)
        for fd in programs.values():
            os.close(fd)
        raise
    return programs, attachments, on_interfaces
