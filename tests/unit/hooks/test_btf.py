# SPDX-License-Identifier: Apache-2.0
"""hooks/btf.py: against what bpftool and libbpf themselves say of the running kernel's BTF."""

import ctypes
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exporter.errors import HookError
from exporter.hooks import btf as module
from exporter.hooks.btf import Btf
from exporter.hooks.types import Type

VMLINUX = Path("/sys/kernel/btf/vmlinux")
SAMPLE = 200

pytestmark = [
    pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF"),
    pytest.mark.skipif(not shutil.which("bpftool", path="/usr/sbin:/usr/bin:/sbin:/bin"), reason="needs bpftool"),
]

_HEAD = re.compile(r"\[(\d+)\] (\w+) '([^']*)'(.*)")
_PART = re.compile(r"\t'([^']*)' (.*)")


@dataclass
class Said:
    """A type as bpftool prints it: [115] PTR '(anon)' type_id=114, and the lines below it."""

    kind: str
    name: str
    words: dict[str, str]
    parts: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def words(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)


@pytest.fixture(scope="module")
def said() -> dict[int, Said]:
    """All types of vmlinux by their numbers."""
    command = ["bpftool", "btf", "dump", "file", str(VMLINUX), "format", "raw"]
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=path).stdout
    types: dict[int, Said] = {}
    latest = Said("", "", {})
    for line in text.splitlines():
        if match := _HEAD.match(line):
            latest = Said(match[2], match[3].replace("(anon)", ""), words(match[4]))
            types[int(match[1])] = latest
        elif match := _PART.match(line):
            latest.parts.append((match[1].replace("(anon)", ""), words(match[2])))
    return types


@pytest.fixture(scope="module")
def btf() -> Btf:
    return Btf.load()


@pytest.fixture(scope="module")
def spelled() -> Callable[[int], str]:
    """What libbpf's own printer of C says of a type: 115 -> ``struct task_struct *``."""
    library, libc = ctypes.CDLL("libbpf.so.1"), ctypes.CDLL(None)
    collected: list[bytes] = []
    buffer = ctypes.create_string_buffer(1 << 16)

    def collect(_: int, form: bytes, arguments: int) -> None:
        libc.vsnprintf(buffer, ctypes.c_size_t(len(buffer)), form, ctypes.c_void_p(arguments))
        collected.append(buffer.value)

    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(collect)

    library.btf__load_vmlinux_btf.restype = ctypes.c_void_p
    library.btf_dump__new.restype = ctypes.c_void_p
    library.btf_dump__new.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    library.btf_dump__emit_type_decl.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p]
    dump = library.btf_dump__new(library.btf__load_vmlinux_btf(), callback, None, None)

    def of(number: int) -> str:
        collected.clear()
        assert callback  # it must live as long as dump
        assert library.btf_dump__emit_type_decl(dump, number, None) == 0
        return b"".join(collected).decode()

    return of


def packed(text: str) -> str:
    """Without the blanks, which are a matter of taste: ``const char * const *`` -> ``const char*const*``."""
    return re.sub(r" ?([*()\[\],]) ?", r"\1", " ".join(text.split()))


def plain(types: dict[int, Said], number: int) -> int:
    while number and types[number].kind in ("TYPEDEF", "CONST", "VOLATILE", "RESTRICT", "TYPE_TAG"):
        number = int(types[number].words["type_id"])
    return number


KINDS = {
    "INT": "integer", "ENUM": "integer", "ENUM64": "integer", "PTR": "pointer", "STRUCT": "struct", "UNION": "struct",
    "FWD": "struct", "ARRAY": "array", "FLOAT": "other", "FUNC_PROTO": "other",
}  # fmt: skip


def shape(types: dict[int, Said], number: int) -> tuple[str, int, bool]:
    """Returns kind, size and sign of a type, by bpftool."""
    number = plain(types, number)
    if not number:
        return "other", 0, False
    found = types[number]
    size = int(found.words.get("size", 0))
    if found.kind == "PTR":
        size = 8
    elif found.kind == "ARRAY":
        size = int(found.words["nr_elems"]) * shape(types, int(found.words["type_id"]))[1]
    return KINDS[found.kind], size, found.words.get("encoding") == "SIGNED"


