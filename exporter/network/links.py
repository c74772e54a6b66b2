# SPDX-License-Identifier: Apache-2.0
"""Programs that a link holds on an interface: XDP, and TC where the kernel has TCX. Who closes the link detaches."""

import errno
import os
from dataclasses import dataclass

from exporter import libbpf

_XDP_MODES = {"native": libbpf.XDP_FLAGS_DRV_MODE, "generic": libbpf.XDP_FLAGS_SKB_MODE}
_TCX = {"ingress": libbpf.ATTACH_TCX_INGRESS, "egress": libbpf.ATTACH_TCX_EGRESS}
# what drivers answer that have no XDP, or none for frames as long as the interface's
_NATIVE = {
    errno.EOPNOTSUPP: "its driver has no XDP",
    errno.ERANGE: "its MTU, or its peer's, is too large for XDP in the driver",
}


class Busy(OSError):
    """What is on the interface is another's and never replaced."""


@dataclass(frozen=True)
class Link:
    """A program on an interface, held there by a descriptor.

    mode is native, generic or tcx; why says of what is not native though it might be why it is not.
    """

    interface: str
    mode: str
    fd: int
    why: str = ""

    def is_on(self, index: int) -> bool:
        """Whether it still is on this interface: an index may have come back as another's, or somebody detached it."""
        return libbpf.link_ifindex(self.fd) == index

    def swap(self, program: int) -> None:
        """Puts another program in its place, at once."""
        libbpf.link_update(self.fd, program)

    def release(self) -> None:
        os.close(self.fd)


def attach_xdp(program: int, index: int, interface: str, mode: str) -> Link:
    """Attaches XDP in the config's mode; auto is native where the driver can, else generic. Raises OSError, Busy."""
    wanted = [mode] if mode in _XDP_MODES else list(_XDP_MODES)
    why = ""
    for name in wanted:
        try:
            return Link(interface, name, libbpf.link_create(program, index, libbpf.ATTACH_XDP, _XDP_MODES[name]), why)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EEXIST):
                raise Busy(error.errno, "another XDP program is on it and is left there") from error
            why = _NATIVE.get(error.errno or 0, str(error.strerror)) if name == "native" else str(error.strerror)
            if name == wanted[-1]:
                raise OSError(error.errno, why) from error
    raise AssertionError("no mode")  # wanted is never empty


def offers_tcx(program: int) -> bool:
    """Whether this kernel has TCX (6.6, e420bed02507, bpf: Add fd-based tcx multi-prog infra with link support).

    Asked to attach to interface 0, a kernel that knows the attach type says that there is none such.
    """
    try:
        os.close(libbpf.link_create(program, 0, libbpf.ATTACH_TCX_INGRESS))
    except OSError as error:
        return error.errno == errno.ENODEV
    return True


def attach_tcx(program: int, index: int, interface: str, direction: str) -> Link:
    """Attaches TC ahead of all programs that are there; they run after it. Raises OSError, Busy."""
    try:
        return Link(interface, "tcx", libbpf.link_create(program, index, _TCX[direction], libbpf.F_BEFORE))
    except OSError as error:
        if error.errno == errno.ERANGE:  # BPF_MPROG_MAX
            raise Busy(error.errno, f"there are as many programs at its {direction} as the kernel takes") from error
        raise
