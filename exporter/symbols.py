# SPDX-License-Identifier: Apache-2.0
"""The kernel's functions by their addresses.

/proc/kallsyms shows addresses to root alone (CAP_SYSLOG), so ``build`` makes a table of it where there are privileges:
a file in memory, sealed. Who is given its descriptor looks names up in place, and maps what was looked at.

The file: how many there are, and so many addresses, sorted, as u64; where each one's name begins and ends, as u32; then
the names. A name that is empty begins what is no function.
"""

import fcntl
import mmap
import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

from exporter.errors import LoadError

KALLSYMS = Path("/proc/kallsyms")
TABLE = "ksyms"  # the table's name among a probe's descriptors
LONGEST = 1 << 20  # bytes of a function at most; what is further behind one's start is behind its end
_FUNCTIONS = frozenset("tTwW")  # as nm(1) has them
_WORD = 8  # bytes


def build() -> int:
    """Returns the descriptor of a table of all functions that there are now. Raises LoadError where none are shown."""
    try:
        with KALLSYMS.open(encoding="utf-8", errors="backslashreplace") as lines:
            starts, names = _sorted(lines)
    except OSError as error:
        raise LoadError(f"ksym: cannot read {KALLSYMS} (CONFIG_KALLSYMS): {error.strerror}") from error
    if not starts:
        raise LoadError(f"ksym: {KALLSYMS} shows no addresses: it needs CAP_SYSLOG, and kernel.kptr_restrict below 2")
    encoded = [name.encode() for name in names]
    ends = array("I", [0])
    for name in encoded:
        ends.append(ends[-1] + len(name))
    fd = os.memfd_create("ksyms", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(len(starts).to_bytes(_WORD, sys.byteorder) + starts.tobytes() + ends.tobytes() + b"".join(encoded))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def _sorted(lines: Iterable[str]) -> tuple["array[int]", list[str]]:
    """``ffffffff81000000 T _stext`` -> addresses and names. Of names for one address the first counts, as in the
    kernel (kallsyms_lookup); of all that is data and lies together, where it begins."""
    symbols: list[tuple[int, int, str]] = []
    for number, line in enumerate(lines):
        start, kind, name = line.split(maxsplit=3)[:3]  # of a module, its name follows: nf_nat_init [nf_nat]
        symbols.append((int(start, 16), number, name if kind in _FUNCTIONS else ""))
    symbols.sort()
    starts: array[int] = array("Q")
    names: list[str] = []
    for address, _, name in symbols:
        if not address or (starts and address == starts[-1] and names[-1]):
            continue
        if starts and address == starts[-1]:  # a function begins where the data before it ends
            names[-1] = name
        elif name or not names or names[-1]:
            starts.append(address)
            names.append(name)
    return starts, names


class Symbols:
    """Names of functions, by a table that somebody else has built."""

    def __init__(self) -> None:
        self._starts = memoryview(b"").cast("Q")
        self._ends = memoryview(b"").cast("I")
        self._names = memoryview(b"")

    def use(self, fd: int) -> None:
        """Takes this table from now on, in place of any other. The descriptor may be closed then."""
        table = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
        count = int.from_bytes(table[:_WORD], sys.byteorder)
        ends_at = _WORD + count * _WORD
        names_at = ends_at + (count + 1) * 4
        self._starts = table[_WORD:ends_at].cast("Q")
        self._ends = table[ends_at:names_at].cast("I")
        self._names = table[names_at:]

    def name(self, address: int) -> str:
        """Returns the name of the function that an address is in, ``vfs_read``; where it is in none, ``0x2a``."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address - self._starts[at] < LONGEST:
            name = bytes(self._names[self._ends[at] : self._ends[at + 1]])
            if name:
                return name.decode("utf-8", "backslashreplace")
        return hex(address)


SYMBOLS = Symbols()  # of this process, as there is one kernel
