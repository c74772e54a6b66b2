# SPDX-License-Identifier: Apache-2.0
"""What is made and removed in folders: inotify(7)."""

import ctypes
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x80, 0x100, 0x200
IN_Q_OVERFLOW, IN_ISDIR = 0x4000, 0x40000000
_IN_ONLYDIR, _IN_DONT_FOLLOW = 0x1000000, 0x2000000
_EVENT = struct.Struct("=iIII")  # struct inotify_event: watch, mask, cookie, bytes of the name
_BUFFER = 1 << 16  # bytes

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Event:
    """What happened in a folder, or to a file, by its watch; name is in the folder. Of an overflow, watch is -1."""

    watch: int
    mask: int
    name: bytes


class Inotify:
    """Readable (``fileno``) when there are ``events``."""

    def __init__(self) -> None:
        """Raises OSError where there are too many already (EMFILE)."""
        # a file, so that nothing stays open where this could not be put to use
        self._file = io.FileIO(_checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)))

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def folder(self, path: bytes, mask: int = IN_CREATE) -> int:
        """Watches a folder. Returns its watch; raises OSError: it is gone, is none, or there are too many (ENOSPC)."""
        return _checked(_libc.inotify_add_watch(self.fileno(), path, mask | _IN_ONLYDIR | _IN_DONT_FOLLOW))

    def file(self, path: bytes) -> int:
        """Watches a file for changes. Returns its watch, as ``folder``."""
        return _checked(_libc.inotify_add_watch(self.fileno(), path, IN_MODIFY | _IN_DONT_FOLLOW))

    def forget(self, watch: int) -> None:
        """Ends a watch. Of cgroups that were removed the kernel ends none (kernfs), and would keep their inodes."""
        _libc.inotify_rm_watch(self.fileno(), watch)

    def events(self) -> Iterator[Event]:
        """Yields all that has happened since the last call."""
        while True:
            data = self._file.read(_BUFFER)
            if data is None:  # no more
                return
            at = 0
            while at < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                yield Event(watch, mask, data[at : at + length].rstrip(b"\0"))
                at += length


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
