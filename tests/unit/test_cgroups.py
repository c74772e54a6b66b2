# SPDX-License-Identifier: Apache-2.0
"""cgroups.py: ids to paths in a tree of folders, paths to units and containers for every runtime."""

import os
from pathlib import Path

import pytest

from exporter import cgroups
from exporter.cgroups import BORN_PATH, UNKNOWN, Paths, container, unit

ID = "4f0a7c1b9e2d" + "0" * 52
SHORT = "4f0a7c1b9e2d"
USERS = "/user.slice/user-1000.slice/user@1000.service"
POD = "kubepods-besteffort-pod1fa6c7ab_9a80_4c0e_b2a5_0d3c6f4d9e10.slice"


def mountinfo(folder: Path, root: str = "/", kind: str = "cgroup2") -> str:
    device = os.stat(folder).st_dev  # noqa: PTH116 - as lstat beside it in the code
    name = str(folder).replace(" ", "\\040")
    return f"31 24 {os.major(device)}:{os.minor(device)} {root} {name} rw,nosuid shared:9 - {kind} {kind} rw\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hierarchy."""
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(cgroups, "MOUNTS", mounts)
    top = tmp_path / "c group"
    top.mkdir()
    mounts.write_text(
        "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"24 23 0:22 / {top} ro - tmpfs tmpfs ro\n"
        f"25 23 0:23 / {tmp_path} rw - cgroup2 cgroup2 rw\n"  # under another mount: its device is not what is seen
        + mountinfo(top, kind="cgroup")
        + mountinfo(top)
    )
    return top


def number(path: Path) -> int:
    return path.stat().st_ino


def make(tree: Path, *paths: str) -> list[int]:
    for path in paths:
        (tree / path).mkdir(parents=True)
        (tree / path / "cgroup.procs").touch()
    return [number(tree / path) for path in paths]


def test_ids_are_inodes(tree: Path) -> None:
    """Every folder of the hierarchy has its path, the root's is /; files have none."""
    ids = make(tree, "init.scope", "system.slice/ssh.service", "a/b/c/d")
    paths = Paths()
    assert [paths.path(one) for one in ids] == ["/init.scope", "/system.slice/ssh.service", "/a/b/c/d"]
    assert paths.path(number(tree)) == "/"
    assert paths.path(number(tree / "a" / "b")) == "/a/b"
    assert paths.path(number(tree / "a" / "b" / "c" / "d" / "cgroup.procs")) == UNKNOWN


def test_what_is_gone_keeps_its_name(tree: Path) -> None:
    """A cgroup that was known reads the same after its end; one that ended before reads as unknown, like all such."""
    [known, early] = make(tree, "known", "early")
    (tree / "early" / "cgroup.procs").unlink()
    (tree / "early").rmdir()
    paths = Paths()
    paths.walk()
    (tree / "known" / "cgroup.procs").unlink()
    (tree / "known").rmdir()
    assert paths.path(known) == "/known"
    assert (paths.path(early), paths.path(2**63)) == (UNKNOWN, UNKNOWN)


def test_one_walk_a_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown ids cost one walk until the next read, and one that no walk has found is not looked for again."""
    walks: list[int] = []
    found = cgroups.found
    monkeypatch.setattr(cgroups, "found", lambda: walks.append(1) or found())  # type: ignore[func-returns-value]
    [first] = make(tree, "first")
    paths = Paths()
    assert [paths.path(one) for one in (first, 10**9, 10**9 + 1, first)] == ["/first", UNKNOWN, UNKNOWN, "/first"]
    assert len(walks) == 1
    paths.next_read()
    assert [paths.path(one) for one in (10**9, 10**9 + 1)] == [UNKNOWN, UNKNOWN]
    assert len(walks) == 1
    [second] = make(tree, "second")
    assert [paths.path(one) for one in (first, second)] == ["/first", "/second"]
    assert len(walks) == 2


def test_births_need_no_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a drain brings is known, with any bytes that a name may have; the longest that fits too."""
    monkeypatch.setattr(cgroups, "found", lambda: pytest.fail("a walk"))
    names = [b"/a", b"/a/\xff\xfe", b'/"quoted"\\', b"/" + b"x" * (BORN_PATH - 2)]
    numbers = b"".join((7 + at).to_bytes(8, "little") for at in range(len(names)))
    paths = Paths()
    paths.learn_all(memoryview(numbers), memoryview(b"".join(name.ljust(BORN_PATH, b"\0") for name in names)))
    assert [paths.path(7 + at) for at in range(4)] == ["/a", "/a/\\xff\\xfe", '/"quoted"\\', "/" + "x" * 382]


