# SPDX-License-Identifier: Apache-2.0
"""What BCC compiles against, with no kernel headers installed: a small tree made from the kernel's own BTF.

BCC includes ``include/linux/kconfig.h`` of the tree that BCC_KERNEL_SOURCE names ahead of everything else. Ours
claims the include guard of BCC's ``bpf.h`` and brings in ``vmlinux.h``, all types of the running kernel, in its stead.
Without BTF, BCC finds installed headers by itself.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from exporter import folders
from exporter.errors import HeadersError
from exporter.hooks.btf import Btf

BTF = Path("/sys/kernel/btf/vmlinux")
CACHE = Path("/var/cache/ebpf-exporter")
KEPT_SECONDS = 30 * 24 * 3600.0  # a host that goes back and forth between kernels compiles once for each

# BCC's helpers.h includes them; what they would bring is in vmlinux.h.
_EMPTY = (
    "linux/types.h",
    "linux/bpf_common.h",
    "uapi/linux/bpf.h",
    "uapi/linux/if_packet.h",
    "linux/version.h",
    "linux/log2.h",
    "asm/page.h",
)

# BCC declares all helpers that it knows, by the enumerators of enum bpf_func_id, of which an older kernel's BTF has
# the first ones only. The numbers are ABI: position in this list, plus 136 (include/uapi/linux/bpf.h). 211 is the last:
# newer functions of the kernel are kfuncs.
_FIRST_HELPER = 136
_HELPERS = """
    skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock get_task_stack
    load_hdr_opt store_hdr_opt reserve_hdr_opt inode_storage_get inode_storage_delete d_path copy_from_user snprintf_btf
    seq_printf_btf skb_cgroup_classid redirect_neigh per_cpu_ptr this_cpu_ptr redirect_peer task_storage_get
    task_storage_delete get_current_task_btf bprm_opts_set ktime_get_coarse_ns ima_inode_hash sock_from_file check_mtu
    for_each_map_elem snprintf sys_bpf btf_find_by_name_kind sys_close timer_init timer_set_callback timer_start
    timer_cancel get_func_ip get_attach_cookie task_pt_regs get_branch_snapshot trace_vprintk skc_to_unix_sock
    kallsyms_lookup_name find_vma loop strncmp get_func_arg get_func_ret get_func_arg_cnt get_retval set_retval
    xdp_get_buff_len xdp_load_bytes xdp_store_bytes copy_from_user_task skb_set_tstamp ima_file_hash kptr_xchg
    map_lookup_percpu_elem skc_to_mptcp_sock dynptr_from_mem ringbuf_reserve_dynptr ringbuf_submit_dynptr
    ringbuf_discard_dynptr dynptr_read dynptr_write dynptr_data tcp_raw_gen_syncookie_ipv4 tcp_raw_gen_syncookie_ipv6
    tcp_raw_check_syncookie_ipv4 tcp_raw_check_syncookie_ipv6 ktime_get_tai_ns user_ringbuf_drain cgrp_storage_get
    cgrp_storage_delete
""".split()

_ENUM = re.compile(r"(\benum (?:\w+ )?\{\s*(\w+)[^}]*\})(?! __attribute__)")
_MODES = {1: "QI", 2: "HI"}  # as compilers name integers of so many bytes


def helper(number: int) -> str:
    """Returns the name of one of these helpers, ``bpf_snprintf``; of another its number."""
    at = number - _FIRST_HELPER
    return f"bpf_{_HELPERS[at]}" if 0 <= at < len(_HELPERS) else f"{number}"


def version(release: str) -> tuple[int, int, int]:
    """Returns the numbers of a kernel's release, ``6.1.0-18-amd64``; zeros where it has none."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    major, minor, patch = (int(part or 0) for part in numbers.groups()) if numbers else (0, 0, 0)
    return major, minor, patch


def cache() -> Path:
    """Returns the cache folder, made if need be: root's alone, and no link of somebody else's (CVE-2024-2314).

    Raises HeadersError where the folder is not ours to trust.
    """
    if why := folders.private(CACHE):
        raise HeadersError(why)
    return CACHE


def kernel_id() -> str:
    """Returns what tells this kernel's build from any other: part of the key of everything cached."""
    digest = hashlib.sha256(f"{platform.release()} {platform.version()} {platform.machine()}".encode())
    if BTF.exists():
        digest.update(BTF.read_bytes())
    return digest.hexdigest()[:16]


