# SPDX-License-Identifier: Apache-2.0
"""Builds the disk images that the test machines boot, unpacks the emulator that boots them, and keeps both in a cache.

An image is two files: the distribution's own kernel, and its userland as a raw ext4 disk. There is no initial RAM disk:
Debian's cloud kernels have the drivers of an NVMe disk and of ext4 built in, and a boot without one is much faster
under emulation.

The emulator is one distribution's, whichever the host is: it is unpacked beside the images, not installed. Debian 12's,
QEMU 7.2, may run code of a kernel's that another processor has just changed (mended in 8.1): machines panicked at
breakpoints that were gone.

The cache lies outside the tree: $EBPF_EXPORTER_VM_CACHE, else $XDG_CACHE_HOME/ebpf-exporter-tests, else
/var/cache/ebpf-exporter-tests. What is in it is never changed, so its packages are those of the day it was made; remove
its folder to have it made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

AGENT = Path(__file__).with_name("agent.py")
AGENT_IN_GUEST = "usr/local/sbin/vm-agent"

# The file is sparse: only what is written to it takes room on the host.
DISK_SIZE = "6G"

# What the kernel must have built in to find its disk and its root file system without an initial RAM disk.
BUILT_IN = ("CONFIG_BLK_DEV_NVME=y", "CONFIG_EXT4_FS=y")

# Which of the host's apt settings the build needs too: how to reach the archive, and how old its index may be. The rest
# (hooks, cleaning, languages) is about the host's own packages.
APT_SETTINGS = (
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-Date ",
    "Acquire::Check-Valid-Until ",
    "Acquire::ForceIPv4 ",
    "Acquire::ForceIPv6 ",
    "Acquire::Retries ",
)

# Started by a running system only after it is up, at times of their own choosing: noise in what the tests count. And
# what a package brings that the tests start for themselves.
MASKED_UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty-static.service",
    "getty@tty1.service",
    "prometheus.service",
    "serial-getty@ttyS0.service",
    "systemd-tmpfiles-clean.timer",
)

AGENT_UNIT = f"""\
[Unit]
Description=Runs the commands that the host sends

[Service]
ExecStart=/usr/bin/python3 -I /{AGENT_IN_GUEST}
Environment=HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LimitMEMLOCK=infinity
OOMPolicy=continue
StandardError=journal+console
# Without its agent the machine is of no use, and the host would wait in vain. That it is stopped, at a reboot, is none.
FailureAction=poweroff-force
"""

AGENT_RULE = """\
SUBSYSTEM=="virtio-ports", ATTR{name}=="agent", TAG+="systemd", ENV{SYSTEMD_WANTS}+="vm-agent.service"
"""

# Emulated processors are slow; a busy host makes them slower still.
MANAGER_SETTINGS = """\
[Manager]
DefaultTimeoutStartSec=300s
DefaultDeviceTimeoutSec=300s
"""


class ImageError(Exception):
    """An image cannot be built."""


@dataclass(frozen=True)
class Image:
    """What an image is made of: a name, the distribution's suite ('bookworm') and the packages installed in it.

    With `kernel_suite` its kernel is that suite's ('bookworm-backports'). `apt` are settings for its build.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    kernel_suite: str = ""
    apt: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltImage:
    """The files of a built image, ready to boot."""

    kernel: Path
    disk: Path


USERLAND = (
    "bash",
    "bpftool",
    "bpftrace",
    "curl",
    "gcc",
    "iproute2",
    "libbpf1",
    "libc6-dev",
    "openssl",
    "procps",
    "prometheus",
    "python3-bcrypt",
    "python3-bpfcc",
    "python3-h11",
    "python3-jsonschema",
    "python3-prometheus-client",
    "python3-pyelftools",
    "python3-pytest",
    "python3-seccomp",
    "python3-yaml",
    "sudo",
    "systemd",
    "systemd-sysv",
    "systemtap-sdt-dev",
    "udev",
    "util-linux",
)

KERNEL = ("linux-image-cloud-amd64", "linux-headers-cloud-amd64")

IMAGES = {
    image.name: image
    for image in (
        # the oldest kernel that is promised to do
        Image(
            name="debian-12-bullseye",
            suite="bookworm",
            packages=USERLAND + KERNEL,
            kernel_suite="bullseye",
        ),
        Image(name="debian-12", suite="bookworm", packages=USERLAND + KERNEL),
        Image(
            name="debian-12-backports",
            suite="bookworm",
            packages=USERLAND + KERNEL,
            kernel_suite="bookworm-backports",
        ),
        Image(name="debian-13", suite="trixie", packages=USERLAND + KERNEL),
        # the archive's index of unstable is said to be good for a week; an older one is as good here
        Image(
            name="debian-sid",
            suite="sid",
            packages=USERLAND + KERNEL,
            apt=('Acquire::Check-Valid-Until "false";',),
        ),
    )
}

