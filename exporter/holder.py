# SPDX-License-Identifier: Apache-2.0
"""Keeps attachments in threads that have a table of descriptors of their own.

To detach from a tracepoint or a uprobe the kernel waits for a grace period, one after the other for all descriptors
of a table. When the process ends, by kill -9 too, the threads' tables are closed side by side: what would take the sum
of all waits takes little more than the longest. Processes that are forked meanwhile inherit none of them.
"""

import ctypes
import os
import signal
import threading
from pathlib import Path

_CLONE_FILES = 0x400
_SHARE = 2  # descriptors of a thread

_libc = ctypes.CDLL(None, use_errno=True)


class Hold:
    """Descriptors that are closed here and open in threads of ours, until they are released or this process ends.

    Where the kernel does not let a thread have a table of its own, they stay open here.
    """

    def __init__(self, fds: list[int], share: int = _SHARE) -> None:
        """Takes descriptors over; share is how many a thread has at the most."""
        self._released = threading.Event()
        self._here: list[int] = []
        self._threads = [self._start(fds[at : at + share]) for at in range(0, len(fds), share or 1)]

    def release(self) -> None:
        """Lets go of them, side by side; returns at once."""
        self._released.set()
        for fd in self._here:
            os.close(fd)
        self._here = []

    def wait(self) -> None:
        """Returns when what was released is closed."""
        for thread in self._threads:
            thread.join()

    def _start(self, fds: list[int]) -> threading.Thread:
        settled = threading.Event()
        held: list[bool] = []

        def run() -> None:
            # a signal that came to this thread would be told to a descriptor that is not in its table
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            if _libc.unshare(_CLONE_FILES) == 0:
                for entry in list(Path("/proc/thread-self/fd").iterdir()):
                    fd = int(entry.name)
                    if fd not in fds:
                        try:
                            os.close(fd)
                        except OSError:  # the one that the listing itself had open
                            continue
                held.append(True)
            settled.set()
            if held:
                self._released.wait()
                for fd in fds:
                    os.close(fd)

        thread = threading.Thread(target=run, name="holder", daemon=True)
        thread.start()
        settled.wait()
        if held:
            for fd in fds:
                os.close(fd)
        else:
            self._here += fds
        return thread
