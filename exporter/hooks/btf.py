# SPDX-License-Identifier: Apache-2.0
"""The running kernel's functions, their parameters and the members of its structs, from BTF.

libbpf reads and finds (10 ms for vmlinux's 130,000 types, under 1 ms for a name); what it found is read from its memory
here. Only lists go through all types (50 ms). Nothing is freed: the processes that use this are short-lived.
Format: Documentation/bpf/btf.rst, include/uapi/linux/btf.h.
"""

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from exporter.errors import HookError
from exporter.hooks.types import Function, Member, Type

FOLDER = Path("/sys/kernel/btf")


class _Kind:
    """BTF_KIND_…"""

    INT, POINTER, ARRAY, STRUCT, UNION, ENUM, FORWARD, TYPEDEF = 1, 2, 3, 4, 5, 6, 7, 8
    VOLATILE, CONST, RESTRICT, FUNCTION, PROTOTYPE, VARIABLE = 9, 10, 11, 12, 13, 14
    SECTION, FLOAT, DECLARATION_TAG, TYPE_TAG, ENUM64 = 15, 16, 17, 18, 19


_QUALIFIERS = frozenset({_Kind.VOLATILE, _Kind.CONST, _Kind.RESTRICT, _Kind.TYPE_TAG})
_INT_SIGNED = 1
_INT_BYTES = 4

# words of 4 bytes behind the three that all types have: of the type, and for each of its vlen parts
_EXTRA = {_Kind.INT: 1, _Kind.ARRAY: 3, _Kind.VARIABLE: 1, _Kind.DECLARATION_TAG: 1}
_EACH = {_Kind.STRUCT: 3, _Kind.UNION: 3, _Kind.ENUM: 2, _Kind.PROTOTYPE: 2, _Kind.SECTION: 3, _Kind.ENUM64: 3}

_HEADER = struct.Struct("=HBBIIIII")  # struct btf_header
_TYPE = struct.Struct("=III")  # struct btf_type: name_off, info, size or type
_MODULE_SHIFT = 32  # an id in a module's BTF has the module's position above the 32 bits of its number

_RAW_TRACEPOINT = "btf_trace_"  # the typedefs that the kernel makes for them (bpf_probe.h, 5.0)
# These functions have its prototype with the names that the typedef lacks; since 5.10 and 6.5.
_NAMED_LIKE_RAW_TRACEPOINT = ("__traceiter_", "__probestub_")

VOID = Type("void", "other", 0)

_lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
_lib.btf__load_vmlinux_btf.restype = ctypes.c_void_p
_lib.btf__load_module_btf.restype = ctypes.c_void_p
_lib.btf__load_module_btf.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
_lib.btf__type_by_id.restype = ctypes.c_void_p
_lib.btf__type_by_id.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
_lib.btf__name_by_offset.restype = ctypes.c_char_p
_lib.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
_lib.btf__type_cnt.argtypes = [ctypes.c_void_p]
_lib.btf__find_by_name_kind.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
_lib.btf__raw_data.restype = ctypes.c_void_p
_lib.btf__raw_data.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_lib.libbpf_set_print.argtypes = [ctypes.c_void_p]
_lib.libbpf_set_print(None)  # it would write to our stderr


@dataclass(frozen=True)
class _Record:
    """A type as BTF has it. rest is what size or type is; address is where what follows it starts."""

    kind: int
    name: str
    vlen: int
    flag: bool
    rest: int
    address: int

    def words(self, count: int) -> tuple[int, ...]:
        """Returns the words that follow."""
        return struct.unpack(f"={count}I", ctypes.string_at(self.address, 4 * count))


