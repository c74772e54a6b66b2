# SPDX-License-Identifier: Apache-2.0
"""containers/names.py: what runtimes' files call their containers, and files that are not what they should be."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.containers import names
from exporter.containers.names import MOST_BYTES, Name, Names

from . import runtimes

ID = "4f0a7c1b9e2d" + "0" * 52
OTHER = "5f0a7c1b9e2d" + "1" * 52
UID = runtimes.POD_UID


def found(root: Path, identifier: str = ID) -> Name | None:
    return Names(root).find(identifier)


def plain(name: str) -> Name:
    return Name(name, name)


def test_docker(tmp_path: Path) -> None:
    """Docker's name is that of its config, without the slash; another container's is another's."""
    runtimes.docker(tmp_path, ID, "web")
    runtimes.docker(tmp_path, OTHER, "db")
    assert (found(tmp_path), found(tmp_path, OTHER)) == (plain("web"), plain("db"))
    assert found(tmp_path, "a" * 64) is None


def test_docker_elsewhere(tmp_path: Path) -> None:
    """Docker's state is where its daemon.json says."""
    runtimes.docker(tmp_path, ID, "web", "srv/docker")
    runtimes.docker(tmp_path, OTHER, "old")
    runtimes.write(tmp_path / "etc/docker/daemon.json", '{"log-driver": "local", "data-root": "/srv/docker"}')
    assert (found(tmp_path), found(tmp_path, OTHER)) == (plain("web"), None)


def test_podman(tmp_path: Path) -> None:
    """Podman's containers are listed in a file, those that are removed when they end in another beside it."""
    runtimes.storage(tmp_path, runtimes.stored(OTHER, "db"), runtimes.stored("a" * 64, "mail"))
    runtimes.storage(tmp_path, runtimes.stored(ID, "web"), file="volatile-containers.json")
    assert (found(tmp_path), found(tmp_path, OTHER)) == (plain("web"), plain("db"))


@pytest.mark.parametrize("path", ["etc/containers/storage.conf", "usr/share/containers/storage.conf"])
def test_podman_elsewhere(tmp_path: Path, path: str) -> None:
    """The storage is where storage.conf says, with any driver; a transient store is in the run root."""
    runtimes.write(tmp_path / path, '[storage]\ndriver = "vfs"\ngraphroot = "/srv/pods"\nrunroot = "/run/pods"\n')
    runtimes.storage(tmp_path, runtimes.stored(OTHER, "db"), folder="srv/pods/vfs-containers")
    runtimes.storage(tmp_path, runtimes.stored(ID, "web"), folder="run/pods/overlay-containers")
    assert (found(tmp_path), found(tmp_path, OTHER)) == (plain("web"), plain("db"))


def test_a_listing_is_read_again_when_it_is_another(tmp_path: Path) -> None:
    """What podman adds is found; a file that is the same is read once."""
    file = runtimes.storage(tmp_path, runtimes.stored(OTHER, "db"))
    known = Names(tmp_path)
    assert known.find(ID) is None
    new = runtimes.write(tmp_path / "new", json.dumps([runtimes.stored(ID, "web"), runtimes.stored(OTHER, "db")]))
    new.rename(file)  # as podman does it
    assert (known.find(ID), known.find(OTHER)) == (plain("web"), plain("db"))
    reads: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "_load", lambda *_: reads.append(1))
        assert known.find(ID) == plain("web")
    assert reads == [1]  # docker's, which is not there


def test_crio(tmp_path: Path) -> None:
    """Of CRI-O's names, kubelet's say the pod and the container; of a pod's first one, the pod."""
    runtimes.storage(
        tmp_path,
        runtimes.stored(ID, f"k8s_nginx_web-1_shop_{UID}_0"),
        runtimes.stored(OTHER, f"k8s_POD_web-1_shop_{UID}_0", f"k8s_web-1_shop_{UID}_0"),
    )
    assert found(tmp_path) == Name("shop/web-1/nginx", "shop/web-1")
    assert found(tmp_path, OTHER) == plain("shop/web-1")


def test_docker_in_kubernetes(tmp_path: Path) -> None:
    """Docker behind cri-dockerd has kubelet's names too."""
    runtimes.docker(tmp_path, ID, f"k8s_nginx_web-1_shop_{UID}_3")
    assert found(tmp_path) == Name("shop/web-1/nginx", "shop/web-1")


@pytest.mark.parametrize("run", ["run/containerd", "run/k3s/containerd"])
def test_containerd_in_kubernetes(tmp_path: Path, run: str) -> None:
    """Containerd's CRI notes pod and namespace of each container."""
    runtimes.containerd(tmp_path, "k8s.io", ID, runtimes.sandbox("web-1", "shop"), run)
    runtimes.containerd(tmp_path, "k8s.io", OTHER, runtimes.in_pod("nginx", "web-1", "shop"), run)
    assert found(tmp_path) == plain("shop/web-1")
    assert found(tmp_path, OTHER) == Name("shop/web-1/nginx", "shop/web-1")


