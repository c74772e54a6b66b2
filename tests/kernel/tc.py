# SPDX-License-Identifier: Apache-2.0
"""What tests of TC share: programs of others, what is on an interface, and an exporter on a kernel without TCX."""

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Sequence

import pytest

from exporter import libbpf
from exporter.network import filters as filters_
from exporter.network import links
from tests.kernel.conftest import lacks
from tests.kernel.daemon import ROOT

NEXT, PASS = -1, 0  # what programs return: TC_ACT_UNSPEC, TC_ACT_OK
INGRESS, EGRESS = libbpf.ATTACH_TCX_INGRESS, libbpf.ATTACH_TCX_EGRESS

# the exporter as it is where the kernel says that it has no TCX
WITHOUT_TCX = (
    "/usr/bin/python3",
    "-c",
    f"import sys; sys.argv = sys.argv[1:]; sys.path.insert(0, {str(ROOT)!r})\n"
    "from exporter.network import links\n"
    "links.offers_tcx = lambda program: False\n"
    "from exporter.cli import main\n"
    "main()",
)

_libbpf = ctypes.CDLL("libbpf.so.1")


def program(answer: int, name: str = "other") -> int:
    """Loads a program that is not the exporter's, which returns a number."""
    code = struct.pack("<BBhiBBhi", 0xB7, 0, 0, answer, 0x95, 0, 0, 0)
    return libbpf.prog_load(libbpf.PROG_TYPE_SCHED_CLS, name, code)


def has_tcx() -> bool:
    fd = program(NEXT)
    try:
        return links.offers_tcx(fd)
    finally:
        os.close(fd)


def needs_tcx() -> None:
    if not has_tcx():
        lacks("tcx", "this kernel has no TCX")


@pytest.fixture(params=["tcx", "clsact"])
def way(request: pytest.FixtureRequest) -> Sequence[str]:
    """Both ways to hold TC on an interface; what a daemon is to be started with to take this one."""
    if request.param == "tcx":
        needs_tcx()
        return ()
    return WITHOUT_TCX


def on_tcx(interface: str, point: int) -> list[int]:
    """Returns the numbers of the programs that TCX runs at a point of an interface, in their order."""
    numbers, count = (ctypes.c_uint32 * 64)(), ctypes.c_uint32(64)
    index = socket.if_nametoindex(interface)
    result = _libbpf.bpf_prog_query(index, point, 0, None, numbers, ctypes.byref(count))
    assert result == 0, os.strerror(-result)
    return list(numbers[: count.value])


def tc(*words: str) -> str:
    """Runs tc; returns what it prints."""
    return subprocess.run(["tc", *words], check=True, capture_output=True, text=True).stdout


def shown(interface: str) -> str:
    """Returns what tc shows of an interface's qdiscs, and of its filters with their statistics."""
    parts = [tc("qdisc", "show", "dev", interface)]
    return "\n".join(parts + [tc("-s", "filter", "show", "dev", interface, point) for point in ("ingress", "egress")])


def filters(interface: str, point: str) -> list[filters_.Filter]:
    """Returns the BPF filters at a point of an interface, in their order."""
    numbers = {"ingress": filters_.INGRESS, "egress": filters_.EGRESS}
    return [one for one in filters_.listed(socket.if_nametoindex(interface), numbers[point]) if one.program]