def prepare() -> str:
    """Makes sure that there is something to compile against.

    Returns a value for BCC_KERNEL_SOURCE: the tree made from BTF, or "" where BCC is to use installed headers.
    Raises HeadersError, saying what to install, where there is neither.
    """
    if not BTF.exists():
        release = platform.release()
        if Path(f"/lib/modules/{release}/build").exists() or Path("/sys/kernel/kheaders.tar.xz").exists():
            return ""
        why = f"this kernel has no BTF ({BTF}): install its headers, linux-headers-{release}"
        if not Path(f"/lib/modules/{release}").exists():  # the unit hides it, as modules are there too
            why += ", and have the service see them: systemctl edit ebpf-exporter, [Service] ProtectKernelModules=no"
        raise HeadersError(why)
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    tree = cache() / f"headers-{kernel_id()}-{recipe}"
    if not tree.exists():
        try:
            _make_whole(tree)
        except OSError as error:
            raise HeadersError(f"cannot write {tree}: {error.strerror}") from error
    with contextlib.suppress(OSError):
        os.utime(tree)
    return str(tree)


def _make_whole(tree: Path) -> None:
    """Makes a tree under another name and renames it: who finds it finds all of it."""
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix="tmp-") as work:
        made = Path(work) / "tree"
        _make(made)
        try:
            made.rename(tree)
        except OSError:
            if not tree.exists():  # else another process was faster, with the same result
                raise
    sweep("headers-*")
    sweep("tmp*")


def sweep(pattern: str) -> None:
    """Removes from the cache what matches a pattern and was not used for a month."""
    for path in cache().glob(pattern):
        try:
            unused = time.time() - path.stat().st_mtime
        except OSError:  # another process was faster
            continue
        if unused < KEPT_SECONDS:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _make(tree: Path) -> None:
    include = tree / "include"
    for name in _EMPTY:
        (include / name).parent.mkdir(parents=True, exist_ok=True)
        (include / name).touch()
    try:
        dump = subprocess.run(
            ["bpftool", "btf", "dump", "file", str(BTF), "format", "c"],
            capture_output=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HeadersError(f"cannot run bpftool: {error}; install the package bpftool") from error
    if dump.returncode:
        raise HeadersError(f"bpftool cannot read {BTF}", dump.stderr.decode(errors="backslashreplace"))
    types = sized(dump.stdout.decode(), dict(Btf.load().sized_enums()))
    (include / "vmlinux.h").write_text(types)
    (include / "linux" / "kconfig.h").write_text(kconfig(types, platform.release()))


def sized(vmlinux: str, sizes: Mapping[str, int]) -> str:
    """Returns types in C whose enums take as many bytes as the kernel's. sizes has those that are no int, by the first
    enumerator. bpftool says nothing of them before 7.2, and what comes after one, in struct inode say, is misplaced."""

    def with_size(found: re.Match[str]) -> str:
        mode = _MODES.get(sizes.get(found[2], 0))
        return found[1] + (f" __attribute__((mode({mode})))" if mode else "")

    return _ENUM.sub(with_size, vmlinux)


def kconfig(vmlinux: str, release: str) -> str:
    """Returns the text of ``linux/kconfig.h``: what BTF does not have, macros, and helpers newer than the kernel."""
    numbers = ",".join(map(str, version(release)))
    known = set(re.findall(r"\bBPF_FUNC_(\w+)\b", vmlinux))
    missing = [
        f"#define BPF_FUNC_{name} {number}\n"
        for number, name in enumerate(_HELPERS, _FIRST_HELPER)
        if name not in known
    ]
    return (
        "#define BPF_NO_PRESERVE_ACCESS_INDEX\n"
        "#define __LINUX_BPF_H__\n#define _UAPI__LINUX_BPF_H__\n"
        f"#define CONFIG_BPF_SYSCALL 1\n#define PAGE_SIZE {os.sysconf('SC_PAGE_SIZE')}\n"
        "#define KERNEL_VERSION(a,b,c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))\n"
        f"#define LINUX_VERSION_CODE KERNEL_VERSION({numbers})\n"
        "#define __always_inline inline __attribute__((always_inline))\n"
        "#define NULL ((void *)0)\n"
        '#include "../vmlinux.h"\n' + "".join(missing)
    )