# for tests/bench/run: the first with what is measured beside us; what every run of the tests needs stays small
_BENCH = dataclasses.replace(
    IMAGES["debian-12"],
    name="bench-debian-12",
    packages=(*IMAGES["debian-12"].packages, "bpfcc-tools", "libbpf-dev", "libbpf-tools"),
)
IMAGES[_BENCH.name] = _BENCH

# the first with a container engine, and a program of one file for an image that is pulled from nowhere
_PODMAN = dataclasses.replace(
    IMAGES["debian-12"],
    name="podman-debian-12",
    packages=(
        *IMAGES["debian-12"].packages,
        *("busybox-static", "crun", "dbus", "iptables", "netavark", "podman"),
    ),
)
IMAGES[_PODMAN.name] = _PODMAN


# what emulates: unpacked, and run where it is
EMULATOR = Image(name="emulator", suite="trixie", packages=("qemu-system-x86",))


def built(image: Image) -> BuiltImage:
    """Return the files of `image`, building them first if the cache has none made from the same recipe.

    Raises ImageError when a step of the build fails.
    """
    folder = _kept(image, _build)
    return BuiltImage(kernel=folder / "vmlinuz", disk=folder / "root.img")


def emulator() -> tuple[str, ...]:
    """Return the words that a command of QEMU's begins with, unpacking it first if the cache has none.

    Raises ImageError when that fails.
    """
    root = _kept(EMULATOR, _unpack)
    libraries = root / "usr/lib/x86_64-linux-gnu"
    return (
        *("env", f"QEMU_MODULE_DIR={libraries / 'qemu'}"),
        # with the C library that it was linked with
        *(str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)),
        str(root / "usr/bin/qemu-system-x86_64"),
        *(word for name in ("qemu", "seabios") for word in ("-L", str(root / "usr/share" / name))),
    )


def _kept(image: Image, make: Callable[[Image, Path], None]) -> Path:
    """Return the folder of the cache that has what `make` makes of `image`, made first if there is none."""
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot make the image cache {cache}: {error}; set EBPF_EXPORTER_VM_CACHE") from error
    folder = cache / f"{image.name}-{_recipe_hash(image)}"
    with _locked(cache / f"{image.name}.lock"):
        if not folder.is_dir():
            _report(f"making {image.name} in {folder}")
            _remove_old_builds(image, cache)
            make(image, folder)
    return folder


def cache_folder() -> Path:
    """Return the folder that holds the built images."""
    if own := os.environ.get("EBPF_EXPORTER_VM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "ebpf-exporter-tests"


def _recipe_hash(image: Image) -> str:
    # The text of this module and of the agent is the recipe: a change to either must give a new image.
    recipe = repr(image).encode() + Path(__file__).read_bytes() + AGENT.read_bytes()
    return hashlib.sha256(recipe).hexdigest()[:16]


def _remove_old_builds(image: Image, cache: Path) -> None:
    # One build of an image is about 1 GiB. A machine still running on an old one keeps its files open.
    # Eight characters are tempfile's: another image's name may begin with this one's.
    unfinished = cache.glob(f".{image.name}-{'?' * 8}")
    for old in (*cache.glob(f"{image.name}-{'[0-9a-f]' * 16}"), *unfinished):
        shutil.rmtree(old)


def _build(image: Image, folder: Path) -> None:
    if os.geteuid() != 0:
        raise ImageError(f"building the image {image.name} needs root: mmdebstrap mounts file systems and sets owners")
    # Beside its destination, so that the finished image is put in place by one rename.
    with tempfile.TemporaryDirectory(prefix=f".{image.name}-", dir=folder.parent) as scratch:
        root = Path(scratch, "root")
        product = Path(scratch, "product")
        product.mkdir()
        # No initial RAM disk is booted; the kernel's package would spend seconds on making one.
        _run(_mmdebstrap_command(image, "apt", root), {"INITRD": "No", "TMPDIR": scratch})
        _configure(root, image)
        _check_kernel(root)
        shutil.copyfile(_only(root, "boot/vmlinuz-*"), product / "vmlinuz")
        disk = product / "root.img"
        _run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "nodiscard", "-d", str(root), str(disk), DISK_SIZE])
        product.rename(folder)


