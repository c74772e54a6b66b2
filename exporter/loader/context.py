# SPDX-License-Identifier: Apache-2.0
"""What the words of an expression mean at a hook: each family gives its programs something else.

Without the kernel's descriptions (``Offline``) it is still known which words there are, but not their fields and types.
"""

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import CompileError, ExporterError, HookError, one_of
from exporter.expression import ExpressionError, Word
from exporter.hooks.names import did_you_mean, nearest
from exporter.hooks.types import Field, Function, Type
from exporter.kinds import MAX_STRING
from exporter.loader import usdt
from exporter.loader.usdt import MAX_ARGUMENTS
from exporter.probe import Hook, Mechanism

if TYPE_CHECKING:
    from exporter.hooks.btf import Btf
    from exporter.loader.body import Body

_NAMES = 40  # of a structure's members, as many are told
_DYNAMIC = 64  # bytes of a text of which the kernel does not say how long it may be

# word -> C, signed; of the running task and processor, wherever a program runs
_COMMON = {
    "pid": ("bpf_get_current_pid_tgid() >> 32", True),
    "tid": ("(u32)bpf_get_current_pid_tgid()", True),
    "uid": ("(u32)bpf_get_current_uid_gid()", True),
    "gid": ("bpf_get_current_uid_gid() >> 32", True),
    "cpu": ("bpf_get_smp_processor_id()", True),
    "cgroup": ("bpf_get_current_cgroup_id()", False),
}
_OWN_KINDS = ("comm", "user", "pid", "cpu", "cgroup", "unit", "container")
_LABELS_ONLY = {"user": "uid", "unit": "cgroup", "container": "cgroup"}  # and the number that a condition can have
ARGUMENTS = tuple(f"arg{number}" for number in range(MAX_ARGUMENTS))
_REGISTER_ARGUMENTS = 6  # of a function: those that are in registers, by whatever machine
ELAPSED = Word(("elapsed",))

_REGISTERS = "struct pt_regs"
ARGUMENT_TYPES = {
    "kprobe": _REGISTERS, "kretprobe": _REGISTERS, "uprobe": _REGISTERS, "uretprobe": _REGISTERS, "usdt": _REGISTERS,
    "tracepoint": "void", "rawtracepoint": "struct bpf_raw_tracepoint_args", "fentry": "u64", "fexit": "u64",
    "profile": "struct bpf_perf_event_data", "software": "struct bpf_perf_event_data",
    "hardware": "struct bpf_perf_event_data",
}  # fmt: skip
_HAVE_ARGUMENTS = ("kprobe", "uprobe", "usdt", "rawtracepoint", "fentry", "fexit")
_HAVE_RETVAL = ("kretprobe", "uretprobe", "fexit")
_HAVE_FIELDS = ("tracepoint", "fentry", "fexit", "kprobe")


@dataclass(frozen=True)
class Value:
    """What a part of an expression gives.

    type is number; text (comm, str); bytes (an array); address (ip); symbol (ksym); any, where only the kernel knows;
    or a word that can only be a label. c is a number as C. read gives the statement that reads a text, or bytes, into a
    buffer of so many bytes; size is how many there can be, the NUL of a text included. grows: str can ask for
    more of it.
    """

    type: str
    c: str = ""
    signed: bool = True
    truth: bool = False
    size: int = 0
    grows: bool = False
    read: Callable[[str, int], str] | None = None
    kind: str = ""

    @property
    def described(self) -> str:
        return {"number": "a number", "text": "a text", "bytes": f"{self.size} bytes", "address": "an address"}.get(
            self.type, "a name"
        )

    @property
    def hint(self) -> str:
        return f"; use {_LABELS_ONLY[self.type]}" if self.type in _LABELS_ONLY else ""


