# SPDX-License-Identifier: Apache-2.0
"""Tracepoints and their fields, and the functions that can be probed, as tracefs has them.

Format files: Documentation/trace/events.rst; kernel/trace/trace_events.c writes them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from exporter import lockdown
from exporter.errors import HookError, UnknownHook
from exporter.hooks.names import did_you_mean, nearest
from exporter.hooks.types import Field, Type

ROOTS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
SYMBOLS = Path("/proc/kallsyms")
BLACKLIST = Path("/sys/kernel/debug/kprobes/blacklist")

_FIELD = re.compile(
    r"\s*field:(?P<declaration>[^;]+);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);(?:\s*signed:(?P<signed>-?\d+);)?"
)
# `type name`, `type name[N]`; the type may itself end in `[]` (__data_loc char[] name) or in `*` (char *name)
_DECLARATION = re.compile(r"(?P<type>.*?[\s*\]])(?P<name>\w+)(?:\[(?P<count>[^]]*)\])?$")
_LOCATIONS = ("__data_loc", "__rel_loc")  # the latter since 5.18 (55de2c0b5610)

_SLOT = 8  # bytes of each argument of a system call in its record, whatever its type (unsigned long)

# What the kernel's system calls are declared with, size in bytes and signedness; all others are as wide as their slot.
_ARGUMENTS = {
    **dict.fromkeys(("int", "pid_t", "clockid_t", "mqd_t", "key_t", "timer_t", "key_serial_t", "rwf_t"), (4, True)),
    **dict.fromkeys(("s32", "__s32", "int32_t"), (4, True)),
    **dict.fromkeys(("unsigned int", "unsigned", "uint", "u32", "__u32", "uint32_t", "uid_t", "gid_t"), (4, False)),
    **dict.fromkeys(("qid_t", "mode_t", "enum landlock_rule_type"), (4, False)),
    **dict.fromkeys(("umode_t", "old_uid_t", "old_gid_t", "unsigned short", "u16", "__u16"), (2, False)),
    **dict.fromkeys(("long", "off_t", "loff_t", "ssize_t", "s64", "__s64"), (8, True)),
    **dict.fromkeys(("unsigned char", "u8", "__u8", "bool"), (1, False)),
}


def events() -> Path:
    """Returns the folder of the tracepoints. Raises HookError where it is not mounted or not to be read."""
    refused: PermissionError | None = None
    for root in ROOTS:
        try:
            (root / "events").stat()
        except PermissionError as error:
            refused = error
        except OSError:
            continue
        else:
            return root / "events"
    if refused:
        raise HookError(f"cannot read {ROOTS[0]}: only root can")
    raise HookError(absent())


def absent() -> str:
    """Returns why there are no tracepoints to see, and what to do."""
    if locked := lockdown.hint():  # tracefs can be mounted, and is empty
        return f"this kernel shows no tracepoints{locked}"
    return f"tracefs is not mounted: mount -t tracefs tracefs {ROOTS[0]}"


def tracepoints() -> Iterator[str]:
    """Yields ``category:event``, sorted. Raises HookError where tracefs can't be read."""
    try:
        for category in sorted(path for path in events().iterdir() if path.is_dir()):
            # ftrace's own record types are no tracepoints: nothing can be attached to them
            if category.name != "ftrace":
                yield from sorted(f"{category.name}:{path.name}" for path in category.iterdir() if path.is_dir())
    except OSError as error:
        raise HookError(f"cannot read {error.filename}: {error.strerror}") from error


def fields(target: str) -> tuple[Field, ...]:
    """Returns the fields of ``category:event`` without those that all events have.

    Arguments of a system call (``syscalls:sys_enter_…``) are slots of 8 bytes: such a Field has size 8, and its type
    the size of the C type, in the slot's low bytes; what is above them means nothing.
    Raises UnknownHook where there is no such event, HookError where tracefs can't be read.
    """
    category, _, event = target.partition(":")
    path = events() / category / event / "format"
    try:
        if not re.fullmatch(r"\w[\w.-]*", category) or not re.fullmatch(r"\w[\w.-]*", event):
            raise FileNotFoundError
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _unknown(category, event) from error
    except OSError as error:
        raise HookError(f"cannot read {path}: {error.strerror}") from error
    return parse(text, slots=category == "syscalls")


def _unknown(category: str, event: str) -> UnknownHook:
    known = list(tracepoints())
    same = [name for name in known if name.startswith(f"{category}:")]
    near = nearest(event, (name.partition(":")[2] for name in same))
    # another category is spelled out: `sched:sys_enter_openat` -> `syscalls:sys_enter_openat`
    elsewhere = tuple(name for name in known if name.partition(":")[2] == event)
    near = near or elsewhere or nearest(f"{category}:{event}", known)
    return UnknownHook(f"this kernel has no tracepoint:{category}:{event}{did_you_mean(near)}", near)


def parse(text: str, slots: bool = False) -> tuple[Field, ...]:
    """Returns the fields that a format file declares; slots says that it is that of a system call."""
    return tuple(
        _field(match, slots)
        for match in map(_FIELD.match, text.splitlines())
        if match and not re.search(r"\bcommon_\w+$", match["declaration"])
    )


