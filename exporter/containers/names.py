# SPDX-License-Identifier: Apache-2.0
"""What runtimes call their containers, by the files in which they keep their state.

Those are root's, and what stands in them is in part what others wrote: a file is read only if it is a regular one of a
size that makes sense, at the end of no symbolic link, and what can't be understood names nothing.

  docker       ROOT/containers/ID/config.v2.json {"Name": "/web"}; ROOT is data-root of /etc/docker/daemon.json
  podman,      ROOT/overlay-containers/containers.json [{"id": ID, "names": ["web"]}], and volatile-containers.json
  CRI-O        beside it or below the run root; the roots are graphroot and runroot of storage.conf
  containerd   RUN/io.containerd.runtime.v2.task/NAMESPACE/ID/config.json {"annotations": {"nerdctl/name": "web"}}

What Kubernetes runs reads namespace/pod/container; what keeps a pod's network namespace, and its interface,
namespace/pod.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.child import isolated

MOST_BYTES = 4 << 20  # of a file: podman's has about 700 bytes for each container
MOST_CHARACTERS = 255  # of a name

_DOCKER = "var/lib/docker"
_STORAGE = ("var/lib/containers/storage", "run/containers/storage")  # graphroot, runroot
_STORAGE_CONF = ("etc/containers/storage.conf", "usr/share/containers/storage.conf")  # the first that is there
_STORED = ("containers.json", "volatile-containers.json")
_CONTAINERD = ("run/containerd", "run/k3s/containerd")
_TASKS = "io.containerd.runtime.v2.task"
_CRI = "io.kubernetes.cri."
_NERDCTL = "nerdctl/name"

# how kubelet has docker and CRI-O call what it wants: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT, POD is a pod's first
_KUBERNETES = re.compile(r"k8s_([^_]+)_([^_]+)_([^_]+)_[^_]+_\d+")


@dataclass(frozen=True)
class Name:
    """What a container is called. network is what its network namespace is called: a pod's is the pod's."""

    container: str
    network: str


@dataclass
class _Stored:
    """A file that lists containers, as it was when it was last read."""

    version: tuple[int, int, int] = (0, 0, 0)
    names: dict[str, Name] | None = None


class Names:
    """The names of containers, by their ids of 64 digits."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        docker, stores = isolated(settings, root)
        self._docker = root / docker
        self._stores = [root / store for store in stores]
        self._stored: dict[Path, _Stored] = {}

    @property
    def any(self) -> bool:
        """Whether there is a runtime whose names could be known."""
        places = [self._docker, *self._stores, *(self._root / run for run in _CONTAINERD)]
        return any(place.is_dir() for place in places)

    def find(self, identifier: str) -> Name | None:
        """Returns the name of a container; None where none is known, or not yet."""
        for look in (self._of_docker, self._of_containerd, self._of_storage):
            if found := look(identifier):
                return found
        return None

    def _of_docker(self, identifier: str) -> Name | None:
        state = _load(self._docker, ("containers", identifier, "config.v2.json"), {"Name"})
        name = state.get("Name") if isinstance(state, dict) else None
        return _named([name.removeprefix("/")]) if isinstance(name, str) else None

    def _of_containerd(self, identifier: str) -> Name | None:
        for run in _CONTAINERD:
            tasks = self._root / run / _TASKS
            for namespace in _listed(tasks):
                spec = _load(tasks, (namespace, identifier, "config.json"), None)
                annotations = spec.get("annotations") if isinstance(spec, dict) else None
                if isinstance(annotations, dict) and (found := _annotated(annotations)):
                    return found
        return None

    def _of_storage(self, identifier: str) -> Name | None:
        for store in self._stores:
            for driver in _listed(store):
                if not driver.endswith("-containers"):
                    continue
                for file in _STORED:
                    if found := self._listing(store, (driver, file)).get(identifier):
                        return found
        return None

    def _listing(self, store: Path, parts: tuple[str, ...]) -> dict[str, Name]:
        kept = self._stored.setdefault(store.joinpath(*parts), _Stored())
        try:
            status = store.joinpath(*parts).lstat()
        except OSError:
            return {}
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if kept.names is None or kept.version != version:
            kept.version, kept.names = version, dict(_entries(_load(store, parts, {"id", "names"})))
        return kept.names