class _Object:
    """BTF of vmlinux or of a module, by libbpf's pointer; ids of both can be looked up in a module's."""

    def __init__(self, pointer: int, module: str = "", base: int | None = None) -> None:
        self.module = module
        self._pointer = pointer
        self._first = _lib.btf__type_cnt(base) if base else 1
        self._indices: dict[int, dict[str, int]] = {}

    def find(self, name: str, *kinds: int) -> int:
        """Returns the first type of a name, 0 where there is none."""
        for kind in kinds:
            if kind in self._indices:
                number = self._indices[kind].get(name, 0)
            else:
                number = _lib.btf__find_by_name_kind(self._pointer, name.encode(), kind)
            if number > 0:
                return int(number)
        return 0

    def record(self, number: int) -> _Record:
        address = _lib.btf__type_by_id(self._pointer, number)
        if not address:
            raise HookError(f"the kernel's BTF of {self.module or 'vmlinux'} has no type {number}")
        name, info, rest = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        return _Record(
            info >> 24 & 31, self.text(name), info & 0xFFFF, bool(info >> 31), rest, address + _TYPE.size
        )  # fmt: skip

    def text(self, offset: int) -> str:
        found: bytes | None = _lib.btf__name_by_offset(self._pointer, offset)
        return (found or b"").decode("utf-8", "backslashreplace")

    def index(self, kind: int) -> dict[str, int]:
        """Returns the names of all types of a kind with the first of each, of this object alone.

        Reads the raw data: libbpf's own way from type to type takes five times as long.
        """
        if kind not in self._indices:
            self._indices[kind] = dict(reversed(list(self.scan(kind))))
        return self._indices[kind]

    def scan(self, kind: int) -> Iterator[tuple[str, int]]:
        """Yields the names and numbers of all types of a kind, of this object alone."""
        size = ctypes.c_uint32()
        data = ctypes.string_at(_lib.btf__raw_data(self._pointer, ctypes.byref(size)), size.value)
        _, _, _, header, start, length, _, _ = _HEADER.unpack_from(data)
        words = memoryview(data)[header + start : header + start + length].cast("I")
        extra = [_EXTRA.get(number, 0) for number in range(32)]
        each = [_EACH.get(number, 0) for number in range(32)]
        position, number = 0, self._first
        while position < len(words):
            info = words[position + 1]
            found = info >> 24 & 31
            if found == kind:
                yield self.text(words[position]), number
            position += 3 + extra[found] + each[found] * (info & 0xFFFF)
            number += 1


