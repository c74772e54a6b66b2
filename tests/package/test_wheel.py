# SPDX-License-Identifier: Apache-2.0
"""The wheel, installed as pipx does: in an environment of its own that sees the distribution's packages."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from exporter import __version__
from tests.package.conftest import ROOT, shipped


def run(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that sees the distribution's packages."""
    folder = tmp_path_factory.mktemp("environment")
    run("/usr/bin/python3", "-m", "venv", "--system-site-packages", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # with Debian's own setuptools, the oldest that will do
    run(environment / "bin" / "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, clone)
    [made] = folder.iterdir()
    return made


def test_it_has_the_whole_program_and_all_probes(wheel: Path) -> None:
    """Byte for byte; the probes within the package."""
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert found == {f"exporter/{name.removeprefix('exporter/')}": data for name, data in shipped(ROOT).items()}


def test_its_command_works_with_the_distributions_libraries(wheel: Path, environment: Path) -> None:
    """Nothing is fetched; the shipped config is good, so the shipped probes are found."""
    run(environment / "bin" / "pip", "install", "-q", "--no-index", wheel)
    command = environment / "bin" / "ebpf-exporter"
    assert run(command, "--version") == f"ebpf-exporter {__version__}\n"
    config = ROOT / "config.yaml"
    assert run(command, "check", "--config", config).endswith(
        f"{config}: good: file_io, file_opens, shell_commands, process_execs, xdp\n"
    )
