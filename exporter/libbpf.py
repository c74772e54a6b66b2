# SPDX-License-Identifier: Apache-2.0
"""bpf(2) through libbpf's system call wrappers: the only place that knows their C signatures.

Every function raises OSError with the kernel's errno. Descriptors returned are close-on-exec.
Structures and constants: include/uapi/linux/bpf.h and libbpf's bpf.h, which only ever append.
"""

import ctypes
import errno
import os
import resource
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

MAP_TYPE_HASH, MAP_TYPE_ARRAY, MAP_TYPE_PROG_ARRAY, MAP_TYPE_ARRAY_OF_MAPS = 1, 2, 3, 12
PROG_TYPE_KPROBE, PROG_TYPE_SCHED_CLS, PROG_TYPE_TRACEPOINT, PROG_TYPE_XDP, PROG_TYPE_PERF_EVENT = 2, 3, 5, 6, 7
PROG_TYPE_RAW_TRACEPOINT, PROG_TYPE_TRACING = 17, 26
ATTACH_TRACE_FENTRY, ATTACH_TRACE_FEXIT, ATTACH_XDP, ATTACH_PERF_EVENT, ATTACH_KPROBE_MULTI = 24, 25, 37, 41, 42
ATTACH_TCX_INGRESS, ATTACH_TCX_EGRESS = 46, 47
XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE = 1 << 1, 1 << 2
F_BEFORE = 1 << 3  # of a link: ahead of all programs that are there
STATS_RUN_TIME = 0
CMD_MAP_LOOKUP_ELEM, CMD_MAP_UPDATE_ELEM, CMD_OBJ_GET_INFO_BY_FD, CMD_MAP_LOOKUP_AND_DELETE_BATCH = 1, 2, 15, 25
_LINK_TYPE_PERF_EVENT, _LINK_TYPE_KPROBE_MULTI = 7, 8
_PERF_EVENT_KPROBE, _PERF_EVENT_KRETPROBE = 3, 4
_KPROBE_MULTI_RETURN = 1

_LOG_SIZE = 1 << 20  # of the verifier's words the last megabyte is kept

try:
    _lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
except OSError as error:  # none, or one before 1.0
    raise ImportError(str(error), name="libbpf.so.1") from error
_lib.bpf_map_lookup_and_delete_batch.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
]
_lib.bpf_prog_load.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
]
_lib.bpf_map_create.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_void_p,
]
_lib.bpf_map_update_elem.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64]
_lib.bpf_map_update_batch.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
]
_lib.bpf_map_delete_elem.argtypes = [ctypes.c_int, ctypes.c_char_p]
_lib.bpf_map_lookup_elem.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
_lib.bpf_raw_tracepoint_open.argtypes = [ctypes.c_char_p, ctypes.c_int]
_lib.bpf_link_create.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
_lib.bpf_link_update.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
_lib.bpf_prog_get_fd_by_id.argtypes = [ctypes.c_uint32]
_lib.bpf_map_get_fd_by_id.argtypes = [ctypes.c_uint32]
_lib.bpf_obj_get_info_by_fd.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_lib.libbpf_find_vmlinux_btf_id.argtypes = [ctypes.c_char_p, ctypes.c_int]
_lib.libbpf_set_print.argtypes = [ctypes.c_void_p]
_lib.libbpf_set_print(None)  # it would write to our stderr


def checked(result: int, doing: str) -> int:
    """libbpf 1.x returns -errno; raises it as OSError."""
    if result < 0:
        raise OSError(-result, os.strerror(-result), doing)
    return result


def refusal(error: OSError) -> str:
    """Returns why the kernel lets this process have no map at all, and what to do."""
    if error.errno == errno.ENOSYS:
        return "this kernel has no bpf(2): boot one with CONFIG_BPF_SYSCALL"
    if error.errno != errno.EPERM:
        return f"this kernel refuses BPF maps: {error.strerror}"
    filtered = "bpf(2) is forbidden here: allow it in the unit's SystemCallFilter= or the container's seccomp profile"
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    # maps counted against it until 5.11 (d5299b67dd59, bpf: Memcg-based memory accounting for bpf maps)
    memory = "" if limit == resource.RLIM_INFINITY else "; before Linux 5.11, set LimitMEMLOCK=infinity"
    return filtered + memory


