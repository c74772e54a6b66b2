# SPDX-License-Identifier: Apache-2.0
"""Folders of ours in places where others have theirs."""

import os
import stat
from pathlib import Path


def private(folder: Path) -> str:
    """Makes a folder if need be, and sees that it is root's alone and no link of somebody else's.

    Returns why it can't be trusted; "" if it can.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        return f"cannot make {folder}: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        return f"{folder} is not a folder that only root can write; remove it"
    return ""