def flat(types: dict[int, Said], number: int, start: int = 0) -> Iterator[tuple[str, int, int, int]]:
    """Yields name, type, offset and width of a bit field, of a struct's members, by bpftool."""
    for name, said in types[number].parts:
        offset, kind = start + int(said["bits_offset"]), int(said["type_id"])
        if name:
            yield name, kind, offset, int(said.get("bitfield_size", 0))
        elif types[plain(types, kind)].kind in ("STRUCT", "UNION"):
            yield from flat(types, plain(types, kind), offset)


def is_known_to_the_printer(said: dict[int, Said], number: int) -> bool:
    """libbpf prints what an anonymous struct or enum has in it; here it is but ``struct {...}``."""
    number = plain(said, number) if said[number].kind != "TYPEDEF" else 0
    return not number or bool(said[number].name) or said[number].kind not in ("STRUCT", "UNION", "ENUM", "ENUM64")


def test_members_of_structs(btf: Btf, said: dict[int, Said]) -> None:
    """Names, places, widths of bit fields, kinds, sizes and signs, of random structs and those with all there is."""
    names = [item.name for item in said.values() if item.kind == "STRUCT" and item.name]
    once = sorted(name for name in set(names) if names.count(name) == 1)
    chosen = [*random.Random(1).sample(once, SAMPLE), "task_struct", "sock", "tcp_sock", "sk_buff", "page"]
    numbers = {item.name: number for number, item in said.items() if item.kind == "STRUCT"}
    seen = 0
    for name in chosen:
        kind = btf.named(f"struct {name}")
        assert kind is not None, name
        assert (kind.kind, kind.size) == ("struct", int(said[numbers[name]].words["size"])), name
        found = [
            (member.name, member.offset, member.bits, member.type.kind, member.type.size, member.type.signed)
            for member in btf.members(kind)
        ]
        expected = [
            (part, offset, bits, *shape(said, number)) for part, number, offset, bits in flat(said, numbers[name])
        ]
        assert found == expected, name
        seen += sum(bits > 0 for _, _, bits, *_ in found)
    assert seen > 20, "no bit fields were compared"


def test_parameters_of_functions(btf: Btf, said: dict[int, Said], spelled: Callable[[int], str]) -> None:
    """Names, kinds, sizes, signs and the spelling in C, of parameters and of what is returned."""
    functions: dict[str, int] = {}
    for item in said.values():
        if item.kind == "FUNC":
            functions.setdefault(item.name, int(item.words["type_id"]))
    for name in [*random.Random(2).sample(sorted(functions), SAMPLE), "tcp_sendmsg", "vfs_read", "vfs_statx"]:
        found = btf.function(name)
        proto = said[functions[name]]
        parts = [(part, int(info["type_id"])) for part, info in proto.parts if info["type_id"] != "0"]
        assert found is not None, name
        assert [(part, kind.kind, kind.size, kind.signed) for part, kind in found.parameters] == [
            (part, *shape(said, number)) for part, number in parts
        ], name
        returned = int(proto.words["ret_type_id"])
        assert (found.returns.kind, found.returns.size, found.returns.signed) == shape(said, returned), name
        for kind, number in [(kind, number) for (_, kind), (_, number) in zip(found.parameters, parts, strict=True)]:
            assert packed(kind.name) == packed(spelled(number)), name


def test_spelling_of_members(btf: Btf, said: dict[int, Said], spelled: Callable[[int], str]) -> None:
    """Arrays, pointers to functions and to arrays, qualifiers on either side of a star: as libbpf writes them."""
    numbers = {item.name: number for number, item in said.items() if item.kind == "STRUCT"}
    compared = set()
    for name in ("task_struct", "file_operations", "net_device", "super_block", "signal_struct", "ftrace_ops"):
        kind = btf.named(f"struct {name}")
        assert kind is not None
        for member, (_, number, _, _) in zip(btf.members(kind), flat(said, numbers[name]), strict=True):
            if is_known_to_the_printer(said, number) and "{...}" not in member.type.name:
                assert packed(member.type.name) == packed(spelled(number)), f"{name}.{member.name}"
                compared.add(member.type.kind)
    assert compared >= {"integer", "pointer", "struct", "array"}