class Context:
    """The words at one hook."""

    def __init__(self, hook: Hook, family: str = "") -> None:
        self.hook = hook
        self.family = family or hook.family
        self.argument = ARGUMENT_TYPES[self.family]
        self.kept: list[str] = []  # what the start of a span keeps for its end, as C at the start
        self._begin: Body | None = None

    @property
    def of_program(self) -> bool:
        """Whether addresses here are those of a program in user space, and never to be read as the kernel's."""
        own = self.family in ("uprobe", "uretprobe", "usdt") or (
            self.family == "tracepoint" and self.hook.target.startswith("syscalls:")
        )
        return own or (self._begin is not None and self._begin.context.of_program)

    def start_with(self, begin: "Body") -> None:
        """This is the end of a span: there is an elapsed time, and what only the start knows can be kept."""
        self._begin = begin
        self.kept = []

    def own_kind(self, word: Word) -> str:
        """Returns the kind of label that a word is by itself; else nothing."""
        return word.path[0] if len(word.path) == 1 and word.path[0] in _OWN_KINDS else ""

    def word(self, word: Word, body: "Body") -> Value:
        """Returns what a word gives. Raises ExpressionError where there is no such word here."""
        name, *members = word.path
        if members and name != "args":
            raise ExpressionError(f"{word}: {name} has no members")
        if name == "comm":
            return Value("text", size=16, read=lambda to, size: f"bpf_get_current_comm({to}, {size});")
        if name in _COMMON:
            c, signed = _COMMON[name]
            return Value("number", c, signed=signed)
        if name in _LABELS_ONLY:
            return Value(name)
        if word == ELAPSED and self._begin:
            return Value("number", "bpf_ktime_get_ns() - call.began")
        try:
            return self._given(word, body)
        except ExpressionError:
            if self._begin is None:
                raise
            try:
                found = self._begin.value(word)
            except ExpressionError:
                found = None
            if found is None:
                raise
        if found.type not in ("number", "any"):
            raise ExpressionError(f"{word} is {found.described} that is only there at the start: nothing keeps it")
        return self._keep(found)

    def _keep(self, found: Value) -> Value:
        if found.type == "any":
            return found
        if found.c not in self.kept:
            self.kept.append(found.c)
        return Value("number", f"call.kept[{self.kept.index(found.c)}]", signed=found.signed)

    def words(self) -> list[str]:
        """Returns all words that there are here."""
        own = [str(ELAPSED)] if self._begin else []
        own += ARGUMENTS[: self.arguments()] if self.family in _HAVE_ARGUMENTS else ()
        own += ["retval"] if self.family in _HAVE_RETVAL else []
        own += ["args.…"] if self.family in _HAVE_FIELDS else []
        return ["comm", *_COMMON, *_LABELS_ONLY, *own]

    def _given(self, word: Word, body: "Body") -> Value:
        name, *members = word.path
        if name in ARGUMENTS[: self.arguments()] and self.family in _HAVE_ARGUMENTS:
            return self.given(ARGUMENTS.index(name), body)
        if name == "retval" and self.family in _HAVE_RETVAL:
            return self.returned()
        if name == "args" and self.family in _HAVE_FIELDS:
            if not members:
                raise ExpressionError(f"args: which field? {self.fields()}")
            return self.member(word, body)
        if name in ARGUMENTS and self.family in ("kretprobe", "uretprobe"):
            entry = self.family.replace("ret", "")
            raise ExpressionError(f"{name}: on return it is gone; attach {{start: {entry}:…, end: {self.hook}}}")
        if word == ELAPSED:
            raise ExpressionError("elapsed: only between two hooks, attach: {start: …, end: …}")
        raise ExpressionError(f"{word}: no such word at {self.hook}; {one_of(name, self.words())}")

    # what a hook gives, when all that is known of it is its family

    def arguments(self) -> int:
        return len(ARGUMENTS) if self.family == "usdt" else _REGISTER_ARGUMENTS

    def given(self, number: int, body: "Body") -> Value:
        return Value("any")

    def returned(self) -> Value:
        return Value("any")

    def member(self, word: Word, body: "Body") -> Value:
        return Value("any")

    def fields(self, near: str = "") -> str:
        """Returns what args has here, and of that what is most like a name."""
        return f"args.FIELD is one of {self.hook}"