def test_nerdctl(tmp_path: Path) -> None:
    """Nerdctl's name stands among its annotations, in whichever of containerd's namespaces it is."""
    runtimes.containerd(tmp_path, "moby", OTHER, None)
    runtimes.containerd(tmp_path, "default", ID, runtimes.nerdctl("web", ID))
    assert (found(tmp_path), found(tmp_path, OTHER)) == (plain("web"), None)


def test_docker_with_its_own_containerd(tmp_path: Path) -> None:
    """A bundle that names nothing does not hide docker's name."""
    runtimes.containerd(tmp_path, "moby", ID, None)
    runtimes.docker(tmp_path, ID, "web")
    assert found(tmp_path) == plain("web")


def test_whether_there_is_a_runtime(tmp_path: Path) -> None:
    """Without any runtime's folder no name will ever be found; with one, it may."""
    assert not Names(tmp_path).any
    runtimes.docker(tmp_path, ID, "web")
    assert Names(tmp_path).any


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("grün", "grün"),
        ('a"b\\c\n', 'a"b\\c\n'),
        ("\ud800x", "\\ud800x"),  # half a character, which no page can hold
        ("x" * 300, "x" * 255),
        ("k8s_a_b", "k8s_a_b"),
    ],
)
def test_any_name(tmp_path: Path, name: str, wanted: str) -> None:
    """A name may be any text; it is one that can be written down."""
    runtimes.docker(tmp_path, ID, name)
    runtimes.storage(tmp_path, runtimes.stored(OTHER, name))
    assert (found(tmp_path), found(tmp_path, OTHER)) == (plain(wanted), plain(wanted))
    wanted.encode()


# -- files that are not what they should be

TEXTS = {
    "nothing": "",
    "no JSON": "not JSON",
    "half": '[{"id": "',
    "deep": "[" * 200_000,
    "deep objects": '{"a":' * 100_000,
    "deep TOML": "a = " + "[" * 100_000,
    "a long number": "1" * 100_000,
    "null": "null",
    "a number": "7",
    "a list of lists": "[[]]",
    "wrong types": '[{"id": 7, "names": "x"}, {"names": ["a"]}, {"id": "x", "names": [1, null, ""]}]',
    "an object": '{"Name": ["x"], "annotations": ["x"]}',
    "wrong annotations": '{"Name": 7, "annotations": {"nerdctl/name": {}, "io.kubernetes.cri.sandbox-name": 5}}',
    "an empty name": '{"Name": "/", "annotations": {"nerdctl/name": ""}}',
    "bytes": "\udcff\udcfe",
}


def everywhere(root: Path, make: Callable[[Path], object]) -> None:
    """Puts something in the place of each runtime's file."""
    for path in (
        runtimes.docker(root, ID, "web"),
        runtimes.storage(root, runtimes.stored(ID, "web")),
        runtimes.containerd(root, "default", ID, runtimes.nerdctl("web", ID)),
        runtimes.write(root / "etc/docker/daemon.json", ""),
        runtimes.write(root / "etc/containers/storage.conf", ""),
    ):
        path.unlink()
        make(path)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_cannot_be_understood(tmp_path: Path, text: str) -> None:
    """A file that is not what it should be names nothing, and harms nothing."""
    everywhere(tmp_path, lambda path: path.write_bytes(os.fsencode(text)))
    assert found(tmp_path) is None


def huge(path: Path) -> None:
    path.write_text('{"Name": "/web", "annotations": {"nerdctl/name": "web"}}')
    os.truncate(path, MOST_BYTES + 1)


def link(path: Path) -> None:
    target = path.parents[1] / "elsewhere"
    target.write_text('{"Name": "/web", "annotations": {"nerdctl/name": "web"}}')
    path.symlink_to(target)


def folder(path: Path) -> None:
    path.mkdir()


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [huge, link, folder, os.mkfifo, zeros])
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Files that are too large, fifos, folders and symbolic links are not read, and not waited for."""
    everywhere(tmp_path, make)
    assert found(tmp_path) is None


def test_a_fifo_that_says_something(tmp_path: Path) -> None:
    """What somebody writes into a fifo is not read."""
    file = runtimes.docker(tmp_path, ID, "web")
    said = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    fd = os.open(file, os.O_RDWR)
    try:
        os.write(fd, said)
        assert found(tmp_path) is None
        assert os.read(fd, 1 << 16) == said
    finally:
        os.close(fd)


def test_a_link_on_the_way(tmp_path: Path) -> None:
    """A container's folder that is a link leads nowhere; the folder of the runtime may be one, as its owner made it."""
    runtimes.docker(tmp_path, ID, "web", "srv/docker")
    runtimes.docker(tmp_path, OTHER, "db", "srv/docker")
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "var/lib/docker").symlink_to(tmp_path / "srv/docker")
    containers = tmp_path / "srv/docker/containers"
    (containers / ID).rename(tmp_path / "moved")
    (containers / ID).symlink_to(tmp_path / "moved")
    assert (found(tmp_path), found(tmp_path, OTHER)) == (None, plain("db"))
