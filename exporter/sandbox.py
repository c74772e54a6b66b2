# SPDX-License-Identifier: Apache-2.0
"""What the worker may ask of the kernel: a seccomp filter for the process that strangers talk to.

It reads files, reads maps and answers on sockets that it was given; nothing else is there for it. No file is opened for
writing, made, renamed or removed. Nothing is executed, no process is made, looked into or signalled, no connection
made, no memory both written and executed. No BPF program or map is made or found by its number, not even where the
worker has CAP_BPF. This holds on every kernel, with systemd or without.

What is not allowed does not exist (ENOSYS): a C library that tries a newer call first then takes the older one.
"""

import ctypes
import errno
import mmap
import os
import socket
from typing import Any

from exporter import libbpf
from exporter.errors import StartError

_PR_GET_SECCOMP, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 21, 22, 2
_BINARY_TREE = 2  # seccomp_attr_set(3): a binary tree in place of a list
_INSTRUCTION = 8  # bytes: struct sock_filter

_ALWAYS = """
    read readv pread64 lseek close write writev fstat newfstatat fstatat64 stat lstat statx access faccessat faccessat2
    readlink readlinkat getcwd getdents64 fcntl dup pipe2

    accept accept4 listen recvfrom recvmsg shutdown getsockname getpeername getsockopt setsockopt
    epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6

    brk munmap mremap madvise futex sched_yield sched_getaffinity rseq set_robust_list
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall exit exit_group

    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getrandom
    getpid gettid getppid getuid geteuid getgid getegid uname sysinfo getrusage
""".split()

_BPF_COMMANDS = (
    libbpf.CMD_MAP_LOOKUP_ELEM,
    libbpf.CMD_MAP_UPDATE_ELEM,
    libbpf.CMD_OBJ_GET_INFO_BY_FD,
    libbpf.CMD_MAP_LOOKUP_AND_DELETE_BATCH,
)

# include/uapi/asm-generic/ioctls.h; not TIOCSTI, which types at the terminal that the exporter was started from
_TCGETS, _FIONBIO, _FIONREAD, _FIONCLEX, _FIOCLEX = 0x5401, 0x5421, 0x541B, 0x5450, 0x5451
_SIOCGIFNAME = 0x8910  # include/uapi/linux/sockios.h
_IOCTLS = (_TCGETS, _FIONBIO, _FIONREAD, _FIONCLEX, _FIOCLEX, _SIOCGIFNAME)

_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC  # O_RDONLY is none of these bits
_CLONE_THREAD = 0x10000
_PR_SET_NAME = 15


def program() -> bytes:
    """Returns the filter, for ``enter``. Raises StartError. Run in a process that ends: libseccomp has 0.8 MB."""
    try:
        import seccomp
    except ImportError as error:
        raise StartError(f"cannot import seccomp: {error}; install the package python3-seccomp") from error
    if ctypes.CDLL(None).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) < 0:
        raise StartError("this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER) for the process on the network")
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    rules.set_attr(seccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for name in _ALWAYS:
        rules.add_rule(seccomp.ALLOW, name)
    for name, *arguments in _conditional(seccomp):
        rules.add_rule(seccomp.ALLOW, name, *arguments)
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _conditional(seccomp: Any) -> list[tuple[Any, ...]]:
    """Returns calls that are allowed with some arguments only; of several lines for one call, each allows it."""

    def lacks(position: int, bits: int) -> Any:
        return seccomp.Arg(position, seccomp.MASKED_EQ, bits, 0)

    def equals(position: int, value: int) -> Any:
        return seccomp.Arg(position, seccomp.EQ, value)

    return [
        ("open", lacks(1, _WRITING)),
        ("openat", lacks(2, _WRITING)),
        ("mmap", lacks(2, mmap.PROT_WRITE)),
        ("mmap", lacks(2, mmap.PROT_EXEC)),
        ("mprotect", lacks(2, mmap.PROT_EXEC)),
        # to whom the socket is connected; sendmsg(2), whose address a filter can't look at, is for nobody
        ("sendto", equals(4, 0)),
        ("socketpair", equals(0, socket.AF_UNIX)),
        # what if_indextoname(3) asks by; as it can neither be connected nor send to an address it leads nowhere
        ("socket", equals(0, socket.AF_UNIX), equals(1, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)),
        ("clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)),
        ("prctl", equals(0, _PR_SET_NAME)),
        *(("bpf", equals(0, command)) for command in _BPF_COMMANDS),
        *(("ioctl", equals(1, request)) for request in _IOCTLS),
    ]


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def enter(filter_: bytes) -> None:
    """Puts this process, which must have no_new_privs, under a filter, for good. Raises StartError."""
    libc = ctypes.CDLL(None, use_errno=True)
    whole = _Program(len(filter_) // _INSTRUCTION, filter_)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0):
        raise StartError(f"cannot enter the sandbox: {os.strerror(ctypes.get_errno())}")
