# SPDX-License-Identifier: Apache-2.0
"""A library that is not there: the command ends with a line that names the package."""

import subprocess
import sys
from pathlib import Path

import pytest

from exporter.libraries import PACKAGES

from .conftest import Write

ROOT = Path(__file__).resolve().parents[2]

WITHOUT = """
import ctypes, sys
if {version!r}:
    sys.version, sys.version_info = {version!r}, tuple(map(int, {version!r}.split(".")))
sys.modules.update(dict.fromkeys({modules}))  # each is then not to be imported
real = ctypes.CDLL
def load(name, *rest, **more):
    if name in {libraries}:
        raise OSError(f"{{name}}: cannot open shared object file: No such file or directory")
    return real(name, *rest, **more)
ctypes.CDLL = load
from exporter.__main__ import main
main()
"""
DAEMONS = ("h11", "prometheus_client")  # what no other command wants


def run(config: Path, *missing: str, version: str = "", command: str = "check") -> tuple[int, str]:
    """Runs a command where some modules or libraries are missing. Returns its exit code and stderr."""
    libraries = [name for name in missing if ".so" in name]
    modules = [name for name in missing if name not in libraries]
    code = WITHOUT.format(modules=modules, libraries=libraries, version=version)
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, command, "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "bcc"])
def test_a_missing_library_is_told_with_its_package(name: str, write: Write) -> None:
    """Whether the daemon's own processes want it or the child that reads the config: one line, and no traceback."""
    metric = "ebpf_p_total: {type: counter, help: Calls.}"
    path = write("config.yaml", f"probes: {{p: {{attach: 'uprobe:/bin/sh:main', metrics: {{{metric}}}}}}}\n")
    code, err = run(path, name, command="run" if name in DAEMONS else "check")
    [line] = err.splitlines()
    assert code == 1
    assert line.startswith("ebpf-exporter: ")
    assert name in line
    assert line.endswith(f"; install the package {PACKAGES[name]}")


def test_an_old_python_is_told(write: Write) -> None:
    """Python 3.9 reads so far as to say that it is too old."""
    expected = "ebpf-exporter: this is Python 3.9.2; install 3.11 or later\n"
    assert run(write("config.yaml", ""), version="3.9.2") == (1, expected)
