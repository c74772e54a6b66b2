# SPDX-License-Identifier: Apache-2.0
"""From the expressions of a probe in YAML to C.

An expression is computed step by step in local variables of 64 bits, so nothing that a user writes reaches the compiler
but numbers, and the characters of a text one by one. What a word means depends on the hook: its ``Context`` knows.

A number is signed, but where its C type is unsigned and has 64 bits. Arithmetic is that of 64 bits: it wraps. A
comparison is true where it is true of the numbers, whatever their signs. What is divided by 0 is 0.
"""

import dataclasses
import ipaddress
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from exporter import kinds
from exporter.errors import one_of
from exporter.expression import Binary, Call, Expression, ExpressionError, Node, Number, Text, Unary, Word, nodes
from exporter.kinds import MAX_STRING, Kind
from exporter.loader.context import Context, Value

_REGISTERS = 4  # that keep a number while something is called
_STRING = 64  # bytes of str(), where nothing else is said
_CASTS = {f"{sign}{bits}": (sign == "s", bits) for sign in "su" for bits in (8, 16, 32, 64)}
FUNCTIONS = ("str", "ustr", "ip", "ksym", *_CASTS)

HELPERS = r"""
typedef u64 __attribute__((may_alias)) text_word;

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

/*
 * Comparisons, and what depends on them, without a branch: at each the verifier would follow both ways, and in the end
 * every combination of them. hidden keeps the compiler from making branches of it again.
 */
static __always_inline u64 hidden(u64 a)
{
    asm volatile("" : "+r"(a));
    return a;
}

static __always_inline u64 differ(u64 a, u64 b)
{
    u64 bits = a ^ b;
    return (bits | hidden(0 - bits)) >> 63;
}

/* Hacker's Delight, 2-12: whether the subtraction borrows */
static __always_inline u64 below(u64 a, u64 b)
{
    return ((~a & b) | ((~a | b) & hidden(a - b))) >> 63;
}

static __always_inline u64 signed_below(u64 a, u64 b)
{
    return below(a ^ 1ULL << 63, b ^ 1ULL << 63);
}

static __always_inline u64 divided(u64 a, u64 b)
{
    u64 good = differ(b, 0);
    return a / (b | (good ^ 1)) & (0 - good);
}

static __always_inline u64 rest(u64 a, u64 b)
{
    u64 good = differ(b, 0);
    return a % (b | (good ^ 1)) & (0 - good);
}

/* the number, if negative is 0; what is to be added to it to be 0, if it is all ones */
static __always_inline u64 turned(u64 a, u64 negative)
{
    return (a ^ negative) - negative;
}

static __always_inline u64 sign(u64 a)
{
    return hidden(0 - (a >> 63));
}

/* a BPF processor knows no signed division */
static __always_inline u64 signed_divided(u64 a, u64 b)
{
    return turned(divided(turned(a, sign(a)), turned(b, sign(b))), sign(a) ^ sign(b));
}

static __always_inline u64 signed_rest(u64 a, u64 b)
{
    return turned(rest(turned(a, sign(a)), turned(b, sign(b))), sign(a));
}

static __always_inline u64 left(u64 a, u64 by)
{
    return a << (by & 63) & (0 - below(by, 64));
}

static __always_inline u64 right(u64 a, u64 by)
{
    return a >> (by & 63) & (0 - below(by, 64));
}

static __always_inline u64 signed_right(u64 a, u64 by)
{
    return right(a ^ sign(a), by) ^ sign(a);
}
"""

# by the number of bytes: IPv4, IPv6, struct sockaddr_in6 or what else of this size begins with its family
_ADDRESSES = {
    4: "{{ u32 four = 0; void *at = &four; {read} mapped((u8 *){to}, four); }}",
    16: "{{ void *at = {to}; {read} }}",
    28: "{{ u32 at[7] = {{}}; {read} address_of(at, (u8 *){to}); }}",
}


def _literal(value: int) -> str:
    if value < 0:
        return f"((s64){value & (2**64 - 1)}ULL)"
    return f"{value}LL" if value < 2**63 else f"{value}ULL"


