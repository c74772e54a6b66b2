# SPDX-License-Identifier: Apache-2.0
"""The kinds of label: for each, its field in the kernel's key and how a field's bytes become a label's text.

This is the only place that knows what a kind is, in C and in text. A kind is *bounded* when it has few values by
nature (an errno, a protocol); when series run out, unbounded labels read ``(other)`` and bounded ones stay true.
"""

import errno as errnos
import ipaddress
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exporter import cgroups, places
from exporter.symbols import SYMBOLS
from exporter.users import user_name

MAX_STRING = 256  # bytes of a string label: its key must fit, with others, on the 512-byte stack of a BPF program


@dataclass(frozen=True)
class Kind:
    """One kind of label.

    c_type is the type of the key's field, ``char[N]`` for strings; size and align are its, in bytes.
    fill is a C statement that fills ``{field}`` from the task that runs, for the kinds that need nothing else.
    values are the texts of an enumeration, or the names of rules, in the order of their numbers.
    merges: many numbers read the same, such as all cgroups of one unit: they are one series.
    """

    name: str
    c_type: str
    size: int
    align: int
    bounded: bool
    fill: str = ""
    values: tuple[str, ...] = ()
    merges: bool = False

    def decode(self, data: bytes) -> str:
        """Returns a field's bytes as the label's text, not yet escaped."""
        return _DECODERS[self.name](self, data)

    @property
    def told(self) -> bool:
        """Whether its texts are the supervisor's to tell: ``settled`` may be False then, and a text may change."""
        return self.name in TOLD

    def settled(self, data: bytes) -> bool:
        """Whether a field's bytes have the text that they will keep, as far as can be known now."""
        return not self.told or _SETTLED[self.name](self, data)


def _number(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)


def _decimal(_: Kind, data: bytes) -> str:
    return str(_number(data))


def _signed(_: Kind, data: bytes) -> str:
    return str(int.from_bytes(data, sys.byteorder, signed=True))


def _ip(_: Kind, data: bytes) -> str:
    """An address of IPv4 is kept as one of IPv6 that it is mapped into."""
    address = ipaddress.IPv6Address(data)
    return str(address.ipv4_mapped or address)


def _string(_: Kind, data: bytes) -> str:
    r"""A kernel string ends at its first NUL; bytes that are no UTF-8 read ``\xNN``."""
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _enum(kind: Kind, data: bytes) -> str:
    number = _number(data)
    return kind.values[number] if number < len(kind.values) else str(number)


# ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (include/linux/errno.h): a signal interrupted a
# call, which then is restarted by the kernel, and counted again, or returns EINTR
_RESTARTS = (512, 513, 514, 516)


def _errno(_: Kind, data: bytes) -> str:
    number = _number(data)
    if number in _RESTARTS:
        return "EINTR"
    return errnos.errorcode.get(number, str(number)) if number else "ok"


def _user(_: Kind, data: bytes) -> str:
    return user_name(_number(data))


# Numbers of the IANA registry that hosts really meet; others read as their number. From 256 on: what is no IP.
PROTOCOLS = {
    0: "hopopt", 1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 47: "gre", 50: "esp",
    51: "ah", 58: "icmpv6", 59: "none", 89: "ospf", 103: "pim", 112: "vrrp", 132: "sctp", 136: "udplite",
    256: "arp", 257: "non-ip", 258: "truncated",
}  # fmt: skip


def _protocol(_: Kind, data: bytes) -> str:
    return PROTOCOLS.get(_number(data), str(_number(data)))


def _interface(_: Kind, data: bytes) -> str:
    return places.PLACES.interface(_number(data))


def _veth_container(_: Kind, data: bytes) -> str:
    return places.PLACES.container(_number(data))


def _cgroup(_: Kind, data: bytes) -> str:
    return cgroups.PATHS.path(_number(data))


def _unit(_: Kind, data: bytes) -> str:
    return cgroups.unit(cgroups.PATHS.path(_number(data)))


def _short_id(data: bytes) -> str:
    return cgroups.container(cgroups.PATHS.path(_number(data)))


