# SPDX-License-Identifier: Apache-2.0
"""What tc(8) does, as far as it is needed: the qdisc clsact of an interface, and the BPF filters on it.

Changes go through libbpf, dumps through netlink. Every function raises OSError with the kernel's errno.
"""

import ctypes
import struct
import sys
from dataclasses import dataclass

from exporter import netlink
from exporter.libbpf import checked

INGRESS, EGRESS = 1, 2  # enum bpf_tc_attach_point
_PARENTS = {INGRESS: 0xFFFFFFF2, EGRESS: 0xFFFFFFF3}  # TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS
_CLSACT_PARENT = 0xFFFFFFF1

_RTM_GETQDISC, _RTM_GETTFILTER = 38, 46
_TCMSG = struct.Struct("=B3xiIII")  # struct tcmsg: family, interface, handle, parent, info
_TCA_KIND, _TCA_OPTIONS, _TCA_BPF_NAME, _TCA_BPF_ID = 1, 2, 7, 11

_lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
for _function in (_lib.bpf_tc_hook_create, _lib.bpf_tc_hook_destroy):
    _function.argtypes = [ctypes.c_void_p]
for _function in (_lib.bpf_tc_attach, _lib.bpf_tc_detach):
    _function.argtypes = [ctypes.c_void_p, ctypes.c_void_p]


class _Hook(ctypes.Structure):
    """struct bpf_tc_hook."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    ]


class _Opts(ctypes.Structure):
    """struct bpf_tc_opts."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    ]


@dataclass(frozen=True)
class Filter:
    """A filter, or what carries filters, on a clsact. handle is 0 for the latter.

    name and program are of a BPF filter: ``ebpf_exporter:[7]`` and 7; else "" and 0.
    """

    handle: int
    priority: int
    name: str = ""
    program: int = 0


def qdisc(ifindex: int) -> str:
    """Returns which qdisc an interface has for filters at its ingress: ``clsact``, ``ingress`` or "" for none."""
    return qdiscs().get(ifindex, "")


def qdiscs() -> dict[int, str]:
    """Returns for each interface that has one its qdisc for filters at its ingress: ``clsact`` or ``ingress``."""
    found: dict[int, str] = {}
    for message in netlink.dump(_RTM_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0)):
        _, index, _, parent, _ = _TCMSG.unpack_from(message)
        if parent == _CLSACT_PARENT:  # of ingress as well: TC_H_INGRESS is the same
            found[index] = _text(netlink.attributes(message[_TCMSG.size :]).get(_TCA_KIND, b""))
    return found


def listed(ifindex: int, point: int) -> list[Filter]:
    """Returns the filters at a point of an interface, whosever they are."""
    question = _TCMSG.pack(0, ifindex, 0, _PARENTS[point], 0)
    return [_filter(message) for message in netlink.dump(_RTM_GETTFILTER, question)]


def _filter(message: bytes) -> Filter:
    _, _, handle, _, info = _TCMSG.unpack_from(message)
    about = netlink.attributes(message[_TCMSG.size :])
    if _text(about.get(_TCA_KIND, b"")) != "bpf":
        return Filter(handle, info >> 16)
    options = netlink.attributes(about.get(_TCA_OPTIONS, b""))
    number = int.from_bytes(options.get(_TCA_BPF_ID, b""), sys.byteorder)
    return Filter(handle, info >> 16, _text(options.get(_TCA_BPF_NAME, b"")), number)


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def create_clsact(ifindex: int) -> None:
    """Gives an interface a clsact; raises FileExistsError where it has one, or ingress."""
    checked(_lib.bpf_tc_hook_create(_hook(ifindex, INGRESS | EGRESS)), "clsact")


def destroy_clsact(ifindex: int) -> None:
    """Takes an interface's clsact away, with all filters that are on it."""
    checked(_lib.bpf_tc_hook_destroy(_hook(ifindex, INGRESS | EGRESS)), "clsact")


def attach(program: int, ifindex: int, point: int, handle: int, priority: int) -> None:
    """Makes a program a filter in direct action; raises FileExistsError where there is one so numbered."""
    opts = _Opts(ctypes.sizeof(_Opts), prog_fd=program, handle=handle, priority=priority)
    checked(_lib.bpf_tc_attach(_hook(ifindex, point), ctypes.byref(opts)), "filter")


def detach(ifindex: int, point: int, handle: int, priority: int) -> None:
    """Takes a filter away, whosever it is."""
    opts = _Opts(ctypes.sizeof(_Opts), handle=handle, priority=priority)
    checked(_lib.bpf_tc_detach(_hook(ifindex, point), ctypes.byref(opts)), "filter")


def _hook(ifindex: int, point: int) -> "ctypes._CArgObject":
    return ctypes.byref(_Hook(ctypes.sizeof(_Hook), ifindex, point))
