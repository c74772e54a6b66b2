# SPDX-License-Identifier: Apache-2.0
"""A probe's programs on interfaces, as these come and go: attached where they are wanted, and swapped for others."""

import dataclasses
import errno
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from exporter.network import clsact, interfaces, links
from exporter.places import Place
from exporter.rules.placing import Placing
from exporter.status import Attempt, Loaded

XDP = "xdp"  # a hook; those of TC are tc:ingress and tc:egress


@dataclass
class _Hook:
    """A program, its name and its descriptor, at a hook of interfaces. Without TCX, entry is ahead of it."""

    program: str
    hook: str
    fd: int
    entry: clsact.Entry | None = None
    attached: dict[int, links.Link | clsact.Attached] = field(default_factory=dict)

    def attach(self, index: int, interface: str, mode: str) -> links.Link | clsact.Attached:
        direction = self.hook.partition(":")[2]
        if self.hook == XDP:
            return links.attach_xdp(self.fd, index, interface, mode)
        if self.entry:
            return clsact.attach(self.entry, index, interface, direction)
        return links.attach_tcx(self.fd, index, interface, direction)

    def keep(self, found: dict[int, str]) -> None:
        """Lets go of the interfaces that are not found any more; takes note of new names."""
        for index, one in list(self.attached.items()):
            if index not in found or not one.is_on(index):
                self.attached.pop(index).release()
            elif one.interface != found[index]:
                self.attached[index] = dataclasses.replace(one, interface=found[index])

    def take_over(self, before: "_Hook", mode: str) -> None:
        """Puts this program where another is, each at once."""
        for index, one in list(before.attached.items()):
            if self.hook == XDP and mode not in ("auto", one.mode):
                continue
            try:
                one.swap(self.fd)
            except OSError:  # the interface has just gone
                continue
            self.attached[index] = before.attached.pop(index)


class OnInterfaces:
    """All of a probe that is attached to interfaces."""

    def __init__(self, loaded: Loaded, programs: Sequence[int], placing: Placing | None = None) -> None:
        """programs are descriptors, as loaded names them; of one that the kernel lets run by way of an entry, the
        descriptor is the entry's from now on: its runs are counted there. placing is of rules that are not the same
        on all interfaces."""
        self._placing = placing
        self._patterns, self._mode = loaded.probe.interfaces, loaded.probe.mode
        self._mechanism, self._tried = loaded.mechanism, loaded.tried
        self._entries: dict[str, clsact.Entry] = {}
        self._programs = dict(zip(loaded.programs, programs, strict=True))
        for name in {name for name, hook in loaded.on_interfaces if hook != XDP}:
            if not links.offers_tcx(self._programs[name]):
                self._enter(name, clsact.Entry(self._programs[name]))
        self._hooks = [
            _Hook(name, hook, self._programs[name], self._entries.get(name)) for name, hook in loaded.on_interfaces
        ]
        self._refused: dict[tuple[int, str, str], str] = {}  # in this pass: interface, program and hook, and why
        self._behind: dict[int, str] = {}  # containers by the indexes of interfaces
        self.finished = True

    def _enter(self, name: str, entry: clsact.Entry) -> None:
        self._entries[name] = entry
        os.dup2(entry.fd, self._programs[name], inheritable=False)

    def update(self, containers: Mapping[int, Place], seconds: float = math.inf) -> list[str]:
        """Attaches to interfaces that are new, lets go of those gone. Returns why what is lacking is lacking.

        containers are behind interfaces, by their indexes. After so many seconds it stops attaching; ``finished`` says
        whether there are more, for which it is to be called again.
        """
        deadline = time.monotonic() + seconds
        attached = {index for hook in self._hooks for index in hook.attached}
        found, reasons = interfaces.find(self._patterns, containers, attached)
        self._behind = {
            index: containers[index].container if index in containers else name for index, name in found.items()
        }
        if self._placing:  # before anything is attached
            self._placing.update(self._behind)
        for hook in self._hooks:
            hook.keep(found)
        if self.finished:
            self._refused.clear()
        self.finished = True
        for index, hook in ((index, hook) for index in found for hook in self._hooks):
            if index in hook.attached or (index, hook.program, hook.hook) in self._refused:
                continue
            if time.monotonic() > deadline:
                self.finished = False
                break
            try:
                hook.attached[index] = hook.attach(index, found[index], self._mode)
            except OSError as error:
                self._refused[index, hook.program, hook.hook] = f"{found[index]}: {error.strerror}"
                if error.errno == errno.ENODEV:  # it has just gone
                    self._refused[index, hook.program, hook.hook] = ""
        return reasons + [reason for reason in dict.fromkeys(self._refused.values()) if reason]

    def take_over(self, before: "OnInterfaces") -> None:
        """Puts these programs in the places of others that have their names and hooks, on each interface at once.

        What is not in the place of anything, and what is on interfaces that are not wanted any more, is as it was until
        ``update`` is called here, and ``release`` there.
        """
        if self._placing:
            self._placing.update(before._behind)
        for name, entry in list(self._entries.items()):
            if older := before._entries.pop(name, None):
                older.take_over(entry)
                self._enter(name, older)
        for hook in self._hooks:
            hook.entry = self._entries.get(hook.program)
            for other in before._hooks:
                if (other.program, other.hook) == (hook.program, hook.hook):
                    hook.take_over(other, self._mode)

    def release(self) -> None:
        """Detaches all. What links hold would be let go of without it as well, as soon as this process ends."""
        for hook in self._hooks:
            for one in hook.attached.values():
                one.release()
            hook.attached.clear()
        for entry in self._entries.values():
            entry.close()
        self._entries.clear()

    @property
    def attachments(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a program and where it is: ``tc:ingress:veth0 (tcx)``."""
        return tuple(
            (hook.program, f"{hook.hook}:{one.interface} ({one.mode})")
            for hook in self._hooks
            for one in hook.attached.values()
        )

    @property
    def mechanism(self) -> str:
        """The families of hooks, and the modes that they have: ``xdp native``."""
        modes = sorted({one.mode for hook in self._hooks for one in hook.attached.values()})
        return " ".join([self._mechanism, *(["+".join(modes)] if modes else [])])

    @property
    def tried(self) -> tuple[Attempt, ...]:
        """What did not hold: mechanisms, and of what is attached the modes that were tried before."""
        refused: dict[str, list[str]] = {}
        for one in (one for hook in self._hooks for one in hook.attached.values() if one.why):
            refused.setdefault(one.why, []).append(one.interface)
        tried = [Attempt("xdp native", f"{', '.join(names)}: {why}", "") for why, names in refused.items()]
        if self._entries:
            tried.append(Attempt("tc tcx", "this kernel has no TCX: it came with 6.6", ""))
        return (*self._tried, *tried)