def offline(mechanism: Mechanism) -> tuple[Context, Context | None]:
    """Returns the contexts of a mechanism's end and start, without asking the kernel."""
    *start, end = [Context(program.hooks[0]) for program in mechanism.programs]
    return end, start[0] if start else None


def here(mechanism: Mechanism) -> tuple[Context, Context | None]:
    """Returns the contexts of a mechanism's end and start on this host. Raises ProbeError where a hook is not here."""
    *start, end = [_of(program.hooks[0]) for program in mechanism.programs]
    return end, start[0] if start else None


def _of(hook: Hook) -> Context:
    makers: dict[str, Callable[[Hook], Context]] = {
        "kprobe": Registers, "kretprobe": Registers, "uprobe": Registers, "uretprobe": Registers,
        "fentry": Traced, "fexit": Traced, "rawtracepoint": RawTracepoint, "tracepoint": Tracepoint, "usdt": Usdt,
    }  # fmt: skip
    return makers.get(hook.family, Context)(hook)


class Registers(Context):
    """kprobe, kretprobe, uprobe and uretprobe: what is in the processor's registers."""

    def given(self, number: int, body: "Body") -> Value:
        return Value("number", f"PT_REGS_PARM{number + 1}(ctx)", signed=False)

    def returned(self) -> Value:
        function = self._function()
        return _cast(function.returns, "PT_REGS_RC(ctx)") if function else Value("number", "(s64)PT_REGS_RC(ctx)")

    def _function(self) -> Function | None:
        btf = _btf() if self.family in ("kprobe", "kretprobe") else None
        return btf.function(self.hook.target) if btf else None

    def member(self, word: Word, body: "Body") -> Value:
        function = self._function()
        if function is None:
            btf = _btf()
            near = did_you_mean(nearest(self.hook.target, btf.functions())) if btf else ""
            raise ExpressionError(f"{word}: this kernel has no BTF of {self.hook.target}; use arg0 to arg5{near}")
        places = _slots(function)

        def register(number: int) -> str:
            if places[number] != number or number >= _REGISTER_ARGUMENTS:
                raise ExpressionError(f"{word}: is not in a register by its number; attach fentry:{function.name}")
            return f"PT_REGS_PARM{number + 1}(ctx)"

        return _parameter(function, word, body, register)


class Traced(Context):
    """fentry and fexit: typed arguments, then what was returned."""

    def __init__(self, hook: Hook) -> None:
        super().__init__(hook)
        btf = _btf()
        function = btf.function(hook.target) if btf else None
        if function is None:
            near = did_you_mean(nearest(hook.target, btf.functions(modules=False))) if btf else ""
            raise CompileError(f"{hook}: this kernel has no BTF of a function {hook.target}{near}")
        self._function = function

    def arguments(self) -> int:
        return min(len(self._function.parameters), len(ARGUMENTS))

    def given(self, number: int, body: "Body") -> Value:
        return _cast(self._function.parameters[number][1], f"ctx[{_slots(self._function)[number]}]")

    def returned(self) -> Value:
        return _cast(self._function.returns, f"ctx[{_slots(self._function)[-1]}]")

    def member(self, word: Word, body: "Body") -> Value:
        return _parameter(self._function, word, body, lambda number: f"ctx[{_slots(self._function)[number]}]")

    def fields(self, near: str = "") -> str:
        return _has(self.hook.target, [name for name, _ in self._function.parameters], near)


