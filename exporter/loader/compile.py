# SPDX-License-Identifier: Apache-2.0
"""C to bytecode with BCC. The only import of ``bcc``, and only in a process that ends soon: it takes 130 MB."""

import ctypes
import os
import re
from pathlib import Path
from typing import Any

from exporter.errors import CompileError
from exporter.libraries import PACKAGES
from exporter.loader.bytecode import Bytecode, Map, relocate

_FLAGS = [
    "-Wno-macro-redefined",
    "-Wno-unused-function",
    "-Wno-address-of-packed-member",
    "-Wno-unknown-attributes",
    "-Wno-incompatible-pointer-types-discards-qualifiers",
    # Since 6.19 the kernel has structs in structs as Microsoft's compiler knows them, `struct { struct tagged; }`: in
    # its headers and in what bpftool makes of its BTF. Without the first such a member is dropped, and what comes
    # after it has another offset. BCC says so itself from 0.37 on (c3f35ecc).
    "-fms-extensions",
    "-Wno-microsoft-anon-tag",
    # BCC compiles for this host's processor first, and that for BPF, which aligns 128 bits to 16 bytes and not to 8. Of
    # what bpftool pads with, bit fields of 64 bits, clang would make a number of 128 and more; what comes after it then
    # has another offset (the times of 5.10's task_struct: by 16 bytes). So each is to be a number by itself.
    "-ffine-grained-bitfield-accesses",
]

OLDEST = (0, 26)  # what this was made for and is tested with: Debian 12's


def compile_source(name: str, text: str, kernel_source: str, folder: Path | None = None) -> Bytecode:
    """Compiles a probe's whole C. kernel_source is what ``headers.prepare`` returned; folder is where the probe's own
    headers are, those that are included in quotation marks. The working directory is / meanwhile.

    Raises CompileError. What the compiler says goes to descriptor 2, also where BCC then crashes (0.26 does, on some
    errors in C that declares maps): who started this process keeps it.
    """
    if kernel_source:
        os.environ["BCC_KERNEL_SOURCE"] = kernel_source
    else:
        os.environ.pop("BCC_KERNEL_SOURCE", None)
    try:
        from bcc import BPF, __version__
        from bcc.libbcc import lib
    except (ImportError, OSError) as error:  # the latter for its library in C
        package = PACKAGES["bcc"]
        raise CompileError(f"cannot import bcc: {error}; install the package {package}") from error
    if too_old(__version__):
        oldest = ".".join(map(str, OLDEST))
        raise CompileError(f"BCC {__version__} is too old: install {PACKAGES['bcc']} {oldest} or later")

    class Module(BPF):  # type: ignore[misc]  # untyped
        def _trace_autoload(self) -> None:
            """BCC would load and attach what is named tracepoint__…; here that is the next step's work."""

    flags = list(_FLAGS)
    if "__sync_val_compare_and_swap" in text:
        flags.append("-mcpu=v3")
    if folder:
        flags += ["-iquote", _in_utf8(folder.absolute())]
    before = os.open(".", os.O_PATH)
    os.chdir("/")  # BCC looks there ahead of everywhere: a vmlinux.h of somebody's would be the kernel's
    try:
        module = Module(text=text.encode("utf-8", "surrogateescape"), cflags=flags)  # of a str it warns
    except Exception as error:  # BCC raises the bare class
        raise CompileError(f"cannot compile {name}: {error}") from error
    finally:
        os.fchdir(before)
        os.close(before)
    return _extract(lib, module.module, __version__)


def _in_utf8(folder: Path) -> str:
    """Returns the path of a folder for BCC, which takes no other encoding."""
    path = str(folder)
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise CompileError(f"cannot include from {path!a}, which is no UTF-8: rename the folder") from error
    return path


def too_old(version: str) -> bool:
    """Whether a version of BCC, ``0.31.0``, is one that this was not made for. One that has no numbers is not."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and tuple(map(int, numbers.groups())) < OLDEST


def _extract(lib: Any, module: Any, version: str) -> Bytecode:
    lib.bpf_table_name.restype = ctypes.c_char_p
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
    lib.bpf_num_tables.restype = ctypes.c_ulonglong
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
    for function in (lib.bpf_table_fd_id, lib.bpf_table_type_id, lib.bpf_table_flags_id):
        function.restype = ctypes.c_int
        function.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
    for function in (lib.bpf_table_key_size_id, lib.bpf_table_leaf_size_id, lib.bpf_table_max_entries_id):
        function.restype = ctypes.c_ulonglong
        function.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
    maps: list[Map] = []
    positions: dict[int, int] = {}  # BCC's descriptor -> position
    for index in range(lib.bpf_num_tables(module)):
        positions[lib.bpf_table_fd_id(module, index)] = index
        maps.append(
            Map(
                name=lib.bpf_table_name(module, index).decode(),
                type=lib.bpf_table_type_id(module, index),
                key_size=lib.bpf_table_key_size_id(module, index),
                value_size=lib.bpf_table_leaf_size_id(module, index),
                entries=lib.bpf_table_max_entries_id(module, index),
                flags=lib.bpf_table_flags_id(module, index),
            )
        )
    programs: dict[str, bytes] = {}
    for index in range(lib.bpf_num_functions(module)):
        function_name = lib.bpf_function_name(module, index)
        start = lib.bpf_function_start(module, function_name)
        size = lib.bpf_function_size(module, function_name)
        programs[function_name.decode()] = relocate(ctypes.string_at(start, size), positions.__getitem__)
    return Bytecode(tuple(maps), programs, version)
