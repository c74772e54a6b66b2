# SPDX-License-Identifier: Apache-2.0
"""What was read of a web config, and whether its files are still those that were read."""

import stat
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import Problem
from exporter.web.settings import Settings

Signature = tuple[int, ...] | None  # None: the file is not there, or may not be seen


def signature(path: Path) -> Signature:
    """Returns what is another one where a file is another one, or was written to; links are followed."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino, stat.S_IFMT(about.st_mode), about.st_size, about.st_mtime_ns, about.st_ctime_ns


@dataclass(frozen=True)
class Read:
    """What became of a web config. Where there are problems there are no settings.

    files has all that was read, or was to be, as it was then. remarks are what a user should know of settings that are
    good.
    """

    path: Path
    files: tuple[tuple[Path, Signature], ...]
    settings: Settings | None
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()
