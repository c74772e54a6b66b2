# SPDX-License-Identifier: Apache-2.0
"""hooks/tracefs.py: format files of several kernels, and a tracefs made of files."""

from pathlib import Path

import pytest

from exporter.errors import HookError, UnknownHook
from exporter.hooks import tracefs
from exporter.hooks.types import Field, Type

CHAR, CHAR_SIGNED, U8 = Type("char", "integer", 1), Type("char", "integer", 1, True), Type("__u8", "integer", 1)
ULONG, U64 = Type("unsigned long", "integer", 8), Type("u64", "integer", 8)

HEAD = """\
name: {event}
ID: 1
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

"""

# what a format file declares -> what it is
FIELDS = [
    (
        "char prev_comm[16]; offset:8; size:16; signed:0;",
        Field("prev_comm", Type("char[16]", "array", 16, element=CHAR), 8, 16),
    ),
    (
        "char comm[TASK_COMM_LEN]; offset:8; size:16; signed:1;",
        Field("comm", Type("char[16]", "array", 16, element=CHAR_SIGNED), 8, 16),
    ),
    ("pid_t prev_pid; offset:24; size:4; signed:1;", Field("prev_pid", Type("pid_t", "integer", 4, True), 24, 4)),
    ("unsigned long long t; offset:24; size:8; signed:0;", Field("t", Type("unsigned long long", "integer", 8), 24, 8)),
    ("__u8 saddr[4]; offset:34; size:4; signed:0;", Field("saddr", Type("__u8[4]", "array", 4, element=U8), 34, 4)),
    (
        "__u8 saddr[sizeof(struct sockaddr_in6)]; offset:8; size:28; signed:0;",
        Field("saddr", Type("__u8[28]", "array", 28, element=U8), 8, 28),
    ),
    (
        "unsigned long args[6]; offset:16; size:48; signed:0;",
        Field("args", Type("unsigned long[6]", "array", 48, element=ULONG), 16, 48),
    ),
    (
        "my_words_t w[4]; offset:16; size:16; signed:0;",
        Field("w", Type("my_words_t[4]", "array", 16, element=Type("my_words_t", "other", 4)), 16, 16),
    ),
    ("const void * skaddr; offset:8; size:8; signed:0;", Field("skaddr", Type("const void *", "pointer", 8), 8, 8)),
    ("const char *name; offset:8; size:8; signed:0;", Field("name", Type("const char *", "pointer", 8), 8, 8)),
    (
        "const char *const * argv; offset:8; size:8; signed:0;",
        Field("argv", Type("const char *const *", "pointer", 8), 8, 8),
    ),
    (
        "__data_loc char[] filename; offset:8; size:4; signed:0;",
        Field("filename", Type("char[]", "array", 0, element=CHAR), 8, 4, dynamic=True),
    ),
    (
        "__rel_loc char[] msg; offset:8; size:4; signed:1;",
        Field("msg", Type("char[]", "array", 0, element=CHAR_SIGNED), 8, 4, dynamic=True, relative=True),
    ),
    (
        "__data_loc u64[] values; offset:8; size:4; signed:0;",
        Field("values", Type("u64[]", "array", 0, element=U64), 8, 4, dynamic=True),
    ),
    ("enum zone_type z; offset:8; size:4; signed:0;", Field("z", Type("enum zone_type", "integer", 4), 8, 4)),
    (
        "struct timespec64 when; offset:8; size:16; signed:0;",
        Field("when", Type("struct timespec64", "struct", 16), 8, 16),
    ),
    ("guid_t id; offset:8; size:16; signed:0;", Field("id", Type("guid_t", "other", 16), 8, 16)),
    ("bool common_place; offset:8; size:1; signed:0;", None),
    ("u32 uncommon_thing; offset:8; size:4;", Field("uncommon_thing", Type("u32", "integer", 4), 8, 4)),
]


@pytest.mark.parametrize(("line", "expected"), FIELDS, ids=[line.partition(";")[0] for line, _ in FIELDS])
def test_a_field_is_what_its_format_declares(line: str, expected: Field | None) -> None:
    """Place, width, sign and kind of a field; those that all events have (common_…) are left out."""
    text = HEAD.format(event="e") + f"\tfield:{line}\n" + '\nprint fmt: "field:%s", REC->x\n'
    assert tracefs.parse(text) == ((expected,) if expected else ())


