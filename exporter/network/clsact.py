# SPDX-License-Identifier: Apache-2.0
"""TC on kernels without TCX: a filter on the qdisc clsact, which the kernel keeps until it is told otherwise.

So that nothing of ours acts without us, a filter has no more than an entry: a program that jumps to the one that is
meant, by a table that this process alone holds. When the process ends, by kill -9 too, the kernel empties the table
(c9da161c6517, bpf: fix clearing on persistent program array maps): the entry passes every packet, and by its empty
table the next start knows it as one to be taken away.
"""

import contextlib
import errno
import os
import struct
from dataclasses import dataclass

from exporter import libbpf
from exporter.network import filters, interfaces
from exporter.network.filters import Filter
from exporter.network.links import Busy

NAME = "ebpf_exporter"  # of entries and their tables
HANDLE = 0xEBFE0000  # of filters; with MADE where the clsact is ours
MADE = 1
_POINTS = {"ingress": filters.INGRESS, "egress": filters.EGRESS}
_FIRST = bytes(4)
_LAST_PRIORITY = 0xFFFF


def _jump(table: int) -> bytes:
    """bpf_tail_call(ctx, table, 0); and where that has nothing to jump to: return TC_ACT_UNSPEC, let others decide."""
    return (
        struct.pack("<BBhi", 0x18, 0x12, 0, table)  # r2 = table
        + bytes(8)
        + struct.pack("<BBhi", 0xB7, 3, 0, 0)  # r3 = 0
        + struct.pack("<BBhi", 0x85, 0, 0, 12)  # call bpf_tail_call
        + struct.pack("<BBhi", 0xB7, 0, 0, -1)  # r0 = -1
        + struct.pack("<BBhi", 0x95, 0, 0, 0)  # exit
    )


class Entry:
    """A program that jumps to another for as long as this object's descriptors are open. fd is the program."""

    def __init__(self, program: int) -> None:
        self._table = libbpf.map_create(libbpf.MAP_TYPE_PROG_ARRAY, NAME, 4, 4, 1)
        self.fd = libbpf.prog_load(libbpf.PROG_TYPE_SCHED_CLS, NAME, _jump(self._table))
        self.number = libbpf.program_identity(self.fd).id
        self._to = os.dup(program)
        self._jump_there()

    def _jump_there(self) -> None:
        libbpf.map_update(self._table, _FIRST, struct.pack("=I", self._to))

    def take_over(self, other: "Entry") -> None:
        """Makes it jump to where another does, at once; that other is closed."""
        os.dup2(other._to, self._to, inheritable=False)
        self._jump_there()
        other.close()

    def close(self) -> None:
        for fd in (self._table, self.fd, self._to):
            os.close(fd)


@dataclass(frozen=True)
class Attached:
    """A filter with an entry of ours on an interface."""

    interface: str
    index: int
    point: int
    filter: Filter
    mode: str = "clsact"
    why: str = ""

    def is_on(self, index: int) -> bool:
        """Whether it still is on this interface: its qdisc is gone where it was moved to another namespace."""
        return index == self.index and self.filter in filters.listed(self.index, self.point)

    def swap(self, program: int) -> None:
        """All filters of an entry have another program when that has it."""

    def release(self) -> None:
        """Takes the filter away, and the clsact where it is ours and carries nothing else."""
        with contextlib.suppress(OSError):  # the interface is gone, and all of it with it
            if self.is_on(self.index):
                _take_away(self.index, self.point, self.filter)


def attach(entry: Entry, index: int, interface: str, direction: str) -> Attached:
    """Makes an entry a filter, at the lowest preference that is free. Raises OSError, Busy."""
    point = _POINTS[direction]
    made = _ensure_clsact(index)
    there = filters.listed(index, point)
    taken = {one.priority for one in there}
    priority = next(number for number in range(1, _LAST_PRIORITY) if number not in taken)
    ours = Filter(HANDLE | made, priority, f"{NAME}:[{entry.number}]", entry.number)
    try:
        filters.attach(entry.fd, index, point, ours.handle, priority)
    except OSError:
        if made:
            _tidy(index)
        raise
    return Attached(interface, index, point, ours)


def _ensure_clsact(index: int) -> int:
    """Gives an interface a clsact if it has none. Returns MADE if it is ours, 0 if another's."""
    try:
        filters.create_clsact(index)
    except FileExistsError:
        # with ingress alone, a filter for the egress would be one more at the ingress
        if filters.qdisc(index) != "clsact":
            raise Busy(errno.EBUSY, "another's qdisc ingress is on it and is left there; clsact has no room") from None
        return MADE if any(_is_named_ours(one) and one.handle & MADE for one in _all(index)) else 0
    except FileNotFoundError as error:
        raise OSError(error.errno, "this kernel has no clsact (CONFIG_NET_SCH_INGRESS)") from error
    return MADE


def sweep() -> list[str]:
    """Takes away the filters that an exporter which was killed has left on this host. Returns their interfaces."""
    swept: list[str] = []
    for index, kind in filters.qdiscs().items():
        with contextlib.suppress(OSError):  # the interface is gone, or another sweeps as well
            left = [
                (point, one)
                for point in (_POINTS.values() if kind == "clsact" else ())
                for one in filters.listed(index, point)
                if _is_named_ours(one) and _is_left_over(one)
            ]
            for point, one in left:
                _take_away(index, point, one)
            if left:
                swept.append(interfaces.named(index))
    return swept


def _is_named_ours(one: Filter) -> bool:
    return one.handle | MADE == HANDLE | MADE and one.name == f"{NAME}:[{one.program}]"


def _is_left_over(one: Filter) -> bool:
    """Whether a filter's program is an entry of ours whose table nobody holds."""
    with contextlib.ExitStack() as opened:

        def keep(fd: int) -> int:
            opened.callback(os.close, fd)
            return fd

        try:
            program = libbpf.program_identity(keep(libbpf.program_by_id(one.program)))
            if program.name != NAME or len(program.maps) != 1:
                return False
            table = keep(libbpf.map_by_id(program.maps[0]))
            if libbpf.map_identity(table) != libbpf.MapIdentity(libbpf.MAP_TYPE_PROG_ARRAY, NAME, 1):
                return False
        except OSError:  # it is gone, or we may not look
            return False
        try:
            libbpf.map_lookup(table, _FIRST, 4)
        except FileNotFoundError:
            return True
        return False


def _take_away(index: int, point: int, one: Filter) -> None:
    filters.detach(index, point, one.handle, one.priority)
    if one.handle & MADE:
        _tidy(index)


def _tidy(index: int) -> None:
    """Takes away a clsact of ours that carries nothing."""
    if not _all(index):
        filters.destroy_clsact(index)


def _all(index: int) -> list[Filter]:
    return [one for point in _POINTS.values() for one in filters.listed(index, point)]