@dataclass
class Body:
    """The statements of one C function, as they come: each word and each step is a variable, computed once.

    stack has the bytes that are in use at this place, peak the most that ever were. Texts are read into slices of one
    array, ``texts``: of arrays of their own the compiler would not lay all upon another that could be.
    """

    context: Context
    lines: list[str] = field(default_factory=list)
    stack: int = 0
    peak: int = 0
    words: int = 0  # of 8 bytes, of texts at this place
    most_words: int = 0
    _words: dict[Word, Value] = field(default_factory=dict)
    _buffers: dict[object, str] = field(default_factory=dict)
    _count: int = 0

    def fresh(self) -> str:
        """Returns a name that is not taken."""
        self._count += 1
        return f"v{self._count}"

    def takes(self, size: int) -> None:
        """Some more of the stack is in use, to the end of the block."""
        self.stack += size
        self.peak = max(self.peak, self.stack)

    @contextmanager
    def block(self) -> Iterator[None]:
        """What is computed within is forgotten at its end: no register and no place on the stack has to hold it."""
        before = dict(self._words), dict(self._buffers), self.stack, self.words
        self.lines.append("{")
        yield
        self.lines.append("}")
        self._words, self._buffers, self.stack, self.words = before

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

    def whole(self, node: Node) -> Value:
        """Returns what an expression gives, which must be a number; its parts have their places on the stack."""
        self.takes(8 * max(0, held(node) - _REGISTERS))
        return self.number(node)

    def truth(self, node: Node) -> str:
        """Returns, as C, whether a node is true: not 0."""
        return self.whole(node).c

    def _word(self, word: Word) -> Value:
        found = self._words.get(word)
        if found is None:
            found = self.context.word(word, self)
            if found.type == "number" and found.c:
                found = self.variable(found.c, found.signed)
            self._words[word] = found
        return found

    def _call(self, call: Call) -> Value:
        if call.size is not None and call.function not in ("str", "ustr"):
            raise ExpressionError(f"{call.function} takes one value")
        if call.function in _CASTS:
            signed, bits = _CASTS[call.function]
            inner = self.number(call.argument)
            return self.variable(f"({'s' if signed else 'u'}{bits}){inner.c}", signed or bits < 64)
        if call.function in ("str", "ustr"):
            size = _STRING if call.size is None else call.size
            if not 2 <= size <= MAX_STRING:
                raise ExpressionError(f"{call.function}: {size} bytes; from 2 to {MAX_STRING} are allowed")
            inner = self.value(call.argument)
            if inner.type == "text":  # it is one already
                wanted = size if call.size is not None else inner.size
                return dataclasses.replace(inner, size=wanted if inner.grows else min(wanted, inner.size))
            address = self.number(call.argument)
            # never by the address itself: a program may name one of the kernel's, to have that read
            whose = "user" if call.function == "ustr" or self.context.of_program else "kernel"
            how = f"bpf_probe_read_{whose}_str({{to}}, {{size}}, (void *){address.c});"
            return Value("text", size=size, grows=True, read=lambda to, size: how.format(to=to, size=size))
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
        if inner.type == "number" and not inner.signed:
            shown = _shown(call.argument)
            raise ExpressionError(f"ip: {shown} has 64 bits; u32({shown}) has the 32 of an address")
        if inner.type == "number":
            c = inner.c
            return Value("address", size=16, read=lambda to, size: f"mapped((u8 *){to}, {c});")
        if inner.type == "bytes" and inner.read and inner.size in _ADDRESSES:
            read, whole, how = inner.read, inner.size, _ADDRESSES[inner.size]
            return Value("address", size=16, read=lambda to, size: how.format(to=to, read=read("at", whole)))
        raise ExpressionError(f"ip: {_shown(call.argument)} is {inner.described}; an address has 4 or 16 bytes")

    def _unary(self, operator: str, operand: Value) -> Value:
        if operator == "not":
            return self.variable(f"{_truth(operand)} ^ 1", truth=True)
        if operator == "-":
            return self.variable(f"0 - (u64){operand.c}")
        return self.variable(f"~(u64){operand.c}", operand.signed)

    def _binary(self, operator: str, left: Value, right: Value) -> Value:
        a, b, signed = left.c, right.c, left.signed and right.signed
        if operator in ("and", "or"):
            return self.variable(f"{_truth(left)} {'&' if operator == 'and' else '|'} {_truth(right)}", truth=True)
        if operator in _COMPARISONS:
            return self.variable(_compared(operator, left, right), truth=True)
        if operator in ("<<", ">>"):
            function = "left" if operator == "<<" else "signed_right" if left.signed else "right"
            return self.variable(f"{function}({a}, {b})", left.signed)
        if operator in ("/", "%"):
            function = ("signed_" if signed else "") + ("divided" if operator == "/" else "rest")
            return self.variable(f"{function}({a}, {b})", signed)
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
        same = " ^ 1" if operator == "==" else ""
        return self.variable(f"differ({_differing(buffer, wanted)}, 0){same}", truth=True)

    def _buffer(self, node: Node, value: Value) -> str:
        if node not in self._buffers:
            name = self._buffers[node] = f"b{len(self._buffers) + 1}"
            size = -(-value.size // 8)
            assert value.read is not None
            self.lines += [f"text_word *{name} = texts + {self.words};", f"__builtin_memset({name}, 0, {8 * size});"]
            self.lines.append(value.read(name, value.size))
            self.words += size
            self.most_words = max(self.most_words, self.words)
        return self._buffers[node]

    def label(self, expression: Expression) -> tuple[Kind, Callable[[str], str]]:
        """Returns the kind of a label and, for its field in a key, the statement that fills it."""
        if isinstance(expression.tree, Number | Text):
            raise ExpressionError("what never changes is no label")
        if isinstance(expression.tree, Word) and (kind := self.context.own_kind(expression.tree)):
            return kinds.parse(kind), lambda to: ""
        self.takes(8 * max(0, held(expression.tree) - _REGISTERS))
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


def _differing(buffer: str, wanted: bytes) -> str:
    """Returns what is 0 where a buffer begins with bytes.

    By words and without a branch: of a branch for each byte the verifier would follow every combination.
    """
    words = []
    for at in range(0, len(wanted), 8):
        part = wanted[at : at + 8]
        mask = int.from_bytes(b"\xff" * len(part) + bytes(8 - len(part)), sys.byteorder)
        number = int.from_bytes(part.ljust(8, b"\0"), sys.byteorder)
        words.append(f"(({buffer}[{at // 8}] & {mask}ULL) ^ {number}ULL)")
    return " | ".join(words)


def held(node: Node) -> int:
    """Returns how many numbers there are at once, at most, while a tree is computed: its words, and its parts."""

    def pending(node: Node) -> int:
        match node:
            case Number() | Text() | Word():
                return 0
            case Call(_, inner, _) | Unary(_, inner):
                return max(1, pending(inner))
            case Binary(_, left, right):
                return max(1, pending(left), pending(right) + (not isinstance(left, Number | Text | Word)))

    return pending(node) + len({one for one in nodes(node) if isinstance(one, Word)})


def _shown(node: Node) -> str:
    return str(node) if isinstance(node, Word) else f"{node.function}(…)" if isinstance(node, Call) else "this"


def _address(text: str) -> bytes:
    try:
        found = ipaddress.ip_address(text)
    except ValueError as error:
        raise ExpressionError(f"{text!r} is no IP address") from error
    return found.packed if found.version == 6 else bytes(10) + b"\xff\xff" + found.packed


# with a and b for the two, and what is before the comparison of numbers of one sort
_COMPARISONS = {
    "==": "differ({a}, {b}) ^ 1", "!=": "differ({a}, {b})", "<": "{sort}below({a}, {b})",
    "<=": "{sort}below({b}, {a}) ^ 1", ">": "{sort}below({b}, {a})", ">=": "{sort}below({a}, {b}) ^ 1",
}  # fmt: skip
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def _truth(value: Value) -> str:
    return value.c if value.truth else f"differ({value.c}, 0)"


def _compared(operator: str, left: Value, right: Value) -> str:
    sort = "signed_" if left.signed and right.signed else ""
    if left.signed == right.signed:
        return _COMPARISONS[operator].format(a=left.c, b=right.c, sort=sort)
    if not left.signed:
        return _compared(_FLIPPED[operator], right, left)
    # a signed and an unsigned number, of which only the first can be below 0
    same = _COMPARISONS[operator].format(a=left.c, b=right.c, sort="")
    negative = f"(u64){left.c} >> 63"
    return f"{negative} | ({same})" if operator in ("<", "<=", "!=") else f"({negative} ^ 1) & ({same})"
