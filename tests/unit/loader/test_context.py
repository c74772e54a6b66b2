# SPDX-License-Identifier: Apache-2.0
"""loader/context.py: what a word is by the kernel's own descriptions, of which these tests have small ones."""

from collections.abc import Sequence

import pytest

from exporter.expression import ExpressionError, Word
from exporter.hooks import tracefs
from exporter.hooks.types import Field, Function, Member, Type
from exporter.loader import context
from exporter.loader.body import Body
from exporter.loader.context import Context, Registers, Tracepoint, Value
from exporter.probe import Hook

INT = Type("int", "integer", 4, signed=True)
LONG = Type("long", "integer", 8, signed=True)
SIZE = Type("size_t", "integer", 8)
U8 = Type("u8", "integer", 1)
CHAR = Type("char", "integer", 1, signed=True)

FIELDS = (
    Field("fd", INT, 16, 8),  # an argument of a system call: a slot of eight bytes
    Field("count", SIZE, 24, 8),
    Field("pid", INT, 32, 4),
    Field("odd", INT, 37, 4),
    Field("comm", Type("char[16]", "array", 16, element=CHAR), 40, 16),
    Field("letter", Type("char[1]", "array", 1, element=CHAR), 56, 1),
    Field("saddr", Type("u8[4]", "array", 4, element=U8), 60, 4),
    Field("name", Type("char[]", "array", 0, element=CHAR), 64, 4, dynamic=True),
    Field("words", Type("int[2]", "array", 8, element=INT), 68, 8),
)


@pytest.fixture
def tracepoint(monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(tracefs, "fields", lambda _: FIELDS)
    return Tracepoint(Hook("tracepoint", "net:sent"))


def value(at: Context, word: str, body: Body | None = None) -> Value:
    return at.word(Word(tuple(word.split("."))), body or Body(at))


@pytest.mark.parametrize(
    ("word", "c", "signed"),
    [
        ("args.fd", "(s32)*(volatile u64 *)((u8 *)ctx + 16)", True),
        ("args.count", "(u64)*(volatile u64 *)((u8 *)ctx + 24)", False),
        ("args.pid", "(s32)*(volatile u32 *)((u8 *)ctx + 32)", True),
    ],
)
def test_numbers_of_a_record(tracepoint: Context, word: str, c: str, signed: bool) -> None:
    """They are read where and as wide as they lie, and are then what their type says."""
    found = value(tracepoint, word)
    assert (found.type, found.c, found.signed) == ("number", c, signed)


@pytest.mark.parametrize(
    ("word", "kind", "size", "grows"),
    [("args.comm", "text", 16, False), ("args.name", "text", 64, True), ("args.saddr", "bytes", 4, False),
     ("args.letter", "bytes", 1, False)],
)  # fmt: skip
def test_texts_and_bytes_of_a_record(tracepoint: Context, word: str, kind: str, size: int, grows: bool) -> None:
    """An array of characters is a text; how long one is that lies elsewhere in the record, nobody says."""
    found = value(tracepoint, word)
    assert (found.type, found.size, found.grows) == (kind, size, grows)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "args.coun",
            "args.coun: sent has fd, count, pid, odd, comm, letter, saddr, name, words; did you mean count?",
        ),
        ("args", "args: which field? sent has fd, count, pid, odd, comm, letter, saddr, name, words"),
        ("args.odd", "args.odd: is not aligned in its record"),
        ("args.words", "args.words: is of the type int[2], which is neither a number nor a text"),
        ("args.fd.x", "args.fd.x: fd is of the type int, of which no members are known"),
    ],
)
def test_what_a_record_has_not(tracepoint: Context, word: str, message: str) -> None:
    """Each is told with what there is, and what is most like it."""
    with pytest.raises(ExpressionError) as caught:
        value(tracepoint, word)
    assert str(caught.value) == message


TASK = Type("struct task_struct *", "pointer", 8, id=1)
FLAGS = Type("unsigned int", "integer", 4)


class Types:
    """Of the kernel's types, a task that has a parent."""

    def function(self, name: str) -> Function | None:
        parameters = (("task", TASK), ("code", LONG), ("by_value", Type("struct x", "struct", 8)))
        return Function("do_exit", parameters, INT) if name == "do_exit" else None

    def members(self, kind: Type) -> Sequence[Member]:
        assert kind == TASK
        return (
            Member("pid", INT, 8 * 1192),
            Member("parent", TASK, 8 * 1208),
            Member("comm", Type("char[16]", "array", 16, element=CHAR), 8 * 1600),
            Member("flag", FLAGS, 8 * 1100 + 3, bits=2),
            Member("wide", Type("u64", "integer", 8), 8 * 1100 + 7, bits=60),
        )


@pytest.fixture
def kprobe(monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(context, "_btf", Types)
    return Registers(Hook("kprobe", "do_exit"))


def reads(at: Context, word: str) -> list[str]:
    """What is read of the kernel's memory for a word."""
    body = Body(at)
    value(at, word, body)
    return [line.partition("read, ")[2].partition("; ")[0] for line in body.lines if "read_kernel" in line]


def test_members_behind_pointers(kprobe: Context) -> None:
    """Each pointer on the way is read, also one whose name stands on the way twice."""
    assert reads(kprobe, "args.task.pid") == ["4, (void *)(PT_REGS_PARM1(ctx) + 1192))"]
    assert reads(kprobe, "args.task.parent.pid") == [
        "8, (void *)(PT_REGS_PARM1(ctx) + 1208))",
        "4, (void *)(v1 + 1192))",
    ]
    assert reads(kprobe, "args.task.parent.parent.pid") == [
        "8, (void *)(PT_REGS_PARM1(ctx) + 1208))",
        "8, (void *)(v1 + 1208))",
        "4, (void *)(v2 + 1192))",
    ]


def test_bit_fields(kprobe: Context) -> None:
    """The byte that they begin in is read, and what is beside them cut off."""
    assert value(kprobe, "args.task.flag").c == "(v1 >> 3 & 3ULL)"
    assert reads(kprobe, "args.task.flag") == ["1, (void *)(PT_REGS_PARM1(ctx) + 1100))"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("args.tsk.pid", "args.tsk: do_exit has task, code, by_value; did you mean task?"),
        (
            "args.task.parnt",
            "args.task.parnt: parnt: struct task_struct * has pid, parent, comm, flag, wide; did you mean parent?",
        ),
        ("args.task.wide", "args.task.wide: is a bit field that lies in more than 8 bytes"),
        (
            "args.by_value.x",
            "args.by_value.x: by_value is of the type struct x, which has no members here",
        ),
    ],
)
def test_what_a_function_has_not(kprobe: Context, word: str, message: str) -> None:
    """Each step of the way is told with what there is."""
    with pytest.raises(ExpressionError) as caught:
        value(kprobe, word)
    assert str(caught.value) == message


def test_what_only_the_start_knows_is_kept(tracepoint: Context) -> None:
    """A number of the start's record is in the span's memory at its end; one that both know is the end's."""
    end = Context(Hook("tracepoint", "net:received"))
    end.family = "kretprobe"  # has no fields of its own
    begin = Body(tracepoint)
    end.start_with(begin)
    assert value(end, "args.count").c == "call.kept[0]"
    assert value(end, "args.fd").c == "call.kept[1]"
    assert value(end, "args.count").c == "call.kept[0]"
    assert end.kept == ["v1", "v2"]
    with pytest.raises(
        ExpressionError, match=r"^args.comm is a text that is only there at the start: nothing keeps it$"
    ):
        value(end, "args.comm")