def _unpack(image: Image, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{image.name}-", dir=folder.parent) as scratch:
        root = Path(scratch, "root")
        _run(_mmdebstrap_command(image, "extract", root), {"TMPDIR": scratch})
        root.rename(folder)


def _mmdebstrap_command(image: Image, variant: str, root: Path) -> list[str]:
    # No mirror is named: mmdebstrap then takes the distribution's own, with its updates and security fixes.
    return [
        # Dies with this process, in namespaces of its own: when the build is killed, none of its processes stays, and
        # no mount of the host's /dev or /sys is left in the folder that is then removed.
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--format=directory",
        f"--variant={variant}",
        *(f"--setup-hook={hook}" for hook in _hooks(image)),
        f"--include={','.join(image.packages)}",
        # The build is thrown away as a whole if the host goes down: nothing needs to reach the disk at once.
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "info", "locale", "man")),
        *(f"--aptopt={setting}" for setting in (*_host_apt_settings(), *image.apt)),
        image.suite,
        str(root),
    ]


def _hooks(image: Image) -> list[str]:
    """Return commands that tell apt where the kernel is, for the root in "$1"."""
    if not image.kernel_suite:
        return []
    source = f"deb http://deb.debian.org/debian {image.kernel_suite} main"
    # Not PACKAGE/SUITE, which has apt take what the package depends on from there as well: an old C library.
    pin = f"Package: {' '.join(KERNEL)}\nPin: release n={image.kernel_suite}\nPin-Priority: 990"
    return [
        f'echo {shlex.quote(source)} >>"$1"/etc/apt/sources.list',
        f'echo {shlex.quote(pin)} >"$1"/etc/apt/preferences.d/kernel',
    ]


def _host_apt_settings() -> list[str]:
    # One setting a line, for example:  Acquire::http::Proxy "http://localhost:3142";
    dump = _run(["apt-config", "dump"])
    return [line for line in dump.splitlines() if line.startswith(APT_SETTINGS) and not line.endswith(' "";')]


def _configure(root: Path, image: Image) -> None:
    # The host's way to reach the archive does not hold inside; the machine has no network at all.
    Path(root, "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    Path(root, "etc/hostname").write_text(f"{image.name}\n")
    Path(root, "etc/hosts").write_text(f"127.0.0.1 localhost {image.name}\n::1 localhost\n")
    # The kernel mounts the root file system itself, and nothing else is to be mounted or checked.
    Path(root, "etc/fstab").write_text("")
    # Without a machine id systemd takes each boot for the first one, and sets up the whole system again.
    machine_id = hashlib.md5(image.name.encode(), usedforsecurity=False).hexdigest()
    Path(root, "etc/machine-id").write_text(f"{machine_id}\n")

    manager = Path(root, "etc/systemd/system.conf.d/slow-processors.conf")
    manager.parent.mkdir(parents=True, exist_ok=True)
    manager.write_text(MANAGER_SETTINGS)

    units = Path(root, "etc/systemd/system")
    for name in MASKED_UNITS:
        Path(units, name).unlink(missing_ok=True)
        Path(units, name).symlink_to("/dev/null")
    Path(units, "vm-agent.service").write_text(AGENT_UNIT)
    Path(root, "etc/udev/rules.d/vm-agent.rules").write_text(AGENT_RULE)
    agent = Path(root, AGENT_IN_GUEST)
    agent.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(AGENT, agent)


def _check_kernel(root: Path) -> None:
    config = _only(root, "boot/config-*")
    settings = config.read_text().splitlines()
    if missing := [setting for setting in BUILT_IN if setting not in settings]:
        raise ImageError(
            f"the kernel of {config.name} cannot boot without an initial RAM disk: not {', '.join(missing)}"
        )


def _only(root: Path, pattern: str) -> Path:
    found = list(root.glob(pattern))
    if len(found) != 1:
        raise ImageError(
            f"expected one /{pattern} in the image, found {len(found)}; install exactly one kernel package"
        )
    return found[0]


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Return what `command`, run with `environment` added to this process's own, wrote to its standard output."""
    try:
        return subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        ).stdout
    except FileNotFoundError as error:
        raise ImageError(f"cannot run {command[0]}: not installed") from error
    except subprocess.CalledProcessError as error:
        raise ImageError(f"exit status {error.returncode} of: {shlex.join(command)}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _report(message: str) -> None:
    print(f"vm: {message}", file=sys.stderr, flush=True)
