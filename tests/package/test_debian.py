# SPDX-License-Identifier: Apache-2.0
"""The Debian package as it is built; tests/vm/test_service.py installs it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from exporter import __version__
from tests.package.conftest import ROOT, shipped

NOBODY = 65534


def run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


def built(clone: Path, target: Path) -> Path:
    """Builds as a user without rights, where the test may choose."""
    target.mkdir()
    prefix: list[str] = []
    if os.geteuid() == 0:
        os.chown(target, NOBODY, NOBODY)
        prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env", "HOME=/nonexistent"]
    said = run(*prefix, str(clone / "deploy" / "debian" / "build"), str(target))
    assert said == f"{target}/ebpf-exporter_{__version__}_all.deb\n"
    return Path(said.strip())


@pytest.fixture(scope="module")
def package(clone: Path) -> Path:
    if shutil.which("dh_python3") is None:
        pytest.skip("needs debhelper and dh-python")
    return built(clone, clone.parent / "built")


@pytest.fixture(scope="module")
def content(package: Path) -> Path:
    """What it would put into a file system."""
    folder = package.parent / "content"
    run("dpkg-deb", "-x", str(package), str(folder))
    return folder


def test_it_has_the_whole_program_and_all_probes(content: Path) -> None:
    """Byte for byte; and the command, the unit, its user, the manual page and the documents."""
    assert shipped(content / "usr" / "share" / "ebpf-exporter") == shipped(ROOT)
    assert (content / "usr/bin/ebpf-exporter").resolve() == content / "usr/share/ebpf-exporter/deploy/ebpf-exporter"
    unit = ROOT / "deploy" / "systemd" / "ebpf-exporter.service"
    assert (content / "usr/lib/systemd/system/ebpf-exporter.service").read_text() == unit.read_text()
    assert (content / "usr/lib/sysusers.d/ebpf-exporter.conf").exists()
    assert (content / "usr/share/man/man8/ebpf-exporter.8.gz").exists()
    documents = {path.name.removesuffix(".gz") for path in (content / "usr/share/doc/ebpf-exporter").iterdir()}
    expected = {path.name for path in (ROOT / "docs").glob("*.md")} | {"README.md", "copyright", "changelog", "probes"}
    assert documents == expected


def test_it_has_dashboards_rules_and_schemas(content: Path) -> None:
    """Byte for byte, and not what the dashboards are made by; the config names a schema that is there."""
    share = content / "usr" / "share" / "ebpf-exporter"

    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert sorted(path.name for path in (share / "grafana").iterdir()) == ["dashboards", "provisioning"]
    for name in ("dashboards", "provisioning"):
        assert files(share / "grafana" / name) == files(ROOT / "grafana" / name)
    assert files(share / "prometheus") == files(ROOT / "deploy" / "prometheus")
    assert files(share / "editors") == files(ROOT / "deploy" / "editors")
    named = re.findall(r"^# yaml-language-server: \$schema=/(.+)$", (ROOT / "config.yaml").read_text(), re.MULTILINE)
    assert len(named) == 1
    assert (content / named[0]).is_file()


def test_shells_find_its_completion(content: Path) -> None:
    """Where each looks, by the command's name."""
    for shell, place in (
        ("bash", "bash-completion/completions/ebpf-exporter"),
        ("zsh", "zsh/vendor-completions/_ebpf-exporter"),
        ("fish", "fish/vendor_completions.d/ebpf-exporter.fish"),
    ):
        installed = content / "usr" / "share" / place
        assert installed.read_text() == (ROOT / "deploy" / "completion" / shell / installed.name).read_text()


def test_its_config_alone_is_a_conffile(package: Path) -> None:
    """So dpkg keeps what a user wrote there, and nothing else."""
    assert run("dpkg-deb", "-I", str(package), "conffiles") == "/etc/ebpf-exporter/config.yaml\n"


def test_it_depends_on_what_the_exporter_runs_on(package: Path) -> None:
    """All are packages of this Debian."""
    wanted = run("sh", "-c", f". {ROOT}/deploy/packages.sh; echo $RUNTIME_PACKAGES").split()
    depends = run("dpkg-deb", "-f", str(package), "Depends")
    named = re.findall(r"[a-z][a-z0-9.+-]+", re.sub(r"\([^)]*\)|:any", "", depends))
    assert set(wanted) <= set(named)
    assert set(named) - set(wanted) <= {"systemd", "systemd-standalone-sysusers", "systemd-sysusers"}
    known = re.findall(r"^Package: (.+)$", run("apt-cache", "show", "--no-all-versions", *wanted), re.MULTILINE)
    assert sorted(known) == sorted(wanted)


def test_lintian_finds_nothing(package: Path) -> None:
    """No error and no warning."""
    if shutil.which("lintian") is None:
        pytest.skip("needs lintian")
    run("lintian", "--no-cfg", "--fail-on", "error,warning", str(package))


def test_the_same_tree_gives_the_same_package(package: Path, clone: Path) -> None:
    """Byte for byte."""
    assert built(clone, clone.parent / "again").read_bytes() == package.read_bytes()
