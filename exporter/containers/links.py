# SPDX-License-Identifier: Apache-2.0
"""The links of this network namespace, and into which others they lead: rtnetlink(7).

A veth's other end in another network namespace is known by that namespace's number here, its nsid (IFLA_LINK_NETNSID;
commit d37512a277df, "rtnl: add link netns id to interface messages", 4.0). The kernel gives a namespace its number when
such a link is first told of, and gives it to another when the namespace has ended. Of a process, or of a descriptor of
/run/netns/NAME, it tells the number too (RTM_GETNSID): of any process, to anybody.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from exporter import netlink

_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_DELNSID, _RTM_GETNSID = 89, 90
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID, _IFLA_NEW_NETNSID = 3, 18, 29, 37, 45
_IFLA_INFO_KIND = 1
_NETNSA_NSID, _NETNSA_PID, _NETNSA_FD = 1, 2, 3
_RTEXT_FILTER_SKIP_STATS = 8
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _RTNLGRP_LINK, _RTNLGRP_NSID = 270, 1, 1, 28

_PAIRS = (b"veth", b"netkit")  # kinds of link that are one of two ends


@dataclass(frozen=True)
class Link:
    """A link that is here. peer is the number of the network namespace at its other end; None if that is this one."""

    index: int
    name: str
    peer: int | None


@dataclass(frozen=True)
class Gone:
    """There is no link of this index any more."""

    index: int


@dataclass(frozen=True)
class Ended:
    """The network namespace of this number has ended."""

    namespace: int


class Links:
    """Readable (``fileno``) when there are ``changes``."""

    def __init__(self) -> None:
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._events.bind((0, 0))  # what has no port of its own is told nothing
        for group in (_RTNLGRP_LINK, _RTNLGRP_NSID):
            self._events.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        self._requests = netlink.Requests()
        self._known: set[int] = set()
        self._lost = True  # what is here is still to be asked

    def fileno(self) -> int:
        return self._events.fileno()

    def close(self) -> None:
        self._events.close()
        self._requests.close()

    def changes(self) -> Iterator[Link | Gone | Ended]:
        """Yields what came, went or changed, in order; at first all links."""
        while True:
            try:
                data = self._events.recv(netlink.BUFFER)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost = True
                continue
            for kind, _, body in netlink.messages(data):
                if (change := self._change(kind, body)) is not None:
                    yield change
        if self._lost:
            yield from self._all()

    def _change(self, kind: int, body: bytes) -> Link | Gone | Ended | None:
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and body[0] != socket.AF_UNSPEC:
            return None  # AF_BRIDGE: it became a port of a bridge, or is one no longer
        if kind == _RTM_NEWLINK:
            link = _link(body)
            self._known.add(link.index)
            return link
        if kind == _RTM_DELLINK:
            # of the end that stays when the other one goes into another namespace nothing is told
            self._lost |= _IFLA_NEW_NETNSID in netlink.attributes(body[_IFINFO.size :])
            self._known.discard(_IFINFO.unpack_from(body)[2])
            return Gone(_IFINFO.unpack_from(body)[2])
        if kind == _RTM_DELNSID and (number := _nsid(body)) is not None:
            return Ended(number)
        return None

    def _all(self) -> Iterator[Link | Gone]:
        self._lost = False
        mask = netlink.attribute(_IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))
        found = list(map(_link, self._requests.dump(_RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + mask)))
        gone = self._known - {link.index for link in found}
        self._known = {link.index for link in found}
        yield from map(Gone, gone)
        yield from found

    def namespace_of_process(self, pid: int) -> int | None:
        """Returns the number of a process's network namespace; None where it has none, as this one, or has ended."""
        return self._namespace(_NETNSA_PID, pid)

    def namespace_of_file(self, fd: int) -> int | None:
        """Returns the number of a network namespace; None where it has none, or this is another file."""
        return self._namespace(_NETNSA_FD, fd)

    def _namespace(self, kind: int, value: int) -> int | None:
        question = bytes(4) + netlink.attribute(kind, struct.pack("=I", value))  # struct rtgenmsg, padded
        try:
            return _nsid(self._requests.get(_RTM_GETNSID, question))
        except OSError:  # it has ended, or is no network namespace
            return None


def _link(body: bytes) -> Link:
    index = _IFINFO.unpack_from(body)[2]
    attributes = netlink.attributes(body[_IFINFO.size :])
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "backslashreplace")
    kind = netlink.attributes(attributes.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")
    peer = None
    if _IFLA_LINK_NETNSID in attributes and kind.rstrip(b"\0") in _PAIRS:
        peer = struct.unpack("=i", attributes[_IFLA_LINK_NETNSID])[0]
    return Link(index, name, peer)


def _nsid(body: bytes) -> int | None:
    """Returns the number in a message of a namespace; None where it has none (NETNSA_NSID_NOT_ASSIGNED, -1)."""
    value = netlink.attributes(body[4:]).get(_NETNSA_NSID)
    number = struct.unpack("=i", value)[0] if value is not None else -1
    return number if number >= 0 else None
