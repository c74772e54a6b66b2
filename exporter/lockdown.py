# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel is locked down, so that it keeps even from root what its memory holds: kernel_lockdown(7).

With ``confidentiality`` it lets no program read its memory, takes no kprobes and shows no tracepoints (since 5.4,
9d1f8be5cf42, bpf: Restrict bpf when kernel lockdown is in confidentiality mode). ``integrity`` is no harm here.
"""

from pathlib import Path

STATE = Path("/sys/kernel/security/lockdown")  # none [integrity] confidentiality


def hint() -> str:
    """Returns the end of a message of what was refused: that this is why, and what to do; "" where it is not."""
    try:
        locked = "[confidentiality]" in STATE.read_text()
    except OSError:  # a kernel without it, or securityfs is not mounted
        return ""
    return ": the kernel is locked down; boot it with lockdown=integrity in place of confidentiality" if locked else ""
