# SPDX-License-Identifier: Apache-2.0
"""Which privileges the supervisor needs, and how the worker gives them all up."""

import ctypes
import os
import pwd
import struct
from dataclasses import dataclass
from pathlib import Path

from exporter import libbpf, sandbox
from exporter.child import isolated
from exporter.errors import StartError

USER = "ebpf-exporter"
# Where there is no such user: a number of none. Not nobody's, whose other processes might signal the worker, and count
# with it against limits. Debian keeps it free (policy, 9.2.2); systemd's dynamic users end below.
NUMBER = 65533

# include/uapi/linux/capability.h
_CAP_DAC_READ_SEARCH, _CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_NET_ADMIN, _CAP_SYS_ADMIN = 2, 5, 6, 7, 12, 21
_CAP_PERFMON, _CAP_BPF = 38, 39
_NAMES = {
    _CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
    _CAP_KILL: "CAP_KILL",
    _CAP_SETGID: "CAP_SETGID",
    _CAP_SETUID: "CAP_SETUID",
    _CAP_NET_ADMIN: "CAP_NET_ADMIN",
    _CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
    _CAP_PERFMON: "CAP_PERFMON",
    _CAP_BPF: "CAP_BPF",
}
# to the kernel CAP_SYS_ADMIN is these as well, where BPF programs are loaded (bpf_capable, perfmon_capable)
_WITHIN_SYS_ADMIN = {_CAP_BPF, _CAP_PERFMON, _CAP_NET_ADMIN}

_ALWAYS = {
    _CAP_BPF: "to load BPF programs",
    _CAP_PERFMON: "to attach them",
    _CAP_SETUID: "to give the worker another user",
    _CAP_SETGID: "to give the worker another group",
    _CAP_KILL: "to end the worker",
}
# Debian's kernels ask for it above 2, and have 3; others take CAP_PERFMON for any number
_PERF_EVENTS = {_CAP_SYS_ADMIN: "for perf events, where kernel.perf_event_paranoid is above 2"}
# the first: the perf PMUs, since the fix of CVE-2025-38466 in 5.15.189, 6.1.146, 6.6.99 and 6.12.39
_UPROBES = {_CAP_SYS_ADMIN: "to attach uprobes", _CAP_DAC_READ_SEARCH: "to read programs in closed folders"}
_INTERFACES = {_CAP_NET_ADMIN: "to attach to interfaces"}
# what a family of hooks may want besides; where it is missing, that family's probes fail
_OF_FAMILY = {
    **dict.fromkeys(("kprobe", "kretprobe", "profile", "software", "hardware"), _PERF_EVENTS),
    "tracepoint": {**_PERF_EVENTS, _CAP_DAC_READ_SEARCH: "to read tracefs"},
    **dict.fromkeys(("uprobe", "uretprobe", "usdt"), _UPROBES),
    **dict.fromkeys(("tc", "xdp"), _INTERFACES),
}

_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 8, 24, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def require() -> None:
    """Raises StartError, naming it, where a capability is missing without which nothing runs."""
    missing = [f"{_NAMES[capability]} ({why})" for capability, why in sorted(_ALWAYS.items()) if not _has(capability)]
    if missing:
        who = "run it as root" if os.geteuid() else "this root is a restricted one"
        raise StartError(f"lacks {', '.join(missing)}: {who}")


def lacking(family: str) -> str:
    """Returns the end of a message of what was refused at a hook: the capabilities that are missing, if any are."""
    wanted = _OF_FAMILY.get(family, {})
    missing = [f"{_NAMES[capability]} ({why})" for capability, why in wanted.items() if not _has(capability)]
    return f": lacks {', '.join(missing)}" if missing else ""


def _has(capability: int) -> bool:
    held = _effective()
    wanted = {capability, _CAP_SYS_ADMIN} if capability in _WITHIN_SYS_ADMIN else {capability}
    return any(held >> one & 1 for one in wanted)


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def worker_ids() -> tuple[int, int]:
    """Returns the uid and gid of the worker: those of the user ebpf-exporter if there is one, else a number of none."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        return NUMBER, NUMBER
    return entry.pw_uid, entry.pw_gid


@dataclass(frozen=True)
class WorkerRights:
    """What a worker keeps: CAP_BPF or no capability, and of the system calls those that a filter allows."""

    keep_bpf: bool
    filter: bytes


def worker_rights(map_fd: int) -> WorkerRights:
    """Returns what a worker needs on this kernel to read maps; map_fd is of any. Raises StartError."""
    allowed = isolated(sandbox.program)
    assert isinstance(allowed, bytes)
    return WorkerRights(_maps_need_bpf(map_fd), allowed)


def drop(keep_bpf: bool) -> None:
    """Gives up root and every capability, for good. keep_bpf keeps CAP_BPF alone, for kernels before 5.19."""
    uid, gid = worker_ids()
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if not (keep_bpf and capability == _CAP_BPF):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # without CAP_SETPCAP the next lines have to do
    if keep_bpf:
        _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = 1 << _CAP_BPF if keep_bpf else 0
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)):
        raise StartError(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _maps_need_bpf(map_fd: int) -> bool:
    """Whether this kernel refuses a map's content to a process without CAP_BPF, as it did before 5.19; by trial."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            drop(keep_bpf=False)
            libbpf.map_lookup(map_fd, bytes(4), 4)
            code = 0
        except PermissionError:
            code = 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) != 0