def _container(_: Kind, data: bytes) -> str:
    return places.PLACES.name(_short_id(data))


def _ksym(_: Kind, data: bytes) -> str:
    return SYMBOLS.name(_number(data))


_DECODERS: dict[str, Callable[[Kind, bytes], str]] = {
    "comm": _string,
    "string": _string,
    "user": _user,
    "pid": _decimal,
    "cpu": _decimal,
    "errno": _errno,
    "interface": _interface,
    "veth": _interface,
    "veth_container": _veth_container,
    "protocol": _protocol,
    "u32": _decimal,
    "u64": _decimal,
    "s64": _signed,
    "ip": _ip,
    "cgroup": _cgroup,
    "unit": _unit,
    "container": _container,
    "ksym": _ksym,
    "enum": _enum,
    "bool": _enum,
    "rule": _enum,
}

# of what the supervisor tells: whether it has told it, of a field's bytes
_SETTLED: dict[str, Callable[[Kind, bytes], bool]] = {
    "interface": lambda _, data: places.PLACES.settled(_number(data), whole=False),
    "veth": lambda _, data: places.PLACES.settled(_number(data), whole=False),
    "veth_container": lambda _, data: places.PLACES.settled(_number(data)),
    "container": lambda _, data: places.PLACES.settled(_short_id(data)),
    # programs with new rules count before the worker is told of them
    "rule": lambda kind, data: _number(data) < len(kind.values),
}
TOLD = frozenset(_SETTLED)

OF_CGROUPS = ("cgroup", "unit", "container")  # in the kernel they are one: the id of the running task's cgroup
_CGROUP_ID = "{field} = bpf_get_current_cgroup_id();"

SIMPLE = {
    kind.name: kind
    for kind in (
        Kind("comm", "char[16]", 16, 1, False, "bpf_get_current_comm(&{field}, sizeof({field}));"),
        Kind("user", "u32", 4, 4, False, "{field} = (u32)bpf_get_current_uid_gid();"),
        Kind("pid", "u32", 4, 4, False, "{field} = bpf_get_current_pid_tgid() >> 32;"),
        Kind("cpu", "u32", 4, 4, True, "{field} = bpf_get_smp_processor_id();"),
        Kind("errno", "u16", 2, 2, True),
        Kind("interface", "u32", 4, 4, True, merges=True),
        Kind("veth", "u32", 4, 4, False, merges=True),  # names that are made up anew for each container
        Kind("veth_container", "u32", 4, 4, False, merges=True),
        Kind("protocol", "u16", 2, 2, True),
        Kind("u32", "u32", 4, 4, False),
        Kind("u64", "u64", 8, 8, False),
        Kind("s64", "s64", 8, 8, False),
        Kind("ip", "u8[16]", 16, 1, False),
        Kind("bool", "u8", 1, 1, True, values=("false", "true")),
        Kind("rule", "u16", 2, 2, True),
        *(Kind(name, "u64", 8, 8, False, _CGROUP_ID, merges=True) for name in OF_CGROUPS),
        Kind("ksym", "u64", 8, 8, False, merges=True),
    )
}

ALLOWED = f"{', '.join(SIMPLE)}, string(N) with N up to {MAX_STRING}, or a list of names such as [read, write]"


def parse(name: str | Sequence[str]) -> Kind:
    """Returns the kind that a probe's YAML names: a word, ``string(N)``, or the list of an enumeration's values.

    Raises ValueError, with what is allowed, for anything else.
    """
    if isinstance(name, str):
        if name in SIMPLE:
            return SIMPLE[name]
        match = re.fullmatch(r"string\((\d{1,3})\)", name)
        if match and 2 <= int(match[1]) <= MAX_STRING:
            size = int(match[1])
            return Kind("string", f"char[{size}]", size, 1, False)
    elif 0 < len(name) <= 255 and len(set(name)) == len(name):
        return Kind("enum", "u8", 1, 1, True, values=tuple(name))
    raise ValueError(f"{name!r} is no kind of label; allowed: {ALLOWED}")
