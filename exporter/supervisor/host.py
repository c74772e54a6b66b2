# SPDX-License-Identifier: Apache-2.0
"""What this host and this process have to be ready for before a probe is attached."""

import logging
import resource
import subprocess

from exporter.loader.attach import TRACEFS

log = logging.getLogger(__name__)


def mount_tracefs() -> None:
    """Makes tracepoints readable where nobody mounted what describes them; says so, and where it can't be."""
    if any((root / "events").is_dir() for root in TRACEFS):
        return
    command = ["mount", "-t", "tracefs", "tracefs", str(TRACEFS[0])]
    try:
        subprocess.run(command, capture_output=True, check=True)
        log.info("mounted tracefs on %s", TRACEFS[0])
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", b"").decode(errors="replace").strip()
        log.warning("tracefs is not mounted and cannot be: %s", words or error)


def raise_limits() -> None:
    """Each hook, map and client is a descriptor: allows as many as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
