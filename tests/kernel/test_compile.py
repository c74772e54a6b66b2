# SPDX-License-Identifier: Apache-2.0
"""What BCC makes of C that newer kernels have, and a BCC that is too old."""

import importlib.util
import warnings
from pathlib import Path

import pytest

from exporter.child import isolated
from exporter.loader import headers
from exporter.loader.bytecode import Bytecode
from exporter.loader.compile import compile_source
from tests.kernel.daemon import Daemon

TAGGED = """
struct tagged { u32 first, second; };
struct whole { union { struct tagged; u64 both; }; u32 last; };
_Static_assert(__builtin_offsetof(struct whole, second) == 4, "a member that is a struct with a tag");
struct longer { struct tagged; u32 last; };
_Static_assert(__builtin_offsetof(struct longer, last) == 8, "what comes after it");
"""


def compiled(text: str) -> Bytecode:
    warnings.simplefilter("ignore")  # BCC's own
    return compile_source("tagged", text, headers.prepare())


def test_members_that_are_structs_with_a_tag_have_their_place() -> None:
    """Kernels have them since 6.19; standard C has not, and a compiler that is not told to drops them."""
    isolated(compiled, TAGGED)


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
