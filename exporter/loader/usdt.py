# SPDX-License-Identifier: Apache-2.0
"""USDT probes: the arguments that a program's notes describe, as C; and a function for each way to give them.

A probe may stand in several places of a file, and the compiler that built it may have had an argument in another
register at each. So a hook is attached once for each text of arguments, to the places that have it:

    -4@%edi 8@-8(%rbp) 2@$7   ->   (s32)(u32)ctx->di; what is at ctx->bp - 8; 7

https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation
"""

import dataclasses
import functools
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import CompileError, ProbeError
from exporter.probe import Hook, Mechanism, Probe, Program

if TYPE_CHECKING:
    from exporter.hooks.elf import Place

MAX_ARGUMENTS = 12  # as many as <sys/sdt.h> has
PLACE = "_place_"  # between a function's name and the number of its places

_ARGUMENT = re.compile(r"(?P<sign>-?)(?P<size>[1248])(?P<float>f?)@(?P<operand>.+)")
_NUMBER = r"[-+]?(?:0x[0-9a-f]+|\d+)"

# register -> C, bits
_X86 = {
    name: (f"ctx->{letter}x{shift}", bits)
    for letter in "abcd"
    for name, shift, bits in (
        (f"r{letter}x", "", 64), (f"e{letter}x", "", 32), (f"{letter}x", "", 16), (f"{letter}l", "", 8),
        (f"{letter}h", " >> 8", 8),
    )
} | {
    name: (f"ctx->{word}", bits)
    for word in ("si", "di", "bp", "sp")
    for name, bits in ((f"r{word}", 64), (f"e{word}", 32), (word, 16), (f"{word}l", 8))
} | {
    f"r{number}{suffix}": (f"ctx->r{number}", bits)
    for number in range(8, 16)
    for suffix, bits in (("", 64), ("d", 32), ("w", 16), ("b", 8))
} | {"rip": ("ctx->ip", 64)}  # fmt: skip
_ARM64 = {
    f"{letter}{number}": (f"ctx->regs[{number}]", bits)
    for number in range(31)
    for letter, bits in (("x", 64), ("w", 32))
} | {"sp": ("ctx->sp", 64), "xzr": ("0", 64), "wzr": ("0", 32)}

_X86_MEMORY = re.compile(
    rf"(?P<offset>{_NUMBER})?\((?:%(?P<base>\w+))?(?:,\s*%(?P<index>\w+)(?:,\s*(?P<scale>[1248]))?)?\)"
)
_ARM64_MEMORY = re.compile(
    rf"\[(?P<base>\w+)(?:,\s*(?:#?(?P<offset>{_NUMBER})|(?P<index>x\d+)(?:,\s*lsl\s*#?(?P<shift>\d))?))?\]"
)


@dataclass(frozen=True)
class Argument:
    """An argument as a note has it. c is it in C, or its address if it is in memory; "" where that can't be known."""

    text: str
    size: int = 0
    signed: bool = False
    c: str = ""
    memory: bool = False

    @property
    def c_type(self) -> str:
        return f"{'s' if self.signed else 'u'}{8 * self.size}"

    def read(self, name: str) -> list[str]:
        """Returns the statements that make a variable of it, which is 0 where memory can't be read."""
        if self.memory:
            return [
                f"{self.c_type} {name} = 0;", f"bpf_probe_read_user(&{name}, sizeof({name}), (void *)({self.c}));",
            ]  # fmt: skip
        return [f"{self.c_type} {name} = ({self.c_type})({self.c});"]


def parse(text: str, machine: str = "") -> tuple[Argument, ...]:
    """Returns the arguments of a note for a machine, this one unless told, in their order."""
    operand = {"x86_64": _x86, "aarch64": _arm64}.get(machine or platform.machine())
    found: list[Argument] = []
    # an operand may have a space in it: `-4@[sp, 60] 8@x0`
    for part in re.split(r"\s+(?=-?[1248]f?@)", text.strip()) if text.strip() else ():
        match = _ARGUMENT.fullmatch(part)
        known = operand(match["operand"]) if match and operand and not match["float"] else None
        if match and known:
            found.append(Argument(part, int(match["size"]), bool(match["sign"]), *known))
        else:
            found.append(Argument(part))
    return tuple(found)


def _x86(operand: str) -> tuple[str, bool] | None:
    if match := re.fullmatch(rf"\$({_NUMBER})", operand):
        return _constant(match[1]), False
    if operand.startswith("%") and operand[1:] in _X86:
        return _register(_X86[operand[1:]]), False
    match = _X86_MEMORY.fullmatch(operand)
    if not match or any(match[part] and match[part] not in _X86 for part in ("base", "index")):
        return None
    terms = [_register(_X86[match["base"]])] if match["base"] else []
    terms += [f"{_register(_X86[match['index']])} * {match['scale'] or 1}"] if match["index"] else []
    return _sum([*terms, *([_constant(match["offset"])] if match["offset"] else [])]), True