class Btf:
    """The types and functions of the running kernel and its modules."""

    def __init__(self, vmlinux: int) -> None:
        self._base = vmlinux
        self._vmlinux = _Object(vmlinux)
        self._types: dict[int, Type] = {0: VOID}

    @classmethod
    def load(cls) -> "Btf":
        """Returns the running kernel's. Raises HookError where it has none."""
        pointer = _lib.btf__load_vmlinux_btf()
        if not pointer:
            raise HookError(
                f"this kernel has no BTF ({FOLDER / 'vmlinux'}), which says what its functions are given: use"
                " tracepoints, or a kernel with CONFIG_DEBUG_INFO_BTF"
            )
        return cls(pointer)

    @cached_property
    def _modules(self) -> tuple[_Object, ...]:
        """The modules' objects; one that can't be read (made for another vmlinux) is passed over."""
        try:
            names = sorted(path.name for path in FOLDER.iterdir() if path.name != "vmlinux")
        except OSError:
            return ()
        found = ((_lib.btf__load_module_btf(name.encode(), self._base), name) for name in names)
        return tuple(_Object(pointer, name, self._base) for pointer, name in found if pointer)

    def _objects(self, modules: bool = True) -> Iterator[tuple[int, _Object]]:
        """Yields objects with what their ids are added to. Modules are not touched unless the consumer goes on."""
        yield 0, self._vmlinux
        if modules:
            for position, item in enumerate(self._modules, 1):
                yield position << _MODULE_SHIFT, item

    def _record(self, number: int) -> _Record:
        position = number >> _MODULE_SHIFT
        item = self._modules[position - 1] if position else self._vmlinux
        return item.record(number & 0xFFFFFFFF)

    def _text(self, number: int, offset: int) -> str:
        """Returns the string at an offset, as it is meant in the object of type number."""
        position = number >> _MODULE_SHIFT
        return (self._modules[position - 1] if position else self._vmlinux).text(offset)

    def functions(self, modules: bool = True) -> Iterator[str]:
        """Yields the names of all functions, each once, vmlinux' first."""
        yield from self._names(_Kind.FUNCTION, "", modules)

    def function(self, name: str) -> Function | None:
        """Returns a function, None where there is none of the name; of several static ones the first."""
        for origin, item in self._objects():
            if number := item.find(name, _Kind.FUNCTION):
                proto = origin | item.record(number).rest
                return Function(name, self._parameters(proto), self._returns(proto), item.module)
        return None

    def raw_tracepoints(self) -> Iterator[str]:
        """Yields the names of all raw tracepoints, each once."""
        yield from self._names(_Kind.TYPEDEF, _RAW_TRACEPOINT, modules=True)

    def raw_tracepoint(self, name: str) -> Function | None:
        """Returns what a raw tracepoint is given, None where there is none of the name.

        Names of parameters are "" where this kernel has no function that tells them (before 5.10).
        """
        for origin, item in self._objects():
            if number := item.find(_RAW_TRACEPOINT + name, _Kind.TYPEDEF):
                proto = self._record(origin | item.record(number).rest).rest | origin
                parameters = self._parameters(proto)[1:]
                for prefix in _NAMED_LIKE_RAW_TRACEPOINT:
                    if named := item.find(prefix + name, _Kind.FUNCTION):
                        others = self._parameters(origin | item.record(named).rest)[1:]
                        if [kind.name for _, kind in others] == [kind.name for _, kind in parameters]:
                            parameters = others
                            break
                return Function(name, parameters, self._returns(proto), item.module)
        return None

    def named(self, name: str) -> Type | None:
        """Returns a type by its name in C without any ``*``: ``struct sock``, ``umode_t``; None where there is none."""
        word = name.removeprefix("const ").strip()
        keyword, _, rest = word.partition(" ")
        kinds = {"struct": (_Kind.STRUCT,), "union": (_Kind.UNION,), "enum": (_Kind.ENUM, _Kind.ENUM64)}.get(
            keyword, (_Kind.TYPEDEF, _Kind.INT)
        )
        for origin, item in self._objects():
            if number := item.find(rest if keyword in ("struct", "union", "enum") else word, *kinds):
                return self._type(origin | number)
        return None

    def sized_enums(self) -> Iterator[tuple[str, int]]:
        """Yields vmlinux' enums that are no int: the name of the first enumerator, and the size in bytes."""
        for _, number in self._vmlinux.scan(_Kind.ENUM):
            record = self._vmlinux.record(number)
            if record.vlen and record.rest != _INT_BYTES:
                yield self._vmlinux.text(record.words(1)[0]), record.rest

    def target(self, kind: Type) -> Type:
        """Returns what a pointer points to; by its name where it was not read from BTF. Raises HookError."""
        if kind.kind != "pointer":
            raise HookError(f"{kind.name} is not a pointer")
        if kind.id:
            return self._type(self._rest(kind.id))
        name = kind.name.rstrip().removesuffix("*").rstrip()
        if name.removesuffix("const").rstrip().endswith("*"):
            return Type(name, "pointer", kind.size)
        return self.named(name) or VOID

    def members(self, kind: Type) -> tuple[Member, ...]:
        """Returns the members of a struct, or of the struct that a pointer points to, as C names them.

        Those of anonymous structs and unions are among them, at their place in the whole. Of a struct that the kernel
        only declares nothing is known: (). Raises HookError where the type is no struct.
        """
        found = self.target(kind) if kind.kind == "pointer" else kind
        if found.kind == "struct" and not found.id:
            found = self.named(found.name) or found
        if found.kind != "struct" or not found.id:
            raise HookError(f"{kind.name} has no members")
        return tuple(self._members(found.id, 0))

    def _members(self, number: int, start: int) -> Iterator[Member]:
        record = self._record(number)
        if record.kind == _Kind.FORWARD:  # declared where this was compiled; another file may have the whole of it
            whole = self.named(f"{'union' if record.flag else 'struct'} {record.name}")
            if whole and whole.id != number:
                yield from self._members(whole.id, start)
            return
        words = record.words(3 * record.vlen)
        origin = _origin(number)
        for name_offset, member, place in zip(words[::3], words[1::3], words[2::3], strict=True):
            inner = self._plain(self._own(origin, member))
            offset, bits = (place & 0xFFFFFF, place >> 24) if record.flag else (place, 0)
            if not record.flag and (found := self._record(inner)).kind == _Kind.INT:
                # before kind_flag (4.20) the integer type itself said which of its bits
                [encoding] = found.words(1)
                if encoding & 0xFF != 8 * found.rest:
                    offset, bits = offset + (encoding >> 16 & 0xFF), encoding & 0xFF
            name = self._text(number, name_offset)
            if name:
                yield Member(name, self._type(self._own(origin, member)), start + offset, bits)
            elif self._record(inner).kind in (_Kind.STRUCT, _Kind.UNION):
                yield from self._members(inner, start + offset)

    def _names(self, kind: int, prefix: str, modules: bool) -> Iterator[str]:
        seen = set()
        for _, item in self._objects(modules):
            for name in item.index(kind):
                if name.startswith(prefix) and name not in seen:
                    seen.add(name)
                    yield name[len(prefix) :]

    @staticmethod
    def _own(origin: int, number: int) -> int:
        """Returns a type's number within a module's object, which can look up vmlinux' as well; 0 stays void."""
        return origin | number if number else 0

    def _rest(self, number: int) -> int:
        """Returns the type that a type refers to."""
        return self._own(_origin(number), self._record(number).rest)

    def _plain(self, number: int) -> int:
        """Returns the type behind typedefs, const, volatile, restrict and tags."""
        while number and self._record(number).kind in _QUALIFIERS | {_Kind.TYPEDEF}:
            number = self._rest(number)
        return number

    def _parameters(self, proto: int) -> tuple[tuple[str, Type], ...]:
        record = self._record(proto)
        words = record.words(2 * record.vlen)
        origin = _origin(proto)
        pairs = list(zip(words[::2], words[1::2], strict=True))
        if pairs and pairs[-1] == (0, 0):  # `...`
            pairs.pop()
        return tuple((self._text(proto, name), self._type(self._own(origin, number))) for name, number in pairs)

    def _returns(self, proto: int) -> Type:
        return self._type(self._rest(proto))

    def _type(self, number: int) -> Type:
        """Returns a type: its name as it is, all else as it is behind typedefs and qualifiers."""
        known = self._types.get(number)
        if known is None:
            known = self._types[number] = self._make(number, self._declare(number, ""))
        return known

    def _make(self, number: int, name: str) -> Type:
        plain = self._plain(number)
        if not plain:
            return Type(name, "other", 0)
        record = self._record(plain)
        match record.kind:
            case _Kind.INT:
                [encoding] = record.words(1)
                return Type(name, "integer", record.rest, bool(encoding >> 24 & _INT_SIGNED))
            case _Kind.ENUM | _Kind.ENUM64:
                return Type(name, "integer", record.rest, record.flag)
            case _Kind.POINTER:
                return Type(name, "pointer", ctypes.sizeof(ctypes.c_void_p), id=plain)
            case _Kind.STRUCT | _Kind.UNION:
                return Type(name, "struct", record.rest, id=plain)
            case _Kind.FORWARD:
                return Type(name, "struct", 0, id=plain)
            case _Kind.ARRAY:
                element_number, _, count = record.words(3)
                element = self._type(self._own(_origin(plain), element_number))
                return Type(name, "array", element.size * count, element=element)
            case _Kind.FLOAT:
                return Type(name, "other", record.rest)
        return Type(name, "other", 0)

    def _declare(self, number: int, inner: str) -> str:
        """Returns a declaration in C of what ``inner`` is: ``*`` -> ``struct sock *``, "" -> ``char[16]``."""
        if not number:
            return _join("void", inner)
        record = self._record(number)
        match record.kind:
            case _Kind.POINTER:
                target = self._rest(number)
                behind = self._record(self._skip_qualifiers(target)).kind if target else 0
                return self._declare(target, f"(*{inner})" if behind in (_Kind.ARRAY, _Kind.PROTOTYPE) else f"*{inner}")
            case _Kind.ARRAY:
                element, _, count = record.words(3)
                return self._declare(self._own(_origin(number), element), f"{inner}[{count}]")
            case _Kind.PROTOTYPE:
                names = ", ".join(kind.name for _, kind in self._parameters(number))
                return self._declare(self._rest(number), f"{inner}({names or 'void'})")
            case _Kind.VOLATILE | _Kind.CONST:
                word = "const" if record.kind == _Kind.CONST else "volatile"
                target = self._rest(number)
                skipped = self._skip_qualifiers(target)
                if skipped and self._record(skipped).kind == _Kind.POINTER:
                    return self._declare(target, f"{word} {inner}".rstrip())
                return f"{word} {self._declare(target, inner)}"
            case _Kind.RESTRICT | _Kind.TYPE_TAG:  # nothing to who reads
                return self._declare(self._rest(number), inner)
            case _Kind.STRUCT | _Kind.UNION | _Kind.FORWARD | _Kind.ENUM | _Kind.ENUM64:
                union = record.kind == _Kind.UNION or (record.kind == _Kind.FORWARD and record.flag)
                word = "enum" if record.kind in (_Kind.ENUM, _Kind.ENUM64) else "union" if union else "struct"
                return _join(f"{word} {record.name or '{...}'}", inner)
        return _join(record.name, inner)

    def _skip_qualifiers(self, number: int) -> int:
        while number and self._record(number).kind in _QUALIFIERS:
            number = self._rest(number)
        return number


def _origin(number: int) -> int:
    """Returns what the ids of a type's object are added to."""
    return number >> _MODULE_SHIFT << _MODULE_SHIFT


def _join(base: str, inner: str) -> str:
    return base + inner if not inner or inner.startswith("[") else f"{base} {inner}"
