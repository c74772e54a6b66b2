# SPDX-License-Identifier: Apache-2.0
"""A BCC that is too old."""

import importlib.util
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon


@pytest.mark.anywhere
def test_an_old_bcc_is_told_with_what_to_install(tmp_path: Path) -> None:
    """The daemon runs, and says of each probe what to do; nothing ends with a traceback."""
    spec = importlib.util.find_spec("bcc")
    assert spec
    assert spec.origin
    old = tmp_path / "version.py"
    old.write_text("__version__ = '0.25.0'\n")
    hide = f'mount --bind {old} {Path(spec.origin).with_name("version.py")} && exec "$@"'
    with Daemon({"process_execs": {}}, prefix=["unshare", "--mount", "sh", "-c", hide, "sh"]) as daemon:
        status = daemon.status("process_execs")
        assert (status["state"], status["reason"]) == (
            "failed",
            "BCC 0.25.0 is too old: install python3-bpfcc 0.26 or later",
        )
        assert "Traceback" not in status["details"] + daemon.log()