def settings(root: Path) -> tuple[str, tuple[str, ...]]:
    """Returns where docker, and podman and CRI-O, keep their state, below root; for a process of its own."""
    import tomllib  # a megabyte that the daemon need not keep

    docker, stores = _DOCKER, list(_STORAGE)
    found = _load(root, ("etc", "docker", "daemon.json"), {"data-root"})
    if isinstance(found, dict) and isinstance(found.get("data-root"), str):
        docker = found["data-root"]
    for path in _STORAGE_CONF:
        if (text := _text(root, tuple(path.split("/")))) is None:
            continue
        try:
            storage = tomllib.loads(text).get("storage", {})
        except (ValueError, RecursionError):
            break
        for at, key in enumerate(("graphroot", "runroot")):
            if isinstance(storage, dict) and isinstance(storage.get(key), str):
                stores[at] = storage[key]
        break
    return docker.lstrip("/"), tuple(store.lstrip("/") for store in stores)


def _named(names: Iterable[Any]) -> Name | None:
    texts = [text for name in names if isinstance(name, str) and (text := _clean(name))]
    for text in texts:
        if match := _KUBERNETES.fullmatch(text):
            return _in_pod(match[3], match[2], "" if match[1] == "POD" else match[1])
    return Name(texts[0], texts[0]) if texts else None


def _annotated(annotations: dict[Any, Any]) -> Name | None:
    def text(key: str) -> str:
        value = annotations.get(key)
        return _clean(value) if isinstance(value, str) else ""

    if (namespace := text(f"{_CRI}sandbox-namespace")) and (pod := text(f"{_CRI}sandbox-name")):
        return _in_pod(namespace, pod, text(f"{_CRI}container-name"))
    return _named([text(_NERDCTL)])


def _in_pod(namespace: str, pod: str, container: str) -> Name:
    network = f"{namespace}/{pod}"
    return Name(f"{network}/{container}" if container else network, network)


def _clean(name: str) -> str:
    """JSON may hold halves of characters, which no page can."""
    return name.encode("utf-8", "backslashreplace").decode()[:MOST_CHARACTERS]


def _entries(listing: Any) -> Iterator[tuple[str, Name]]:
    for one in listing if isinstance(listing, list) else ():
        identifier, names = (one.get("id"), one.get("names")) if isinstance(one, dict) else (None, None)
        if isinstance(identifier, str) and isinstance(names, list) and (name := _named(names)):
            yield identifier, name


# -- files


def _load(top: Path, parts: tuple[str, ...], keys: set[str] | None) -> Any:
    """Returns what a JSON file holds, of objects only these keys; None where it can't be read or understood."""
    if (text := _text(top, parts)) is None:
        return None

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in pairs if keys is None or key in keys}

    try:
        return json.loads(text, object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return None


def _text(top: Path, parts: tuple[str, ...]) -> str | None:
    """Returns what is in a file below a folder, with no symbolic link on the way; None where it can't be read."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    opened = []
    try:
        opened.append(os.open(top, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
        for part in parts[:-1]:
            opened.append(os.open(part, flags | os.O_DIRECTORY, dir_fd=opened[-1]))
        # a fifo is not waited for
        opened.append(os.open(parts[-1], flags | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=opened[-1]))
        if not stat.S_ISREG(os.fstat(opened[-1]).st_mode):
            return None
        data = b""
        while len(data) <= MOST_BYTES and (piece := os.read(opened[-1], MOST_BYTES + 1 - len(data))):
            data += piece
        return data.decode("utf-8", "replace") if len(data) <= MOST_BYTES else None
    except OSError:
        return None
    finally:
        for fd in opened:
            os.close(fd)


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names, of which no Path is made
    except OSError:
        return []