def test_lists_have_every_function_and_raw_tracepoint_once(btf: Btf, said: dict[int, Said]) -> None:
    """The functions of vmlinux are those that bpftool prints; of raw tracepoints, modules have some as well."""
    functions = list(btf.functions(modules=False))
    assert sorted(functions) == sorted({item.name for item in said.values() if item.kind == "FUNC"})
    raw = list(btf.raw_tracepoints())
    prefix = "btf_trace_"
    ours = {item.name[len(prefix) :] for item in said.values() if item.name.startswith(prefix)}
    assert ours <= set(raw)
    assert len(raw) == len(set(raw))


def test_a_raw_tracepoint_without_its_first_parameter(btf: Btf) -> None:
    """sched_switch (preempt, prev, next, …): the kernel's own `void *__data` is not given to a program."""
    found = btf.raw_tracepoint("sched_switch")
    assert found is not None
    assert [kind.name for _, kind in found.parameters][:3] == ["bool", "struct task_struct *", "struct task_struct *"]
    assert [name for name, _ in found.parameters][:3] in (["preempt", "prev", "next"], ["", "", ""])
    assert btf.raw_tracepoint("no_such_tracepoint") is None


def test_members_through_a_pointer_and_through_several_structs(btf: Btf) -> None:
    """From a parameter to a port: sk->__sk_common.skc_dport, which stands in an anonymous struct of a union."""
    sendmsg = btf.function("tcp_sendmsg")
    assert sendmsg is not None
    sk = dict(sendmsg.parameters)["sk"]
    common = {member.name: member for member in btf.members(sk)}["__sk_common"]
    members = {member.name: member for member in btf.members(common.type)}
    # include/net/sock.h: struct { __be16 skc_dport; __u16 skc_num; } is the second word but one, behind the addresses
    assert (members["skc_daddr"].offset, members["skc_dport"].offset, members["skc_num"].offset) == (0, 96, 112)
    assert (members["skc_dport"].type.name, members["skc_dport"].type.size) == ("__be16", 2)
    assert btf.target(sk).name == "struct sock"


def test_pointers_that_tracefs_named_are_followed_by_their_names(btf: Btf) -> None:
    """A type without a number in BTF: ``const struct sock *`` of a format file."""
    pointer = Type("const struct sock *", "pointer", 8)
    assert btf.members(pointer) == btf.members(Type("struct sock", "struct", 0))
    assert btf.target(Type("void *", "pointer", 8)) == Type("void", "other", 0)
    assert btf.target(Type("const char *const *", "pointer", 8)).kind == "pointer"
    size = btf.named("size_t")
    assert size is not None
    assert (size.name, size.kind, size.size, size.signed) == ("size_t", "integer", 8, False)


def test_what_is_not_there(btf: Btf) -> None:
    """A function or type that is not there is None; members of what has none are an error that names it."""
    assert btf.function("no_such_function") is None
    assert btf.named("struct no_such_struct") is None
    with pytest.raises(HookError, match="int has no members"):
        btf.members(Type("int", "integer", 4))
    with pytest.raises(HookError, match="int is not a pointer"):
        btf.target(Type("int", "integer", 4))


def test_what_system_calls_take_is_as_wide_as_btf_says(btf: Btf) -> None:
    """The table of C's types in hooks/tracefs.py against the running kernel's own."""
    from exporter.hooks.tracefs import _ARGUMENTS

    for name, (size, signed) in _ARGUMENTS.items():
        if kind := btf.named(name):
            assert (kind.size, kind.signed) == (size, signed), name


def test_no_btf_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has none, what to do is said."""

    class Empty:
        @staticmethod
        def btf__load_vmlinux_btf() -> None:
            return None

    monkeypatch.setattr(module, "_lib", Empty)
    with pytest.raises(
        HookError, match=r"this kernel has no BTF .*use tracepoints, or a kernel with CONFIG_DEBUG_INFO"
    ):
        Btf.load()