def test_arguments_of_system_calls_are_slots() -> None:
    """A slot is 8 bytes; the type in its low bytes is of the width that C gives it. What returns is a long."""
    enter = HEAD.format(event="sys_enter_openat") + (
        "\tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n"
        "\tfield:int dfd;\toffset:16;\tsize:8;\tsigned:0;\n"
        "\tfield:const char * filename;\toffset:24;\tsize:8;\tsigned:0;\n"
        "\tfield:umode_t mode;\toffset:32;\tsize:8;\tsigned:0;\n"
        "\tfield:size_t count;\toffset:40;\tsize:8;\tsigned:0;\n"
        "\tfield:const void *const attr;\toffset:48;\tsize:8;\tsigned:0;\n"
    )
    assert tracefs.parse(enter, slots=True) == (
        Field("__syscall_nr", Type("int", "integer", 4, True), 8, 4),
        Field("dfd", Type("int", "integer", 4, True), 16, 8),
        Field("filename", Type("const char *", "pointer", 8), 24, 8),
        Field("mode", Type("umode_t", "integer", 2), 32, 8),
        Field("count", Type("size_t", "integer", 8), 40, 8),
        Field("attr", Type("const void *const", "pointer", 8), 48, 8),
    )
    leave = HEAD.format(event="sys_exit_openat") + "\tfield:long ret;\toffset:16;\tsize:8;\tsigned:1;\n"
    assert tracefs.parse(leave, slots=True) == (Field("ret", Type("long", "integer", 8, True), 16, 8),)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tracefs with three events, and nothing else that the kernel has."""
    for name in ("tcp/tcp_send_reset", "tcp/tcp_probe", "syscalls/sys_enter_openat", "ftrace/function"):
        folder = tmp_path / "events" / name
        folder.mkdir(parents=True)
        (folder / "format").write_text(HEAD.format(event=name) + "\tfield:u32 x;\toffset:8;\tsize:4;\tsigned:0;\n")
        (folder.parent / "enable").touch()
    monkeypatch.setattr(tracefs, "ROOTS", (tmp_path / "absent", tmp_path))
    monkeypatch.setattr(tracefs, "SYMBOLS", tmp_path / "kallsyms")
    monkeypatch.setattr(tracefs, "BLACKLIST", tmp_path / "blacklist")
    return tmp_path


@pytest.mark.usefixtures("tree")
def test_events_are_listed_by_category() -> None:
    """Files beside the events are none, and ftrace's own records are no tracepoints."""
    assert list(tracefs.tracepoints()) == ["syscalls:sys_enter_openat", "tcp:tcp_probe", "tcp:tcp_send_reset"]
    assert [field.name for field in tracefs.fields("tcp:tcp_probe")] == ["x"]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("target", "words", "nearest"),
    [
        ("tcp:tcp_send_rest", "; did you mean tcp_send_reset?", ("tcp_send_reset",)),
        ("tpc:tcp_probe", "; did you mean tcp:tcp_probe?", ("tcp:tcp_probe",)),
        ("fs:sys_enter_openat", "; did you mean syscalls:sys_enter_openat?", ("syscalls:sys_enter_openat",)),
        ("tcp:nothing_like_it", "", ()),
        ("tcp", "", ()),
        ("../events/tcp:tcp_probe", "; did you mean tcp:tcp_probe?", ("tcp:tcp_probe",)),
    ],
)
def test_an_event_that_is_not_there_is_answered_with_the_nearest(
    target: str, words: str, nearest: tuple[str, ...]
) -> None:
    """In its category by the event alone, else with the category that has it."""
    with pytest.raises(UnknownHook) as caught:
        tracefs.fields(target)
    written = target if ":" in target else f"{target}:"
    assert (str(caught.value), caught.value.nearest) == (f"this kernel has no tracepoint:{written}{words}", nearest)


def test_no_tracefs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not mounted, how to mount it is said."""
    monkeypatch.setattr(tracefs, "ROOTS", (tmp_path / "absent",))
    with pytest.raises(HookError, match="tracefs is not mounted: mount -t tracefs"):
        list(tracefs.tracepoints())


def test_functions_are_those_of_ftrace_less_the_blacklist(tree: Path) -> None:
    """Modules' functions are among them; ftrace's places without a name, doubles and barred functions are not."""
    (tree / "available_filter_functions").write_text(
        "vfs_read\nxfs_log_force [xfs]\nvfs_read\n__ftrace_invalid_address___24\nsync_regs\n"
    )
    (tree / "blacklist").write_text("0xffffffff81e0a0f0-0xffffffff81e0a120\tsync_regs\n")
    assert list(tracefs.functions()) == ["vfs_read", "xfs_log_force"]
    assert tracefs.traceable() == {"vfs_read", "xfs_log_force", "sync_regs"}


def test_without_ftrace_functions_are_those_of_kallsyms(tree: Path) -> None:
    """Text alone: no data, no programs of BPF, no parts that a compiler split off."""
    (tree / "kallsyms").write_text(
        "0000000000000000 T vfs_read\n0000000000000000 t do_it [xfs]\n0000000000000000 D jiffies\n"
        "0000000000000000 t __pfx_vfs_read\n0000000000000000 t vfs_read.cold\n0000000000000000 t bpf_prog_1\t[bpf]\n"
        "0000000000000000 W weak_one\n"
    )
    assert list(tracefs.functions()) == ["vfs_read", "do_it", "weak_one"]
    assert tracefs.traceable() == frozenset()