class RawTracepoint(Context):
    """The arguments of a tracepoint as the kernel's own code passes them."""

    def __init__(self, hook: Hook) -> None:
        super().__init__(hook)
        btf = _btf()
        self._function = btf.raw_tracepoint(hook.target) if btf else None

    def arguments(self) -> int:
        return min(len(self._function.parameters), len(ARGUMENTS)) if self._function else _REGISTER_ARGUMENTS

    def given(self, number: int, body: "Body") -> Value:
        c = f"ctx->args[{number}]"
        return _cast(self._function.parameters[number][1], c) if self._function else Value("number", c, signed=False)


class Tracepoint(Context):
    """The fields of a tracepoint's record, by the kernel's own format."""

    def __init__(self, hook: Hook) -> None:
        super().__init__(hook)
        from exporter.hooks import tracefs

        self._fields = {one.name: one for one in tracefs.fields(hook.target)}

    def fields(self, near: str = "") -> str:
        return _has(self.hook.target.partition(":")[2], list(self._fields), near)

    def member(self, word: Word, body: "Body") -> Value:
        _, name, *rest = word.path
        found = self._fields.get(name)
        if found is None:
            raise ExpressionError(f"{'.'.join(word.path[:2])}: {self.fields(name)}")
        if rest:
            raise ExpressionError(f"{word}: {name} is of the type {found.type.name}, of which no members are known")
        return self._value(word, found)

    def _value(self, word: Word, found: Field) -> Value:
        at = f"(u8 *)ctx + {found.offset}"
        element = found.type.element
        if found.dynamic and element and element.size == 1:
            base = found.offset + 4 if found.relative else 0
            start = f"(u8 *)ctx + {base} + (*(u32 *)({at}) & 0xffff)"
            return Value(
                "text",
                size=_DYNAMIC,
                grows=True,
                read=lambda to, size: f"bpf_probe_read_kernel_str({to}, {size}, {start});",
            )
        if not found.dynamic and found.type.kind == "array" and element and element.size == 1:
            return _bytes(element, found.size, at)
        if not found.dynamic and found.type.kind in ("integer", "pointer") and found.size in (1, 2, 4, 8):
            if found.offset % found.size:  # the verifier lets a program read its record only in place
                raise ExpressionError(f"{word}: is not aligned in its record")
            # volatile, or the compiler reads in another place or size than the verifier allows
            return _cast(found.type, f"*(volatile u{8 * found.size} *)({at})")
        raise ExpressionError(f"{word}: is of the type {found.type.name}, which is neither a number nor a text")


class Usdt(Context):
    """The arguments of a probe in a program, at those of its places where they are given in one way."""

    def __init__(self, hook: Hook) -> None:
        super().__init__(hook)
        self._arguments = usdt.parse(usdt.places(hook)[0].arguments)

    def arguments(self) -> int:
        return min(len(self._arguments), len(ARGUMENTS))

    def given(self, number: int, body: "Body") -> Value:
        argument = self._arguments[number]
        if not argument.c:
            raise ExpressionError(f"arg{number}: {argument.text} is nothing that can be read at {self.hook}")
        name = body.fresh()
        body.lines += argument.read(name)
        return Value("number", name, signed=argument.signed or argument.size < 8)


@functools.cache
def _btf() -> "Btf | None":
    from exporter.hooks.btf import Btf

    try:
        return Btf.load()
    except ExporterError:
        return None


def _has(what: str, names: Sequence[str], near: str) -> str:
    likely = difflib.get_close_matches(near, names, n=1)
    shown = ", ".join(names[:_NAMES]) + (", …" if len(names) > _NAMES else "")
    return f"{what} has {shown or 'no fields'}" + (f"; did you mean {likely[0]}?" if likely else "")


def _bytes(element: Type, size: int, at: str) -> Value:
    """An array of bytes somewhere in the kernel's memory: a text if its elements are characters."""
    if element.name == "char" and size > 1:
        size = min(size, MAX_STRING)
        return Value("text", size=size, read=lambda to, size: f"bpf_probe_read_kernel_str({to}, {size}, {at});")
    return Value("bytes", size=size, read=lambda to, size: f"bpf_probe_read_kernel({to}, {size}, {at});")


