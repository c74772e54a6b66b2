# SPDX-License-Identifier: Apache-2.0
"""What the tests of faults need besides the daemon."""

from pathlib import Path

PATCHED = Path(__file__).with_name("patched")


def patched(*constants: str) -> list[str]:
    """Returns a prefix for a daemon's command that gives constants other values: ``supervisor.life.FIRST_PAUSE=1``."""
    return [str(PATCHED), *constants, "--"]
