# SPDX-License-Identifier: Apache-2.0
"""Which file a hook means, and whether it is the same as before. What is in it is for ``elf``, which takes memory."""

import platform
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

from exporter.errors import UnknownHook
from exporter.probe import Hook

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOADERS_CACHE = Path("/etc/ld.so.cache")  # is made anew when libraries come or go
_ARCHITECTURES = {"x86_64": "x86-64", "aarch64": "AArch64"}  # how ldconfig -p calls them


class Identity(NamedTuple):
    """What tells a file from another that has its name, before or after it."""

    device: int
    inode: int
    size: int  # bytes
    modified: int  # nanoseconds


def named(hook: Hook) -> str:
    """Returns how a hook names its file, a path or a short name; "" for a hook of the kernel."""
    if hook.family in ("uprobe", "uretprobe"):
        return hook.target.rpartition(":")[0]
    return hook.target.rsplit(":", 2)[0] if hook.family == "usdt" else ""


def identity(name: str) -> Identity | None:
    """Returns the identity of the file that a name means; None where there is none."""
    try:
        found = resolve(name).stat()
    except (UnknownHook, OSError):
        return None
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def resolve(name: str) -> Path:
    """Returns the file that a path, a library's short name or a program's name means.

    A library is found as the dynamic loader does, in ldconfig's cache: ``c``, ``libc`` and ``libc.so.6`` are the same;
    a program by the system's PATH. Raises UnknownHook where there is none.
    """
    if "/" in name:
        if not _is_file(name):
            raise UnknownHook(f"there is no {name} here")
        return Path(name)
    if found := _libraries.find(name):
        return found
    if program := shutil.which(name, path=_SYSTEM_PATH):
        return Path(program)
    raise UnknownHook(f"there is no library and no program {name} here")


def _is_file(name: str) -> bool:
    """Whether a path is of a file. Raises PermissionError where that can't be seen, which Path.is_file does not from
    Python 3.14 on."""
    try:
        return stat.S_ISREG(Path(name).stat().st_mode)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return False


class _Libraries:
    """Where libraries are, by their names; remembered for as long as the loader's cache is the same."""

    def __init__(self) -> None:
        self._cache: Identity | None = None
        self._found: dict[str, Path | None] = {}

    def find(self, name: str) -> Path | None:
        """Returns the file of a library; None where there is none."""
        now = identity(str(_LOADERS_CACHE))
        if now != self._cache:
            self._cache, self._found = now, {}
        if name not in self._found:
            self._found[name] = _ask(name)
        return self._found[name]


_libraries = _Libraries()


def _ask(name: str) -> Path | None:
    """Finds ``libNAME.so…`` among lines such as ``\\tlibc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6``."""
    try:
        listed = subprocess.run(
            ["ldconfig", "-p"], capture_output=True, text=True, check=True, env={"PATH": _SYSTEM_PATH}
        ).stdout
    except (OSError, subprocess.CalledProcessError):  # musl has none, nor a cache
        return None
    stem, _, version = name.removeprefix("lib").partition(".so")
    file = rf"lib{re.escape(stem)}\.so{re.escape(version)}(?:\.\S+)?"
    wanted = re.compile(rf"\s*{file} \((?P<kind>[^)]*)\) => (?P<path>.+)")
    architecture = _ARCHITECTURES.get(platform.machine(), "")
    for line in listed.splitlines():
        if (match := wanted.fullmatch(line)) and architecture in match["kind"]:
            return Path(match["path"])
    return None
