# SPDX-License-Identifier: Apache-2.0
"""Faults of single probes: what becomes of them, and that all others go on."""

import os
import re
import signal
from pathlib import Path

from tests.e2e.support import attached, patched
from tests.kernel.conftest import Workload
from tests.kernel.daemon import Daemon, count, meanwhile
from tests.kernel.test_daemon import COUNT_NOTHING, pair

OPENS = "ebpf_file_opens_total"
DISABLED = "ERROR probe disabled probe=file_opens"


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


def test_a_probe_that_costs_too_much_is_detached_and_tried_again(tmp_path: Path, workload: Workload) -> None:
    """It says what it took, lets go of its hooks while others go on, and runs when it is tried again."""
    (tmp_path / "file").touch()
    probes = {"file_opens": {"max_cpu_percent": 0.001}, "process_execs": {}}
    short = patched("supervisor.overhead.WINDOW=0.2", "supervisor.overhead.EVERY=0.1")
    with Daemon(probes, prefix=short) as daemon, meanwhile(lambda: workload("opener-o", "opens", tmp_path, 16, 7)):
        daemon.wait_for(lambda: daemon.status("file_opens")["state"] == "disabled", "a probe that is disabled")
        daemon.wait_for(lambda: set(attached(daemon)) == {"on_exec"}, "the end of all that attached it")
        status, up = daemon.status("file_opens"), daemon.samples()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)  # a reload does not wait for the ten minutes
        log = daemon.log()
        # it runs, or has run already and cost too much
        daemon.wait_for(
            lambda: daemon.status("file_opens")["state"] == "running" or daemon.log().count(DISABLED) > 1,
            "a probe that is tried again",
        )
    said = re.fullmatch(
        r"its programs took (\S+) % of a core for 0 s, and may take 0.001 % \(max_cpu_percent\)", status["reason"]
    )
    assert said
    assert 0.001 < float(said[1]) < 200
    assert status["attachments"] == []
    assert [count(up, "ebpf_exporter_probe_up", probe=name) for name in probes] == [0, 1]
    assert re.search(f"{DISABLED} .* again_in=600s", log)
