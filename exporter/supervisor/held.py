# SPDX-License-Identifier: Apache-2.0
"""What a running probe has, by descriptors: maps and programs, and what attaches them, also to interfaces."""

import os
from dataclasses import dataclass, field

from exporter import libbpf, symbols
from exporter.holder import Hold
from exporter.network.attachments import OnInterfaces
from exporter.status import File, Loaded

# files that were replaced, and that processes may still run: of each as many are held as before, the last ones. A file
# that is deleted takes its place on the disk until it is let go of.
OLDER = 3


@dataclass
class Held:
    """What the worker is to be told and given, and what attaches it: to the kernel, to files and to interfaces."""

    loaded: Loaded
    shared: list[int]  # maps, programs and links that tell what they missed
    private: dict[str, int]  # maps that are not for the worker, by name
    attachments: list[Hold]
    files: dict[str, list[Hold]] = field(default_factory=dict)  # by name, the newest last
    on_interfaces: OnInterfaces | None = None

    @staticmethod
    def of(loaded: Loaded, fds: list[int]) -> "Held":
        """Takes over what travelled with it."""
        shared = len(loaded.maps) + len(loaded.programs) + len(loaded.links)
        rest = shared + len(loaded.private)
        to_files = sum(file.descriptors for file in loaded.files)
        last = len(fds) - loaded.on_each_cpu
        # of those on each processor the kernel lets go at once
        attachments = [Hold(fds[rest : last - to_files]), Hold(fds[last:], share=loaded.on_each_cpu)]
        held = Held(loaded, fds[:shared], dict(zip(loaded.private, fds[shared:rest], strict=True)), attachments)
        held.attach(loaded.files, fds[last - to_files : last])
        return held

    @property
    def maps(self) -> dict[str, int]:
        """Descriptors of maps that count, by name."""
        found = dict(zip(self.loaded.maps, self.shared, strict=False))
        found.pop(symbols.TABLE, None)
        return found

    @property
    def programs(self) -> dict[str, int]:
        """Descriptors of programs, by name."""
        return dict(zip(self.loaded.programs, self.shared[len(self.loaded.maps) :], strict=False))

    def attach(self, files: tuple[File, ...], fds: list[int]) -> None:
        """Takes over what attaches programs to files, beside what attaches them to files that had their names."""
        at = 0
        for file in files:
            holds = self.files.setdefault(file.name, [])
            holds.append(Hold(fds[at : at + file.descriptors]))
            at += file.descriptors
            for old in holds[: -1 - OLDER]:
                old.release()
            del holds[: -1 - OLDER]

    def detach(self, name: str) -> None:
        """Lets go of a file; returns when that is done."""
        holds = self.files.pop(name, [])
        for hold in holds:
            hold.release()
        for hold in holds:
            hold.wait()

    def run_nanoseconds(self) -> int:
        """Returns how long its programs have run in all; 0 where the kernel does not tell."""
        return sum(libbpf.program_statistics(fd).run_ns for fd in self.programs.values())

    def release(self) -> None:
        """Lets go of all: nothing of the probe stays attached."""
        for hold in (*self.attachments, *(hold for holds in self.files.values() for hold in holds)):
            hold.release()
        if self.on_interfaces:
            self.on_interfaces.release()
        for fd in [*self.shared, *self.private.values()]:
            os.close(fd)
