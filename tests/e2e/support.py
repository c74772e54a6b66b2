# SPDX-License-Identifier: Apache-2.0
"""What the tests of reloads and faults need besides the daemon."""

import contextlib
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Self

from exporter import libbpf
from tests.kernel.daemon import Daemon, Samples

PATCHED = Path(__file__).with_name("patched")


def patched(*constants: str) -> list[str]:
    """Returns a prefix for a daemon's command that gives constants other values: ``supervisor.life.FIRST_PAUSE=1``."""
    return [str(PATCHED), *constants, "--"]


class Hang:
    """What makes reads of a daemon with this prefix hang, while it is held."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._folder.chmod(0o755)  # a worker without privileges looks at it
        self._file = self._folder / "hang"
        self.prefix = f"hang={self._file}"

    def __enter__(self) -> Self:
        self._file.touch()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.unlink()
        self._folder.rmdir()


def attached(daemon: Daemon) -> dict[str, set[int]]:
    """Returns the ids of the links that the daemon holds, by the names of their programs."""
    assert daemon.process is not None
    found: dict[str, set[int]] = defaultdict(set)
    for task in Path(f"/proc/{daemon.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread or a descriptor that has just gone
            for entry in (task / "fdinfo").iterdir():
                info = dict(line.split(":\t", 1) for line in entry.read_text().splitlines() if ":\t" in line)
                if "link_id" in info:
                    found[_program_name(int(info["prog_id"]))].add(int(info["link_id"]))
    return dict(found)


def _program_name(number: int) -> str:
    fd = libbpf.program_by_id(number)
    try:
        return libbpf.program_identity(fd).name
    finally:
        os.close(fd)


def decreased(before: Samples, after: Samples) -> dict[str, tuple[float, float]]:
    """Returns the counters that have gone back, or that are gone."""
    return {
        f"{name}{dict(labels)}": (value, after.get((name, labels), -1.0))
        for (name, labels), value in before.items()
        if name.endswith("_total") and after.get((name, labels), -1.0) < value
    }
