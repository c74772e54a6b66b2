# SPDX-License-Identifier: Apache-2.0
"""User ids to names, without ever holding up a read.

Names come from /etc/passwd, a local file that is read again when it changed. A directory service (LDAP, SSSD) may take
seconds to answer: a user that only it knows reads as a number.
"""

from functools import lru_cache
from pathlib import Path

PASSWD = Path("/etc/passwd")


def user_name(uid: int) -> str:
    """Returns the name of a user in /etc/passwd, else the number as text."""
    try:
        status = PASSWD.stat()
        return _names(status.st_ino, status.st_mtime_ns).get(uid, str(uid))
    except OSError:  # a container without one
        return str(uid)


@lru_cache(maxsize=1)
def _names(_inode: int, _changed: int) -> dict[int, str]:
    """``root:x:0:0:root:/root:/bin/bash`` -> {0: "root"}; of several names for one uid the first counts, as in libc."""
    names: dict[int, str] = {}
    for line in PASSWD.read_text(encoding="utf-8", errors="backslashreplace").split("\n"):
        columns = line.split(":")
        if len(columns) > 2 and columns[2].isdecimal():
            names.setdefault(int(columns[2]), columns[0])
    return names
