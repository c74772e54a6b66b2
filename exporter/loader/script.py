# SPDX-License-Identifier: Apache-2.0
"""From the expressions of a probe in YAML to the C of its programs.

An expression is computed step by step in local variables of 64 bits, so nothing that a user writes reaches the compiler
but numbers, and the characters of a text one by one. What a word means depends on the hook: its ``Context`` knows.

A number is signed, but where its C type is unsigned and has 64 bits. Arithmetic is that of 64 bits: it wraps. A
comparison is true where it is true of the numbers, whatever their signs. What is divided by 0 is 0.
"""

import dataclasses
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from exporter import kinds
from exporter.errors import CompileError, ProbeError, Problem, one_of
from exporter.expression import Binary, Call, Expression, ExpressionError, Node, Number, Text, Unary, Word
from exporter.kinds import MAX_STRING, Kind
from exporter.loader import codegen
from exporter.loader.context import Context, Value
from exporter.loader.usdt import PLACE
from exporter.probe import Hook, Label, Mechanism, Metric, Probe, Program, Table

STACK = 512  # bytes that a BPF program has
_SPILLED = 160  # bytes of it that are left for the compiler
_STRING = 64  # bytes of str(), where nothing else is said
_CASTS = {f"{sign}{bits}": (sign == "s", bits) for sign in "su" for bits in (8, 16, 32, 64)}
FUNCTIONS = ("str", "ip", "ksym", *_CASTS)

HELPERS = r"""
/* the address says whose memory it is: the kernel's have their highest bit set */
static __always_inline void read_string(void *to, u32 size, u64 from)
{
    if ((s64)from < 0)
        bpf_probe_read_kernel_str(to, size, (void *)from);
    else
        bpf_probe_read_user_str(to, size, (void *)from);
}

/* four bytes in the order of the network, as they are in memory: as an address of IPv6 */
static __always_inline void mapped(u8 *to, u32 four)
{
    to[10] = to[11] = 255;
    __builtin_memcpy(to + 12, &four, 4);
}

/* the address in a struct sockaddr_in (AF_INET, 2) or sockaddr_in6 (AF_INET6, 10) */
static __always_inline void address_of(u32 *name, u8 *to)
{
    u16 family = *(u16 *)name;

    if (family == 2)
        mapped(to, name[1]);
    else if (family == 10)
        __builtin_memcpy(to, name + 2, 16);
}

/* a BPF processor knows no signed division */
static __always_inline u64 magnitude(s64 a)
{
    return a < 0 ? 0 - (u64)a : a;
}

static __always_inline s64 signed_divided(s64 a, s64 b)
{
    u64 result = b ? magnitude(a) / magnitude(b) : 0;
    return (a < 0) != (b < 0) ? 0 - result : result;
}

static __always_inline s64 signed_rest(s64 a, s64 b)
{
    u64 result = b ? magnitude(a) % magnitude(b) : 0;
    return a < 0 ? 0 - result : result;
}
"""

# by the number of bytes: IPv4, IPv6, struct sockaddr_in6 or what else of this size begins with its family
_ADDRESSES = {
    4: "{{ u32 four = 0; void *at = &four; {read} mapped((u8 *){to}, four); }}",
    16: "{{ void *at = {to}; {read} }}",
    28: "{{ u32 at[7] = {{}}; {read} address_of(at, (u8 *){to}); }}",
}

STARTS = """
struct start {{ u64 began; u64 kept[{count}]; }};
BPF_TABLE("lru_hash", u64, struct start, starts, 10240);
BPF_ARRAY(missed, u64, 1);
"""


def _literal(value: int) -> str:
    if value < 0:
        return f"((s64){value & (2**64 - 1)}ULL)"
    return f"{value}LL" if value < 2**63 else f"{value}ULL"


