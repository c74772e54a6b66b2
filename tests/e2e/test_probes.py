# SPDX-License-Identifier: Apache-2.0
"""Faults of single probes: what becomes of them, and that all others go on."""

import os
import re
from pathlib import Path

from tests.e2e.support import patched
from tests.kernel.conftest import Workload
from tests.kernel.daemon import Daemon, count
from tests.kernel.test_daemon import COUNT_NOTHING, pair

OPENS = "ebpf_file_opens_total"


def test_a_compile_child_that_crashes_is_tried_again(tmp_path: Path, workload: Workload) -> None:
    """A compiler that crashes fails its probe alone, which says so, and runs once the compiler does not crash."""
    folder, crashing = tmp_path / "probes", tmp_path / "crashing.h"
    crashing.write_text("#pragma clang __debug crash\n")
    pair(folder, "crashes", f'#include "{crashing}"\n{COUNT_NOTHING}')
    (tmp_path / "file").touch()
    with Daemon({"file_opens": {}, "crashes": {}}, folder, patched("supervisor.life.FIRST_PAUSE=0.1")) as daemon:
        status = daemon.status("crashes")
        assert status["state"] == "failed"
        assert re.fullmatch("the process was ended by SIG[A-Z]+", status["reason"])
        workload("opener-c", "opens", tmp_path, 16, 7)
        assert count(daemon.samples(), OPENS, comm="opener-c") == 23
        crashing.write_text("\n")
        daemon.wait_for(lambda: daemon.status("crashes")["state"] == "running", "a probe that is tried again")
        assert count(daemon.samples(), OPENS, comm="opener-c") == 23


def test_a_compile_child_that_hangs_is_ended_and_tried_again(tmp_path: Path, workload: Workload) -> None:
    """A compiler that hangs is ended after its time, its probe says so, and runs once the compiler does not hang."""
    folder, hanging = tmp_path / "probes", tmp_path / "hanging.h"
    os.mkfifo(hanging)
    pair(folder, "hangs", f'#include "{hanging}"\n{COUNT_NOTHING}')
    (tmp_path / "file").touch()
    short = patched("supervisor.life.FIRST_PAUSE=0.1", "supervisor.compiling.COMPILE_SECONDS=20.0")
    with Daemon({"file_opens": {}, "hangs": {}}, folder, short) as daemon:
        status = daemon.status("hangs")
        assert (status["state"], status["reason"]) == ("failed", "it was not compiled and attached within 20 s")
        workload("opener-h", "opens", tmp_path, 16, 7)
        assert count(daemon.samples(), OPENS, comm="opener-h") == 23
        hanging.unlink()
        hanging.write_text("\n")
        daemon.wait_for(lambda: daemon.status("hangs")["state"] == "running", "a probe that is tried again")