def _cast(type_: Type, c: str) -> Value:
    """A value of 64 bits as what its type says it is: above its own bits there may be anything."""
    if type_.kind not in ("integer", "pointer") or type_.size not in (1, 2, 4, 8):
        return Value("bytes", size=type_.size)
    sign = "s" if type_.signed else "u"
    return Value("number", f"({sign}{8 * type_.size}){c}", signed=type_.signed or type_.size < 8)


def _slots(function: Function) -> list[int]:
    """Returns where each parameter begins among words of 64 bits, and the return value: a struct may take several."""
    places = [0]
    for _, type_ in function.parameters:
        places.append(places[-1] + (-(-type_.size // 8) if type_.kind == "struct" else 1))
    return places


def _parameter(function: Function, word: Word, body: "Body", argument: Callable[[int], str]) -> Value:
    """Follows ``args.a.b.c`` from a function's parameter through the kernel's structures."""
    _, name, *rest = word.path
    names = [parameter for parameter, _ in function.parameters]
    if name not in names:
        raise ExpressionError(f"args.{name}: {_has(function.name, names, name)}")
    number = names.index(name)
    type_ = function.parameters[number][1]
    if not rest:
        return _cast(type_, argument(number))
    btf = _btf()
    assert btf is not None
    if type_.kind != "pointer":
        raise ExpressionError(f"{word}: {name} is of the type {type_.name}, which has no members here")
    at, offset, bits = argument(number), 0, 0
    for depth, step in enumerate(rest):
        if type_.kind == "pointer" and depth:
            at, offset = _read(body, 8, "u64", at, offset // 8), 0
        try:
            members = {one.name: one for one in btf.members(type_)}
        except HookError as error:
            raise ExpressionError(f"{word}: {step}: {error.reason}") from error
        if step not in members:
            has = _has(type_.name, list(members), step) if members else f"{type_.name} has no members"
            raise ExpressionError(f"{word}: {step}: {has}")
        type_, bits = members[step].type, members[step].bits
        offset += members[step].offset
    return _loaded(word, type_, bits, body, at, offset)


def _loaded(word: Word, type_: Type, bits: int, body: "Body", at: str, offset: int) -> Value:
    """Reads a member; offset in bits."""
    if bits:
        first, inside = offset // 8, offset % 8
        if inside + bits > 64:
            raise ExpressionError(f"{word}: is a bit field that lies in more than 8 bytes")
        read = _read(body, (inside + bits + 7) // 8, "u64", at, first)
        unsigned = f"({read} >> {inside} & {2**bits - 1}ULL)"
        return Value("number", f"(s64)({unsigned} << {64 - bits}) >> {64 - bits}" if type_.signed else unsigned)
    if type_.kind in ("integer", "pointer") and type_.size in (1, 2, 4, 8):
        sign = "s" if type_.signed else "u"
        read = _read(body, type_.size, f"{sign}{8 * type_.size}", at, offset // 8)
        return Value("number", read, signed=type_.signed or type_.size < 8)
    if type_.kind == "array" and type_.element and type_.element.size == 1:
        return _bytes(type_.element, type_.size, f"(void *)({at} + {offset // 8})")
    raise ExpressionError(f"{word}: is of the type {type_.name}, which is neither a number nor a text")


def _read(body: "Body", size: int, c_type: str, at: str, offset: int) -> str:
    """Reads memory of the kernel into a variable, which is 0 where that can't be read."""
    name = body.fresh()
    # in a block of its own, so that reads share a place on the stack
    read = f"{c_type} read = 0; bpf_probe_read_kernel(&read, {size}, (void *)({at} + {offset})); {name} = read;"
    body.lines += [f"{c_type} {name};", f"{{ {read} }}"]
    return name