@dataclass
class Body:
    """The statements of one C function, as they come: each word and each step is a variable, computed once."""

    context: Context
    lines: list[str] = field(default_factory=list)
    stack: int = 0  # bytes
    _words: dict[Word, Value] = field(default_factory=dict)
    _buffers: dict[object, str] = field(default_factory=dict)
    _count: int = 0

    def fresh(self) -> str:
        """Returns a name that is not taken."""
        self._count += 1
        return f"v{self._count}"

    def variable(self, c: str, signed: bool = True, truth: bool = False) -> Value:
        """Returns a number that is computed by a C expression, in a variable of its own."""
        name = self.fresh()
        self.lines.append(f"{'s64' if signed else 'u64'} {name} = {c};")
        return Value("number", name, signed=signed, truth=truth)

    def value(self, node: Node) -> Value:
        """Returns what a node gives. Raises ExpressionError where it gives nothing that can be."""
        match node:
            case Number(value):
                return Value("number", _literal(value), signed=value < 2**63)
            case Text(text):
                raise ExpressionError(f"{text!r}: a text in quotes stands only beside == and !=")
            case Word():
                return self._word(node)
            case Call():
                return self._call(node)
            case Unary(operator, operand):
                return self._unary(operator, self.number(operand))
            case Binary("==" | "!=" as operator, Text() as text, other) | Binary(
                "==" | "!=" as operator, other, Text() as text
            ):
                return self._same(operator, text, other)
            case Binary(operator, left, right):
                return self._binary(operator, self.number(left), self.number(right))
        raise AssertionError(node)

    def number(self, node: Node) -> Value:
        """Returns what a node gives, which must be a number."""
        value = self.value(node)
        if value.type == "any":
            return Value("number", "0", signed=value.signed)
        if value.type != "number":
            raise ExpressionError(f"{_shown(node)} is {value.described}, where a number must be{value.hint}")
        return value

    def truth(self, node: Node) -> str:
        """Returns, as C, whether a node is true: not 0."""
        return self.number(node).c

    def _word(self, word: Word) -> Value:
        found = self._words.get(word)
        if found is None:
            found = self.context.word(word, self)
            if found.type == "number" and found.c:
                found = self.variable(found.c, found.signed)
            self._words[word] = found
        return found

    def _call(self, call: Call) -> Value:
        if call.size is not None and call.function != "str":
            raise ExpressionError(f"{call.function} takes one value")
        if call.function in _CASTS:
            signed, bits = _CASTS[call.function]
            inner = self.number(call.argument)
            return self.variable(f"({'s' if signed else 'u'}{bits}){inner.c}", signed or bits < 64)
        if call.function == "str":
            size = _STRING if call.size is None else call.size
            if not 2 <= size <= MAX_STRING:
                raise ExpressionError(f"str: {size} bytes; from 2 to {MAX_STRING} are allowed")
            inner = self.value(call.argument)
            if inner.type == "text":  # it is one already
                wanted = size if call.size is not None else inner.size
                return dataclasses.replace(inner, size=wanted if inner.grows else min(wanted, inner.size))
            address = self.number(call.argument)
            return Value(
                "text", size=size, grows=True, read=lambda to, size: f"read_string({to}, {size}, {address.c});"
            )
        if call.function == "ip":
            return self._ip(call)
        if call.function == "ksym":
            return dataclasses.replace(self.number(call.argument), type="symbol", kind="ksym")
        raise ExpressionError(f"{call.function}: no such function; {one_of(call.function, FUNCTIONS)}")

    def _ip(self, call: Call) -> Value:
        """An address as 16 bytes, those of IPv4 mapped into IPv6."""
        inner = self.value(call.argument)
        if inner.type == "any":
            return Value("address", size=16, read=lambda to, size: "")
        if inner.type == "number":
            c = inner.c
            return Value("address", size=16, read=lambda to, size: f"mapped((u8 *){to}, {c});")
        if inner.type == "bytes" and inner.read and inner.size in _ADDRESSES:
            read, whole, how = inner.read, inner.size, _ADDRESSES[inner.size]
            return Value("address", size=16, read=lambda to, size: how.format(to=to, read=read("at", whole)))
        raise ExpressionError(f"ip: {_shown(call.argument)} is {inner.described}; an address has 4 or 16 bytes")

    def _unary(self, operator: str, operand: Value) -> Value:
        if operator == "not":
            return self.variable(f"!{operand.c}", truth=True)
        if operator == "-":
            return self.variable(f"0 - (u64){operand.c}")
        return self.variable(f"~(u64){operand.c}", operand.signed)

    def _binary(self, operator: str, left: Value, right: Value) -> Value:
        a, b, signed = left.c, right.c, left.signed and right.signed
        if operator in ("and", "or"):
            return self.variable(f"{a} {'&&' if operator == 'and' else '||'} {b}", truth=True)
        if operator in ("==", "!=", "<", "<=", ">", ">="):
            return self.variable(_compared(operator, left, right), truth=True)
        if operator in ("<<", ">>"):
            sign = "s64" if left.signed and operator == ">>" else "u64"
            beyond = f"({a} < 0 ? -1 : 0)" if sign == "s64" else "0"
            return self.variable(f"(u64){b} < 64 ? ({sign}){a} {operator} {b} : {beyond}", left.signed)
        if operator in ("/", "%") and signed:
            return self.variable(f"signed_{'divided' if operator == '/' else 'rest'}({a}, {b})")
        if operator in ("/", "%"):
            return self.variable(f"{b} ? (u64){a} {operator} (u64){b} : 0", False)
        return self.variable(f"(u64){a} {operator} (u64){b}", signed)

    def _same(self, operator: str, text: Text, other: Node) -> Value:
        """A text or an address compared with one that is written down."""
        if isinstance(other, Text):
            raise ExpressionError(f"{text.value!r} and {other.value!r}: two texts are compared that never change")
        value = self.value(other)
        if value.type == "address":
            wanted = _address(text.value)
        elif value.type in ("text", "any"):
            wanted = text.value.encode() + b"\0"
            if value.type == "text" and len(wanted) > value.size:
                more = f"; ask for more, str(…, {len(wanted)})" if value.grows and len(wanted) <= MAX_STRING else ""
                raise ExpressionError(
                    f"{text.value!r} is too long: {_shown(other)} has at most {value.size - 1} bytes{more}"
                )
        else:
            raise ExpressionError(f"{_shown(other)} is {value.described}, {text.value!r} is a text{value.hint}")
        if value.type == "any" or not value.read:
            return Value("number", "0", truth=True)
        buffer = self._buffer(other, value)
        equal = " && ".join(f"{buffer}[{at}] == {byte}" for at, byte in enumerate(wanted))
        return self.variable(equal if operator == "==" else f"!({equal})", truth=True)

    def _buffer(self, node: Node, value: Value) -> str:
        if node not in self._buffers:
            name = self._buffers[node] = f"b{len(self._buffers) + 1}"
            size = -(-value.size // 8) * 8
            self.stack += size
            assert value.read is not None
            self.lines += [f"u8 {name}[{size}] = {{}};", value.read(name, value.size)]
        return self._buffers[node]

    def label(self, expression: Expression) -> tuple[Kind, Callable[[str], str]]:
        """Returns the kind of a label and, for its field in a key, the statement that fills it."""
        if isinstance(expression.tree, Number | Text):
            raise ExpressionError("what never changes is no label")
        if isinstance(expression.tree, Word) and (kind := self.context.own_kind(expression.tree)):
            return kinds.parse(kind), lambda to: ""
        value = self.value(expression.tree)
        if value.type in ("text", "address"):
            read, size = value.read, value.size
            kind = "ip" if value.type == "address" else f"string({size})"
            return kinds.parse(kind), lambda to: read(to, size) if read else ""
        if value.type == "bytes":
            raise ExpressionError(f"{_shown(expression.tree)} is {value.described}{value.hint}")
        c = value.c or "0"
        kind = value.kind if value.type == "symbol" else "bool" if value.truth else "s64" if value.signed else "u64"
        return kinds.parse(kind), lambda to: f"{to} = {c};"


def _shown(node: Node) -> str:
    return str(node) if isinstance(node, Word) else f"{node.function}(…)" if isinstance(node, Call) else "this"


def _address(text: str) -> bytes:
    try:
        found = ipaddress.ip_address(text)
    except ValueError as error:
        raise ExpressionError(f"{text!r} is no IP address") from error
    return found.packed if found.version == 6 else bytes(10) + b"\xff\xff" + found.packed


_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def _compared(operator: str, left: Value, right: Value) -> str:
    if left.signed == right.signed:
        return f"{left.c} {operator} {right.c}"
    if not left.signed:
        return _compared(_FLIPPED[operator], right, left)
    # a signed and an unsigned number, of which only the first can be below 0
    same = f"(u64){left.c} {operator} {right.c}"
    return f"{left.c} < 0 || {same}" if operator in ("<", "<=", "!=") else f"{left.c} >= 0 && {same}"


@dataclass(frozen=True)
class Resolved:
    """A probe whose labels have their kinds, and the C of its programs; refused has the mechanisms that can't be."""

    probe: Probe
    c: str
    refused: tuple[tuple[Mechanism, str], ...]


def resolve(
    probe: Probe,
    context: Callable[[Mechanism], tuple[Context, Context | None]],
    ways: Callable[[Hook], Sequence[Hook]] = lambda hook: (hook,),
) -> Resolved:
    """Gives every expression its meaning. context tells what a mechanism's hook gives, and its start's; ways, in what
    ways a hook gives it, with a program for each.

    Raises CompileError where no mechanism can do what the expressions say.
    """
    result: Probe | None = None
    parts: list[str] = []
    good: list[Mechanism] = []
    refused: list[tuple[Mechanism, str]] = []
    kept = 1
    for mechanism in probe.mechanisms:
        try:
            made, count, functions, placed = _placed(probe, mechanism, context, ways)
            if result and _kinds(made) != _kinds(result):
                raise CompileError("its labels are of other kinds than with what is tried before")
        except ProbeError as error:
            refused.append((mechanism, error.reason))
            continue
        result, kept = result or made, max(kept, count)
        good.append(placed)
        parts += functions
    if result is None:
        raise CompileError("; ".join(dict.fromkeys(reason for _, reason in refused)))
    spans = any(len(mechanism.programs) > 1 for mechanism in good)
    c = HELPERS + (STARTS.format(count=kept) if spans else "") + "\n".join(parts)
    return Resolved(dataclasses.replace(result, mechanisms=tuple(good)), c, tuple(refused))


def _placed(
    probe: Probe,
    mechanism: Mechanism,
    context: Callable[[Mechanism], tuple[Context, Context | None]],
    ways: Callable[[Hook], Sequence[Hook]],
) -> tuple[Probe, int, list[str], Mechanism]:
    """Returns what ``_programs`` does, and the mechanism with a program for each way in which its hooks give things."""
    *starts, ends = [
        [
            Program(f"{program.name}{PLACE}{number}" if number > 1 else program.name, (hook,), program.needed_for)
            for number, hook in enumerate(ways(program.hooks[0]), 1)
        ]
        for program in mechanism.programs
    ]
    result: tuple[Probe, int] | None = None
    functions: dict[str, str] = {}
    # what a start keeps is what its end asks for, each place of the one as of the other
    for programs in [(*(start[0] for start in starts), end) for end in ends] + [
        (start, ends[0]) for start in (starts[0][1:] if starts else [])
    ]:
        one = Mechanism(programs)
        made, count, parts = _programs(probe, one, *context(one))
        if result and (_kinds(made), count) != (_kinds(result[0]), result[1]):
            raise CompileError(f"{programs[-1].hooks[0]}: its places give arguments of other kinds")
        result = result or (made, count)
        functions |= zip((program.name for program in programs), parts, strict=True)
    assert result is not None
    whole = Mechanism(tuple(program for group in (*starts, ends) for program in group))
    return *result, list(functions.values()), whole


def problems(probe: Probe, end: Context, start: Context | None) -> list[Problem]:
    """Returns what is wrong with each expression by itself."""
    found: list[Problem] = []

    def tried(expression: Expression | None, how: Callable[[Body, Expression], object]) -> None:
        if expression:
            if start:
                end.start_with(Body(start))
            try:
                how(Body(end), expression)
            except ExpressionError as error:
                found.append(expression.problem(str(error)))

    tried(probe.where, lambda body, expression: body.truth(expression.tree))
    for metric in probe.metrics:
        tried(metric.value, lambda body, expression: body.number(expression.tree))
        for label in metric.labels:
            tried(label.value, lambda body, expression: body.label(expression))
    return found


def _kinds(probe: Probe) -> list[Kind]:
    return [label.kind for metric in probe.metrics for label in metric.labels]


def _programs(probe: Probe, mechanism: Mechanism, end: Context, start: Context | None) -> tuple[Probe, int, list[str]]:
    """Returns the probe with its kinds, how many numbers a start keeps, and the functions of a mechanism."""
    body = Body(end)
    begin: Body | None = None
    if start:
        begin = Body(start)
        end.start_with(begin)
    lines = body.lines
    with _at(probe.where):
        wanted = body.truth(probe.where.tree) if probe.where else ""
    if wanted:
        lines.append(f"if (!({wanted})) return 0;")
    metrics: list[Metric] = []
    fills: dict[tuple[str, str], Callable[[str], str]] = {}
    values: dict[str, Value] = {}
    for metric in probe.metrics:
        labels: list[Label] = []
        for label in metric.labels:
            if label.value is None:
                labels.append(label)
                continue
            with _at(label.value):
                kind, fills[metric.name, label.name] = body.label(label.value)
            labels.append(dataclasses.replace(label, kind=kind))
        if metric.value:
            with _at(metric.value):
                values[metric.name] = body.number(metric.value.tree)
        metrics.append(dataclasses.replace(metric, labels=tuple(labels)))
    made = dataclasses.replace(probe, metrics=tuple(metrics))
    for table in made.tables:
        if table.chosen:
            lines += _counted(table, fills, values)
            body.stack += table.fields[-1].offset + table.fields[-1].size + 16 * len(table.values) + 8
    if body.stack > STACK - _SPILLED:
        message = f"labels and texts take {body.stack} bytes of a program's stack, of which {STACK - _SPILLED} are free"
        raise CompileError(f"{probe.name}: {message}: ask for shorter texts, str(…, 32), or fewer")
    final, *first = reversed(mechanism.programs)
    functions = []
    if begin:
        functions.append(_start(first[0].name, start.argument if start else "", begin, end.kept))
        lines[:0] = [
            "u64 thread = bpf_get_current_pid_tgid();",
            "struct start *found = starts.lookup(&thread), call;",
            "if (!found) {",
            "    int first = 0;",
            "    u64 *count = missed.lookup(&first);",
            "    if (count)",
            "        lock_xadd(count, 1);",
            "    return 0;",
            "}",
            "call = *found;",
            "starts.delete(&thread);",
        ]
    functions.append(_function(final.name, end.argument, lines))
    return made, len(end.kept), functions


def _counted(
    table: Table, fills: dict[tuple[str, str], Callable[[str], str]], values: dict[str, Value]
) -> Iterator[str]:
    yield "{"
    yield f"struct {table.name}_key key = {{}};"
    for label in table.labels:
        if fill := fills[table.metrics[0].name, label.name]("key." + label.name):
            yield fill
    numbers = []
    conditions = []
    for metric in table.metrics:
        value = values.get(metric.name)
        if value is None:
            numbers.append("1")
        elif table.keep or not value.signed:
            numbers.append(value.c)
        elif table.histogram:  # what is below 0 has no place on its scale
            conditions.append(f"{value.c} >= 0")
            numbers.append(value.c)
        else:  # what only goes up can't be given what is below 0
            numbers.append(f"({value.c} < 0 ? 0 : {value.c})")
    if conditions:
        yield f"if ({' && '.join(conditions)})"
    yield f"{codegen.function(table)}(&key, {', '.join(numbers)});"
    yield "}"


def _start(name: str, argument: str, begin: Body, kept: list[str]) -> str:
    lines = [
        *begin.lines,
        "u64 thread = bpf_get_current_pid_tgid();",
        "struct start call = {};",
        *(f"call.kept[{at}] = {c};" for at, c in enumerate(kept)),
        "call.began = bpf_ktime_get_ns();",
        "starts.update(&thread, &call);",
    ]
    return _function(name, argument, lines)


def _function(name: str, argument: str, lines: list[str]) -> str:
    statements = "\n".join(f"    {line}" for line in [*lines, "return 0;"])
    return f"\nint {name}({argument} *ctx)\n{{\n{statements}\n}}\n"


class _at:  # noqa: N801 - reads as a word
    """What is wrong with an expression is told with its place."""

    def __init__(self, expression: Expression | None) -> None:
        self._expression = expression

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ExpressionError) and self._expression:
            raise CompileError(str(self._expression.problem(str(error)))) from error
