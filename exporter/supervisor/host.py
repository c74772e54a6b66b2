# SPDX-License-Identifier: Apache-2.0
"""What this host and this process have to be ready for before a probe is attached."""

import logging
import os
import resource
import subprocess

from exporter.hooks import tracefs

log = logging.getLogger(__name__)


def mount_tracefs() -> None:
    """Makes tracepoints readable where nobody mounted what describes them; says so, and where it can't be."""
    first = tracefs.ROOTS[0]
    # on a kernel that is locked down it is mounted and empty
    if any((root / "events").is_dir() for root in tracefs.ROOTS) or first.is_mount():
        return
    command = ["mount", "-t", "tracefs", "tracefs", str(first)]
    try:
        subprocess.run(command, capture_output=True, check=True)
        log.info("mounted tracefs", extra={"folder": first})
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", b"").decode(errors="replace").strip()
        log.warning("tracefs is not mounted and cannot be", extra={"reason": words or error})


def has_terminal() -> bool:
    """Whether somebody has this process at a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def raise_limits() -> None:
    """Each hook, map and client is a descriptor: allows as many as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