class _MapCreateOpts(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    ]


class _ProgLoadOpts(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    ]


class _LinkCreateOpts(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
    ]


class _KprobeMultiOpts(ctypes.Structure):
    """struct bpf_link_create_opts of a link to functions."""

    _fields_ = [
        *_LinkCreateOpts._fields_,
        ("kprobe_flags", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("symbols", ctypes.POINTER(ctypes.c_char_p)),
        ("addresses", ctypes.c_void_p),
        ("cookies", ctypes.c_void_p),
    ]


class _ProgInfo(ctypes.Structure):
    """The head of struct bpf_prog_info; what is not read here is skipped by its size."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("instructions", ctypes.c_uint8 * 44),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("skipped", ctypes.c_uint8 * 112),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
        ("recursion_misses", ctypes.c_uint64),
        ("verified_insns", ctypes.c_uint32),
        ("attach_btf_obj_id", ctypes.c_uint32),
    ]


class _MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    ]


class _PerfEventLinkInfo(ctypes.Structure):
    """struct bpf_link_info of a link to a perf event, up to what a kprobe missed."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("event", ctypes.c_uint32),  # the union, aligned to 8 bytes, begins here; so does its own union after it
        ("func_name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
        ("addr", ctypes.c_uint64),
        ("missed", ctypes.c_uint64),
    ]


class _KprobeMultiLinkInfo(ctypes.Structure):
    """struct bpf_link_info of a link to functions, up to what it missed."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("addresses", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("missed", ctypes.c_uint64),
    ]


@dataclass(frozen=True)
class ProgramStatistics:
    """What the kernel counted of a program since it was loaded; runs only while statistics are enabled.

    missed are events that came while this processor was at another BPF program, or at this one.
    """

    runs: int
    run_ns: int
    missed: int


def map_create(kind: int, name: str, key: int, value: int, entries: int, flags: int = 0, inner: int = 0) -> int:
    """Creates a map; key and value are sizes in bytes. Returns its descriptor."""
    opts = _MapCreateOpts(ctypes.sizeof(_MapCreateOpts), inner_map_fd=inner, map_flags=flags)
    result = _lib.bpf_map_create(kind, name.encode()[:15], key, value, entries, ctypes.byref(opts))
    return checked(result, f"map {name}")


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Sets one element."""
    checked(_lib.bpf_map_update_elem(fd, key, value, 0), "map update")


def map_delete(fd: int, key: bytes) -> None:
    """Takes one element out; raises FileNotFoundError where there is none."""
    checked(_lib.bpf_map_delete_elem(fd, key), "map delete")


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes:
    """Returns one element's value."""
    value = ctypes.create_string_buffer(value_size)
    checked(_lib.bpf_map_lookup_elem(fd, key, value), "map lookup")
    return value.raw


def array_fill(fd: int, values: bytes, count: int) -> None:
    """Sets the elements of an array map from the first on; values are packed."""
    keys = array("I", range(count)).tobytes()
    done = ctypes.c_uint32(count)
    checked(_lib.bpf_map_update_batch(fd, keys, values, ctypes.byref(done), None), "map update")


def map_form(fd: int) -> tuple[int, int, int, int]:
    """Returns a map's type, the sizes of its keys and values in bytes, and its entries (struct bpf_map_info)."""
    info = _MapInfo()
    _inform(fd, info, "map information")
    return info.type, info.key_size, info.value_size, info.max_entries


class Drain:
    """Takes everything out of hash maps, in batches, into buffers that are kept between calls."""

    def __init__(self, key_size: int, value_size: int, entries: int) -> None:
        self._sizes = key_size, value_size
        self._batch = min(entries, 4096)
        self._keys = ctypes.create_string_buffer(0)
        self._values = ctypes.create_string_buffer(0)

    def __call__(self, fd: int) -> Iterator[tuple[memoryview, memoryview]]:
        """Yields keys and values, packed, equally many; the views are good until the next step.

        A bucket of the hash that holds more elements than fit (ENOSPC) makes the buffers grow.
        """
        key_size, value_size = self._sizes
        if not self._keys:
            self._grow()
        cursor, more = ctypes.create_string_buffer(max(8, key_size)), None
        while True:
            count = ctypes.c_uint32(self._batch)
            result = _lib.bpf_map_lookup_and_delete_batch(
                fd, more, cursor, self._keys, self._values, ctypes.byref(count), None
            )
            if result == -errno.ENOSPC:
                self._batch *= 2
                self._grow()
                continue
            if result not in (0, -errno.ENOENT):  # ENOENT: this was the last
                checked(result, "map drain")
            if count.value:
                taken = count.value
                yield memoryview(self._keys)[: taken * key_size], memoryview(self._values)[: taken * value_size]
            if result:
                return
            more = cursor

    def _grow(self) -> None:
        key_size, value_size = self._sizes
        self._keys = ctypes.create_string_buffer(key_size * self._batch)
        self._values = ctypes.create_string_buffer(value_size * self._batch)


class Refused(OSError):
    """The kernel refused a program; log is what the verifier said."""

    def __init__(self, number: int, log: str) -> None:
        super().__init__(number, os.strerror(number))
        self.log = log


def prog_load(kind: int, name: str, instructions: bytes, attach_type: int = 0, btf_id: int = 0) -> int:
    """Loads a program of GPL licence. Returns its descriptor; raises Refused with the verifier's log."""
    opts = _ProgLoadOpts(ctypes.sizeof(_ProgLoadOpts), expected_attach_type=attach_type, attach_btf_id=btf_id)
    arguments = (kind, name.encode()[:15], b"GPL", instructions, len(instructions) // 8, ctypes.byref(opts))
    result = _lib.bpf_prog_load(*arguments)
    if result >= 0:
        return int(result)
    # again, only for its words: asking for them the first time would cost every good load as well
    log = ctypes.create_string_buffer(_LOG_SIZE)
    opts.log_level, opts.log_size, opts.log_buf = 1, _LOG_SIZE, ctypes.addressof(log)
    again = _lib.bpf_prog_load(*arguments)
    if again >= 0:
        return int(again)
    raise Refused(-result, log.value.decode("utf-8", "backslashreplace").strip())


def vmlinux_btf_id(function: str, attach_type: int) -> int:
    """Returns the BTF id of a kernel function, for fentry and fexit."""
    return checked(_lib.libbpf_find_vmlinux_btf_id(function.encode(), attach_type), function)


def raw_tracepoint_open(name: str | None, program: int) -> int:
    """Attaches a program to a raw tracepoint or, without a name, to the function that it was loaded for."""
    return checked(_lib.bpf_raw_tracepoint_open(name.encode() if name else None, program), name or "")


def link_create(program: int, target: int, attach_type: int, flags: int = 0) -> int:
    """Attaches a program to an interface (its index) or a perf event. Returns the link; closing it detaches."""
    opts = _LinkCreateOpts(ctypes.sizeof(_LinkCreateOpts), flags=flags)
    return checked(_lib.bpf_link_create(program, target, attach_type, ctypes.byref(opts)), "link")


def return_link_create(program: int, function: str | None) -> int:
    """Attaches a program to the returns of a kernel function, by fprobe. Returns the link; closing it detaches.

    Without a function there is nothing to attach to: EINVAL, or EOPNOTSUPP of a kernel that has no such links.
    """
    symbols = (ctypes.c_char_p * 1)(function.encode() if function else None)
    count = 1 if function else 0
    size = ctypes.sizeof(_KprobeMultiOpts)
    opts = _KprobeMultiOpts(size, kprobe_flags=_KPROBE_MULTI_RETURN, count=count, symbols=symbols)
    return checked(_lib.bpf_link_create(program, 0, ATTACH_KPROBE_MULTI, ctypes.byref(opts)), function or "")


def link_update(link: int, program: int) -> None:
    """Gives a link another program, at once: no event is seen by neither or by both."""
    checked(_lib.bpf_link_update(link, program, None), "link update")


def link_ifindex(fd: int) -> int:
    """Returns the interface that an XDP or a TCX link is on; 0 where it is on none any more (struct bpf_link_info)."""
    info = (ctypes.c_uint32 * 32)()
    _inform(fd, info, "link information")
    return int(info[4])  # type, id, prog_id, padding, and then of both: ifindex


def link_missed(fd: int) -> int | None:
    """Returns how many events a link's kprobe or kretprobe missed, itself: its program was not even asked for.

    A kretprobe that is a perf event misses the calls of a function while as many of them as it has room for have not
    returned. For a link of any other kind 0. Needs no capability, only the descriptor.
    None where the kernel does not tell (before 6.7, 3acf8ace6823, bpf: Add missed value to kprobe perf link info).
    Raises OSError where the descriptor is no link.
    """
    info = _PerfEventLinkInfo()
    if _inform(fd, info, "link information") < ctypes.sizeof(info):  # all that this kernel knows of any link
        return None
    if info.type == _LINK_TYPE_KPROBE_MULTI:
        return int(_KprobeMultiLinkInfo.from_buffer(info).missed)
    kprobe = info.type == _LINK_TYPE_PERF_EVENT and info.event in (_PERF_EVENT_KPROBE, _PERF_EVENT_KRETPROBE)
    return int(info.missed) if kprobe else 0


def enable_statistics() -> int:
    """Makes the kernel count the runs and the time of every program for as long as the descriptor is open (5.8)."""
    return checked(_lib.bpf_enable_stats(STATS_RUN_TIME), "BPF statistics")


def program_statistics(fd: int) -> ProgramStatistics:
    """Returns what the kernel counted of a program. Needs no capability, only the descriptor."""
    info = _ProgInfo()
    _inform(fd, info, "program information")
    return ProgramStatistics(info.run_cnt, info.run_time_ns, info.recursion_misses)


@dataclass(frozen=True)
class ProgramIdentity:
    """Which program it is: its number, which no other has until the next boot, its name, its maps' numbers."""

    id: int
    name: str
    maps: tuple[int, ...]


@dataclass(frozen=True)
class MapIdentity:
    """What a map is: its type, its name and how many elements it may have."""

    type: int
    name: str
    entries: int


_MOST_MAPS = 64  # of a program (MAX_USED_MAPS)


def program_identity(fd: int) -> ProgramIdentity:
    """Returns which program a descriptor is of."""
    numbers = (ctypes.c_uint32 * _MOST_MAPS)()
    info = _ProgInfo(nr_map_ids=_MOST_MAPS, map_ids=ctypes.addressof(numbers))
    _inform(fd, info, "program information")
    return ProgramIdentity(info.id, info.name.decode(), tuple(numbers[: min(info.nr_map_ids, _MOST_MAPS)]))


def map_identity(fd: int) -> MapIdentity:
    """Returns which map a descriptor is of."""
    info = _MapInfo()
    _inform(fd, info, "map information")
    return MapIdentity(info.type, info.name.decode(), info.max_entries)


def program_by_id(number: int) -> int:
    """Opens a program by its number. Needs CAP_SYS_ADMIN; raises FileNotFoundError where it is gone."""
    return checked(_lib.bpf_prog_get_fd_by_id(number), "program")


def map_by_id(number: int) -> int:
    """Opens a map by its number. Needs CAP_SYS_ADMIN; raises FileNotFoundError where it is gone."""
    return checked(_lib.bpf_map_get_fd_by_id(number), "map")


def _inform(fd: int, info: "ctypes.Structure | ctypes.Array[ctypes.c_uint32]", what: str) -> int:
    """Fills a structure with what the kernel tells of a descriptor. Returns how much of it this kernel knows."""
    size = ctypes.c_uint32(ctypes.sizeof(info))
    checked(_lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), what)
    return size.value