@pytest.mark.usefixtures("tree")
def test_the_table_is_bounded() -> None:
    """Of more ids than are remembered, those stay that were last asked for or learnt."""
    paths = Paths(most=3)
    for one in range(1, 4):
        paths.learn(10**9 + one, b"/%d" % one)
    assert paths.path(10**9 + 1) == "/1"
    paths.learn(10**9 + 4, b"/4")
    assert len(paths) == 3
    paths.walk()  # finds the root alone
    assert [paths.path(10**9 + one) for one in (1, 4, 2)] == ["/1", "/4", UNKNOWN]
    assert len(paths) == 3


def test_without_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where version 2 is not mounted, or nothing can be read of it, all is unknown and nothing fails."""
    monkeypatch.setattr(cgroups, "MOUNTS", tmp_path / "missing")
    assert Paths().path(1) == UNKNOWN
    (tmp_path / "missing").write_text("25 23 0:23 / /nowhere rw - cgroup2 cgroup2 rw\nnonsense\n\n")
    assert cgroups.mounted() is None
    assert Paths().path(1) == UNKNOWN


@pytest.mark.parametrize("root", ["/", "/..", "/../../.."])
def test_cgroups_of_a_namespace(tree: Path, root: str) -> None:
    """In a container with cgroups of its own, paths begin at what is its root."""
    cgroups.MOUNTS.write_text(mountinfo(tree, root))
    [inner] = make(tree, "inner")
    assert Paths().path(inner) == "/inner"


def test_a_part_that_is_mounted(tree: Path) -> None:
    """Where a part of the hierarchy is mounted, paths are whole; the whole hierarchy is preferred to a part."""
    [inner] = make(tree, "part/in ner")
    cgroups.MOUNTS.write_text(mountinfo(tree / "part", "/my\\040part"))
    assert Paths().path(inner) == "/my part/in ner"
    assert Paths().path(number(tree / "part")) == "/my part"
    with cgroups.MOUNTS.open("a") as file:
        file.write(mountinfo(tree))
    assert Paths().path(inner) == "/part/in ner"


def test_hostile_names(tree: Path) -> None:
    """A name is what it is, whatever is in it; a folder of any depth is walked without recursion."""
    names = [b"n\newline", b'q"uote', b"back\\slash", b"\xff\xfe", b"x" * 255, b"(unknown)", b"%s{}", "ü".encode()]
    for name in names:
        os.mkdir(os.fsencode(tree) + b"/" + name)  # noqa: PTH102 - no Path of bytes
    wanted = [name.decode("utf-8", "backslashreplace") for name in names]
    paths = Paths()
    found = [paths.path(os.lstat(os.fsencode(tree) + b"/" + name).st_ino) for name in names]
    assert found == [f"/{name}" for name in wanted]
    deep = tree
    for _ in range(1200):
        deep = deep / "d"
        if len(str(deep)) > 3900:
            break
        deep.mkdir()
        last = number(deep)
    paths.next_read()
    found_deep = paths.path(last)
    while deep != tree:  # deeper than what tidies up behind tests can go
        if deep.exists():
            deep.rmdir()
        deep = deep.parent
    assert found_deep.endswith("/d/d/d")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", ""),
        ("/init.scope", "init.scope"),
        ("/system.slice", "system.slice"),
        ("/system.slice/ssh.service", "ssh.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/system.slice/docker.service/init", "docker.service"),
        ("/system.slice/dev-disk-by\\x2duuid-1.swap", "dev-disk-by\\x2duuid-1.swap"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/foot.service", "user@1000.service"),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope"),
        (f"/kubepods.slice/{POD}/cri-containerd-{ID}.scope", f"cri-containerd-{ID}.scope"),
        (f"/kubepods.slice/{POD}", POD),
        ("/machine.slice/machine-web.scope/payload/system.slice/nginx.service", "machine-web.scope"),
        (f"/docker/{ID}", ""),
        ("/lxc.payload.web/system.slice/ssh.service", ""),
        ("/system.slice/no unit", "system.slice"),
        ("/system.slice/a.service\n", "system.slice"),
        ("/system.slice/@.service", "system.slice"),
        ("/system.slice/a@.service", "system.slice"),
        ("/system.slice/.service", "system.slice"),
        ("/system.slice/a.services", "system.slice"),
        (f"/system.slice/{'x' * 247}.service", f"{'x' * 247}.service"),
        (f"/system.slice/{'x' * 248}.service", "system.slice"),
        ("/ssh.service", "ssh.service"),
        (UNKNOWN, UNKNOWN),
    ],
)
def test_unit(path: str, wanted: str) -> None:
    """The unit is the first folder of a path that is no slice, by systemd's own rules of what is a unit's name."""
    assert unit(path) == wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", ""),
        ("/system.slice/ssh.service", ""),
        # docker, with systemd and without, and what an init in it makes
        (f"/system.slice/docker-{ID}.scope", SHORT),
        (f"/docker/{ID}", SHORT),
        (f"/docker/{ID}/init.scope", SHORT),
        (f"/system.slice/docker-{ID}.scope/system.slice/ssh.service", SHORT),
        # podman: as root, for a user, with crun's folder, without systemd; not its monitor
        (f"/machine.slice/libpod-{ID}.scope", SHORT),
        (f"/machine.slice/libpod-{ID}.scope/container", SHORT),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", f"user@1000/{SHORT}"),
        (f"/libpod_parent/libpod-{ID}", SHORT),
        (f"/system.slice/web.service/libpod-payload-{ID}", SHORT),
        (f"/machine.slice/libpod-conmon-{ID}.scope", ""),
        (f"/libpod_parent/libpod-conmon-{ID}", ""),
        # Kubernetes: containerd and CRI-O, with systemd and without
        (f"/kubepods.slice/kubepods-besteffort.slice/{POD}/cri-containerd-{ID}.scope", SHORT),
        (f"/kubepods.slice/kubepods-besteffort.slice/{POD}/crio-{ID}.scope/container", SHORT),
        (f"/kubepods.slice/kubepods-besteffort.slice/{POD}/crio-conmon-{ID}.scope", ""),
        (f"/kubepods/burstable/pod1fa6c7ab-9a80-4c0e-b2a5-0d3c6f4d9e10/{ID}", SHORT),
        (f"/system.slice/containerd.service/{POD}:cri-containerd:{ID}", SHORT),
        (f"/kubepods.slice/{POD}", ""),
        # in a node that is a container itself, the node: it may call what it makes as it likes
        (f"/docker/{'a' * 64}/kubelet.slice/kubelet-kubepods.slice/{POD}/cri-containerd-{ID}.scope", "a" * 12),
        ("/lxc.payload.bad/machine.slice/machine-good.scope", "bad"),
        (f"/lxc.payload.bad/docker-{ID}.scope/lxc.payload.good", "bad"),
        (f"/lxc.payload.bad/user@1000.service/docker-{ID}.scope", "bad"),
        # what a user's own manager may make is the user's
        (f"{USERS}/docker-{ID}.scope", f"user@1000/{SHORT}"),
        (f"{USERS}/app.slice/x.service/kubepods/{ID}/machine-good.scope", f"user@1000/{SHORT}"),
        (f"{USERS}/app.slice/lxc.payload.web", "user@1000/web"),
        (f"{USERS}/machine.slice/machine-web\\x2d1.scope", "user@1000/web-1"),
        (f"{USERS}/user@0.service/machine-web.scope", "user@1000/web"),
        (f"{USERS}/app.slice/dbus.service", ""),
        # containerd by itself
        (f"/default/{ID}", SHORT),
        (f"/system.slice/nerdctl-{ID}.scope", SHORT),
        # LXC, LXD, Incus; not their monitor
        ("/lxc.payload.web-1", "web-1"),
        ("/lxc.payload.web.example/system.slice/ssh.service", "web.example"),
        ("/lxc.monitor.web-1", ""),
        ("/lxc.payload.", ""),
        # systemd-nspawn and libvirt
        ("/machine.slice/machine-web.scope", "web"),
        ("/machine.slice/machine-web\\x2d1.scope/payload/init.scope", "web-1"),
        ("/machine.slice/machine-qemu\\x2d1\\x2dwin.scope/libvirt/vcpu0", "qemu-1-win"),
        ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/ssh.service", "web"),
        ("/machine.slice/machine-gr\\xc3\\xbcn\\xff.scope", "grün\\xff"),
        # what only looks like one
        (f"/docker/{ID[:-1]}", ""),
        (f"/docker/{ID}0", ""),
        (f"/docker/{ID.upper()}", ""),
        (f"/docker/docker-{ID}.scope\n", ""),
        (f"/a/x{ID}", ""),
        ("/lxc.payload.new\nline", "new\nline"),
        ('/lxc.payload."quoted"', '"quoted"'),
        (UNKNOWN, UNKNOWN),
    ],
)
def test_container(path: str, wanted: str) -> None:
    """A container is known by how its runtime names the cgroup that it makes."""
    assert container(path) == wanted
