# SPDX-License-Identifier: Apache-2.0
"""What became of a probe: what the loader reports, the supervisor decides and the worker shows."""

from dataclasses import dataclass

from exporter.hooks.files import Identity
from exporter.probe import Mechanism, Probe

MAX_DETAILS = 64 * 1024  # characters of a compiler's or the verifier's words that are kept and shown: the last ones


@dataclass(frozen=True)
class Attempt:
    """A mechanism that did not hold: its name, why, and the kernel's own words."""

    mechanism: str
    reason: str
    details: str


@dataclass(frozen=True)
class File:
    """A file that programs are attached to: how hooks name it, which it was then (None: there was none), and how many
    descriptors hold them there."""

    name: str
    identity: Identity | None
    descriptors: int


@dataclass(frozen=True)
class Again:
    """What was attached again, to files that had changed. With it travel the descriptors, file by file."""

    files: tuple[File, ...]


@dataclass(frozen=True)
class Loaded:
    """What was loaded of a probe. With it travel the descriptors: maps, programs, links, private maps, all other
    attachments.

    Of the latter, those to files come after those to the kernel, file by file; on_each_cpu are the perf events that are
    one processor's, and the last. chosen is the mechanism that holds; source tells the probe's whole C from another.

    probe is what was wanted, with all its kinds of label known and without its rules, which the kernel has. maps and
    programs are names; among the maps there is a table of the kernel's symbols, where labels need it. attachments are
    pairs of a program's name and a hook's; on_interfaces are such too, of programs that are yet to be attached to
    interfaces. links are those of them that tell what they missed, each by its program's name; misses_unknown are
    programs of which the kernel does not tell it. private are maps not meant for the worker.
    """

    probe: Probe
    mechanism: str
    tried: tuple[Attempt, ...]
    maps: tuple[str, ...]
    programs: tuple[str, ...]
    links: tuple[str, ...]
    files: tuple[File, ...]
    on_each_cpu: int
    attachments: tuple[tuple[str, str], ...]
    on_interfaces: tuple[tuple[str, str], ...]
    misses_unknown: tuple[str, ...]
    compiler: str
    private: tuple[str, ...]
    chosen: Mechanism
    source: str


@dataclass(frozen=True)
class ProbeStatus:
    """A probe as it stands. state is starting, running, degraded (a part is not attached), failed, disabled (it took
    more of a core than it may), or ended (a bpftrace script that called exit()).

    declaration is the path of its YAML. misses_unknown are programs of which the kernel does not tell how many events
    they missed. details holds the compiler's, the verifier's and the kernel's own words.
    """

    name: str
    purpose: str
    state: str = "starting"
    mechanism: str = ""
    reason: str = ""
    details: str = ""
    tried: tuple[Attempt, ...] = ()
    attachments: tuple[tuple[str, str], ...] = ()
    misses_unknown: tuple[str, ...] = ()
    declaration: str = ""