def _arm64(operand: str) -> tuple[str, bool] | None:
    if match := re.fullmatch(rf"#?({_NUMBER})", operand):
        return _constant(match[1]), False
    if operand in _ARM64:
        return _register(_ARM64[operand]), False
    match = _ARM64_MEMORY.fullmatch(operand)
    if not match or any(match[part] and match[part] not in _ARM64 for part in ("base", "index")):
        return None
    terms = [_register(_ARM64[match["base"]])]
    terms += [f"({_register(_ARM64[match['index']])} << {match['shift'] or 0})"] if match["index"] else []
    return _sum([*terms, *([_constant(match["offset"])] if match["offset"] else [])]), True


def _constant(text: str) -> str:
    return f"(s64){int(text, 0) & 2**64 - 1}ULL"


def _register(found: tuple[str, int]) -> str:
    c, bits = found
    return f"(u{bits})({c})"


def _sum(terms: Sequence[str]) -> str:
    return " + ".join(f"(u64)({term})" for term in terms)


@functools.cache
def places(hook: Hook) -> "tuple[Place, ...]":
    """Returns the places of a hook that have its arguments, or all. Raises UnknownHook or HookError."""
    from exporter.hooks import elf, files  # pyelftools: only the children that need it load it

    module, provider, name = hook.target.rsplit(":", 2)
    found = elf.places(files.resolve(module), provider, name)
    return tuple(place for place in found if hook.arguments in (None, place.arguments))


def ways(hook: Hook) -> tuple[Hook, ...]:
    """Returns a USDT hook once for each text of arguments that its places have; others as they are."""
    if hook.family != "usdt":
        return (hook,)
    texts = dict.fromkeys(place.arguments for place in places(hook))
    return tuple(dataclasses.replace(hook, arguments=text) for text in texts)


def wrapped(probe: Probe) -> tuple[Probe, str, str, list[tuple[Mechanism, str]]]:
    """Makes functions with the arguments of USDT probes, which call the C functions that a user wrote.

    Returns the probe with them in their place, C to stand ahead of the user's own and behind it, and the mechanisms
    that can't be, with why.
    """
    made: dict[tuple[str, str], str] = {}
    good: list[Mechanism] = []
    refused: list[tuple[Mechanism, str]] = []
    for mechanism in probe.mechanisms:
        try:
            good.append(Mechanism(tuple(one for program in mechanism.programs for one in _wrapped(program, made))))
        except ProbeError as error:
            refused.append((mechanism, error.reason))
    if not made:
        return dataclasses.replace(probe, mechanisms=tuple(good)), "", "", refused
    members = " ".join(f"s64 arg{number};" for number in range(MAX_ARGUMENTS))
    functions = dict.fromkeys(name for name, _ in made)
    ahead = [f"\n/* the arguments of a USDT probe */\nstruct usdt {{ {members} }};"]
    ahead += [f"static __always_inline int {name}(struct pt_regs *ctx, struct usdt *args);" for name in functions]
    behind = [_wrapper(name, wrapper, parse(text)) for (name, text), wrapper in made.items()]
    return dataclasses.replace(probe, mechanisms=tuple(good)), "\n".join(ahead), "\n".join(behind), refused


def _wrapped(program: Program, made: dict[tuple[str, str], str]) -> list[Program]:
    if not any(hook.family == "usdt" for hook in program.hooks):
        return [program]
    if any(hook.family != "usdt" for hook in program.hooks):
        raise CompileError(f"{program.name}: has a USDT probe's arguments, so all its hooks must be usdt")
    hooks: dict[str, list[Hook]] = {}
    for hook in program.hooks:
        try:
            found = ways(hook)
        except ProbeError:
            if not hook.optional:
                raise
            continue
        for way in found:
            number = sum(name == program.name for name, _ in made) + 1
            wrapper = made.setdefault((program.name, way.arguments or ""), f"{program.name}{PLACE}{number}")
            hooks.setdefault(wrapper, []).append(way)
    return [Program(name, tuple(those), program.needed_for) for name, those in hooks.items()]


def _wrapper(name: str, wrapper: str, arguments: Sequence[Argument]) -> str:
    lines = ["struct usdt args = {};"]
    for number, argument in enumerate(arguments[:MAX_ARGUMENTS]):
        if argument.c:
            lines += [*argument.read(f"v{number}"), f"args.arg{number} = v{number};"]
    lines.append(f"return {name}(ctx, &args);")
    statements = "\n".join(f"    {line}" for line in lines)
    return f"\nint {wrapper}(struct pt_regs *ctx)\n{{\n{statements}\n}}"
