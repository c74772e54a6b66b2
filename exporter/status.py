# SPDX-License-Identifier: Apache-2.0
"""What became of a probe: what the loader reports, the supervisor decides and the worker shows."""

from dataclasses import dataclass

MAX_DETAILS = 64 * 1024  # characters of a compiler's or the verifier's words that are kept and shown: the last ones


@dataclass(frozen=True)
class Attempt:
    """A mechanism that did not hold: its name, why, and the kernel's own words."""

    mechanism: str
    reason: str
    details: str


@dataclass(frozen=True)
class Loaded:
    """What was loaded of a probe. With it travel the descriptors: maps, programs, attachments, in this order.

    maps and programs are names; attachments are pairs of a program's name and a hook's.
    """

    mechanism: str
    tried: tuple[Attempt, ...]
    maps: tuple[str, ...]
    programs: tuple[str, ...]
    attachments: tuple[tuple[str, str], ...]
    compiler: str


@dataclass(frozen=True)
class ProbeStatus:
    """A probe as it stands. state is starting, running, degraded (a part is not attached) or failed.

    declaration is the path of its YAML. details holds the compiler's, the verifier's and the kernel's own words.
    """

    name: str
    purpose: str
    state: str = "starting"
    mechanism: str = ""
    reason: str = ""
    details: str = ""
    tried: tuple[Attempt, ...] = ()
    attachments: tuple[tuple[str, str], ...] = ()
    declaration: str = ""
