# SPDX-License-Identifier: Apache-2.0
"""The Debian package: made on the host, installed and removed in the machine."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "ebpf-exporter"
APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y")


def make(checkout: Path) -> Path:
    """Makes the package of a checkout, in its folder dist, and returns where it is."""
    done = subprocess.run([checkout / "deploy" / "debian" / "build"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.splitlines()[-1])


def made() -> Path:
    """Returns where the package is, in the machine's copy of the checkout."""
    [found] = (ROOT / "dist").glob(f"{NAME}_*_all.deb")
    return found


def run(*command: str) -> str:
    """Returns what a command said; fails with it."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


def install(package: Path) -> str:
    """Returns what apt said. All that it depends on is there."""
    return run(*APT, "install", "--no-install-recommends", str(package))


def purge() -> None:
    run("dpkg", "--purge", NAME)  # which is content where there is none
