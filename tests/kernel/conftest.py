# SPDX-License-Identifier: Apache-2.0
"""What the tests on this kernel share: root, the workload generator, ways to leave out what a kernel lacks."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter import cgroups

Workload = Callable[..., dict[str, int]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        if "EBPF_EXPORTER_TEST_STRICT" in os.environ:
            raise pytest.UsageError("the tests on this kernel need root")
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def workload_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("workload.c", tmp_path_factory.mktemp("workload"), "-Wno-nonnull", "-Wno-stringop-overflow")


@pytest.fixture(scope="session")
def workload(workload_binary: Path) -> Workload:
    """Runs a task of the generator to its end; returns what it says it did: {"bytes": 1000003, "calls": 431}."""

    def run(*words: object, cwd: Path | None = None) -> dict[str, int]:
        command = [str(workload_binary), *map(str, words)]
        out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd)
        return {key: int(value) for key, _, value in (part.partition("=") for part in out.stdout.split())}

    return run


def built(source: str, folder: Path, *flags: str) -> Path:
    """Compiles a C file that is beside this one. Returns the program, in a folder."""
    made = folder / Path(source).stem
    command = ["gcc", "-O1", "-Wall", *flags, "-o", str(made), str(Path(__file__).with_name(source))]
    subprocess.run(command, check=True)
    return made


@pytest.fixture
def top() -> Iterator[bytes]:
    """A cgroup of version 2 for one test: its folder. Whatever was made in it is gone afterwards."""
    found = cgroups.mounted()
    mount = None
    if found is None or found[1]:
        mount = tempfile.mkdtemp()
        os.chmod(mount, 0o755)  # noqa: PTH101 - the worker has to look at it
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", mount], check=True)
    folder = (os.fsencode(mount) if mount else found[0] if found else b"") + b"/ebpf-exporter-test-%d" % os.getpid()
    os.mkdir(folder)  # noqa: PTH102 - paths of any bytes
    yield folder
    for path, _, _ in os.walk(folder, topdown=False):
        os.rmdir(path)  # noqa: PTH106
    if mount:
        subprocess.run(["umount", mount], check=True)
        os.rmdir(mount)  # noqa: PTH106


def lacks(mechanism: str, reason: str) -> None:
    """Skips a test for a mechanism that this kernel lacks, unless EBPF_EXPORTER_TEST_MECHANISMS says that it has it."""
    if mechanism in os.environ.get("EBPF_EXPORTER_TEST_MECHANISMS", "").split():
        pytest.fail(f"{mechanism} should work here: {reason}")
    pytest.skip(f"{mechanism}: {reason}")
