# SPDX-License-Identifier: Apache-2.0
"""perf_event_open(2), which the C library has no function for: the only place that knows its number and structure."""

import ctypes
import errno
import os
import platform
import struct

TYPE_HARDWARE, TYPE_SOFTWARE, TYPE_TRACEPOINT = 0, 1, 2
DISABLED, EXCLUDE_KERNEL, FREQUENCY = 1 << 0, 1 << 5, 1 << 10  # the last: period is a rate in Hz

_NUMBER = {"x86_64": 298, "aarch64": 241}
_FLAG_FD_CLOEXEC = 8
_ATTRIBUTES = struct.Struct("<IIQQQQQIIQQ")  # struct perf_event_attr up to config2
_ATTRIBUTES_SIZE = 112  # PERF_ATTR_SIZE_VER5

_libc = ctypes.CDLL(None, use_errno=True)


def event_open(
    kind: int, config: int, pid: int, cpu: int, *, period: int = 1, config1: int = 0, config2: int = 0, flags: int = 0
) -> int:
    """Opens a perf event, for a process or (pid -1) for all on a CPU. Returns its descriptor.

    Raises OSError: ENOENT where no PMU has such an event, EACCES where kernel.perf_event_paranoid forbids it, ENOSYS
    where the number of the system call is not known.
    """
    number = _NUMBER.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"perf events are not known for {platform.machine()}")
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_SIZE)
    _ATTRIBUTES.pack_into(attributes, 0, kind, _ATTRIBUTES_SIZE, config, period, 0, 0, flags, 1, 0, config1, config2)
    fd = _libc.syscall(number, attributes, pid, cpu, -1, _FLAG_FD_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(fd)