def _field(match: re.Match[str], slots: bool) -> Field:
    offset, size, signed = int(match["offset"]), int(match["size"]), match["signed"] not in (None, "0")
    words = match["declaration"].strip()
    location = next((word for word in _LOCATIONS if words.startswith(word + " ")), "")
    declared = _DECLARATION.match(words.removeprefix(location).strip())
    if declared is None:  # nothing that we know how to read; named as it stands
        return Field(words, Type(words, "other", size), offset, size)
    name, count, written = declared["name"], declared["count"], _spelling(declared["type"])
    if location:
        element = _element(written.removesuffix("[]").strip(), signed)
        kind = Type(f"{element.name}[]", "array", 0, element=element)
        return Field(name, kind, offset, size, dynamic=True, relative=location == "__rel_loc")
    if count is not None:
        return Field(name, _array(written, count, size, signed), offset, size)
    if slots and name != "__syscall_nr" and size == _SLOT and not _is_pointer(written):
        width, negative = _ARGUMENTS.get(written.removeprefix("const "), (_SLOT, signed))
        return Field(name, Type(written, "integer", width, negative), offset, size)
    return Field(name, _plain(written, size, signed), offset, size)


def _spelling(written: str) -> str:
    """``const char*`` -> ``const char *``; ``const char *const *`` stays."""
    return re.sub(r"(?<=[\w\]])\s*\*", " *", " ".join(written.split()))


def _is_pointer(written: str) -> bool:
    """Whether a type is one by its spelling: ``const void *const``, ``int (*)(void)``."""
    return written.removesuffix("const").rstrip().endswith("*") or "(*)" in written


def _plain(written: str, size: int, signed: bool) -> Type:
    """Returns what has no array's brackets. That a typedef is a pointer or a struct can't be seen from its name."""
    if _is_pointer(written):
        return Type(written, "pointer", size)
    aggregate = written.removeprefix("const ").startswith(("struct ", "union "))
    if aggregate:
        return Type(written, "struct", size)
    return Type(written, "integer" if size in (1, 2, 4, 8) else "other", size, signed)


def _array(written: str, count: str, size: int, signed: bool) -> Type:
    element = _element(written, signed)
    number = int(count, 0) if re.fullmatch(r"\d+|0x[0-9a-fA-F]+", count) else 0
    if not number:  # `char comm[TASK_COMM_LEN]`, before 4.x; or a size that the kernel could not write
        number = size // (element.size or 1)
    if number and size % number == 0:
        element = Type(element.name, element.kind, size // number, element.signed)
    return Type(f"{element.name}[{number}]", "array", size, element=element)


def _element(written: str, signed: bool) -> Type:
    """Returns the type of a dynamic array's elements, whose size no format file has; 0 where the name is not known."""
    sizes = {"char": 1, "signed char": 1, "unsigned char": 1, "bool": 1, "short": 2, "unsigned short": 2, "int": 4}
    sizes |= {"unsigned int": 4, "unsigned": 4, "long": 8, "unsigned long": 8, "long long": 8, "unsigned long long": 8}
    if written.endswith("*"):
        return Type(written, "pointer", 8)
    if found := re.fullmatch(r"(?:__)?(?:[us]|__be|__le|be|le|u?int)(8|16|32|64)(?:_t)?", written):
        return Type(written, "integer", int(found[1]) // 8, signed)
    size = sizes.get(written.removeprefix("const "), 0)
    return Type(written, "integer" if size else "other", size, signed)


def functions() -> Iterator[str]:
    """Yields the functions that a kprobe can be put on, each once, as far as this kernel tells.

    They are those of available_filter_functions where ftrace has its list, else all of the text in /proc/kallsyms; less
    those of the kprobes' blacklist where that can be read. Whether the kernel has kprobes at all is not asked here.
    Raises HookError where neither list can be read.
    """
    barred = _blacklist()
    seen: set[str] = set()
    for name in _filter_functions() or _text_symbols():
        if name not in seen and name not in barred:
            seen.add(name)
            yield name


def traceable() -> frozenset[str]:
    """Returns the functions that ftrace knows, and so fentry; empty where that can't be read."""
    return frozenset(_filter_functions())


def _filter_functions() -> list[str]:
    """Returns ``vfs_read``, ``nf_hook_slow``, … of lines such as ``xfs_log_force [xfs]``; [] where there is no list."""
    for root in ROOTS:
        try:
            text = (root / "available_filter_functions").read_text()
        except OSError:
            continue
        if names := [line.partition(" ")[0] for line in text.splitlines()]:
            return [name for name in names if not name.startswith("__ftrace_invalid_address__")]
    return []


def _text_symbols() -> Iterator[str]:
    """Yields functions of lines such as ``ffffffff81000000 T vfs_read`` and ``… t xfs_log_force [xfs]``."""
    try:
        lines = SYMBOLS.read_text(errors="backslashreplace").splitlines()
    except OSError as error:
        raise HookError(f"cannot read {SYMBOLS}: {error.strerror}") from error
    for line in lines:
        words = line.split()
        if len(words) < 3 or words[1] not in "tTwW":
            continue
        name, module = words[2], words[3] if len(words) > 3 else ""
        # programs of BPF, and names that compilers make of a function's parts, are nothing to probe by name
        if module != "[bpf]" and not name.startswith(("__pfx_", "__cfi_", "$")) and ".cold" not in name:
            yield name


def _blacklist() -> frozenset[str]:
    """Returns the names of lines such as ``0xffffffff81e0a0f0-0xffffffff81e0a120\\tsync_regs``."""
    try:
        lines = BLACKLIST.read_text().splitlines()
    except OSError:  # no kprobes, no debugfs, or not root: attaching tells
        return frozenset()
    return frozenset(words[1] for words in (line.split() for line in lines) if len(words) > 1)
