# SPDX-License-Identifier: Apache-2.0
"""Files in which runtimes keep their state, as they write them; of long ones what matters and some of the rest."""

import json
from pathlib import Path

POD_UID = "1fa6c7ab-9a80-4c0e-b2a5-0d3c6f4d9e10"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def docker(root: Path, identifier: str, name: str, folder: str = "var/lib/docker") -> Path:
    """config.v2.json of Docker 27, in which a container's name has a slash."""
    state = {
        "StreamConfig": {},
        "State": {"Running": True, "Paused": False, "Pid": 43811, "ExitCode": 0, "Health": None},
        "ID": identifier,
        "Created": "2025-02-24T20:24:38.420859131Z",
        "Managed": False,
        "Path": "nginx",
        "Args": ["-g", "daemon off;"],
        "Config": {
            "Hostname": identifier[:12],
            "Env": ["PATH=/usr/sbin:/usr/bin"],
            "Labels": {"Name": "not this one"},
            "Volumes": None,
        },
        "Image": "sha256:759fa7c836fbaa3dad4a3ee02c8ac19afccde16aff399154738b074d294be83a",
        "NetworkSettings": {
            "SandboxKey": "/var/run/docker/netns/35d1d50d6158",
            "Networks": {"bridge": {"IPAMConfig": None, "Aliases": None, "IPAddress": "172.17.0.12"}},
        },
        "LogPath": f"/var/lib/docker/containers/{identifier}/{identifier}-json.log",
        "Name": f"/{name}",
        "Driver": "overlay2",
        "RestartCount": 0,
        "MountPoints": {"/data": {"Name": "volume", "Source": "", "Driver": "local"}},
    }
    return write(root / folder / "containers" / identifier / "config.v2.json", json.dumps(state))


def stored(identifier: str, *names: str) -> dict[str, object]:
    """An entry of containers.json, as podman 4 and CRI-O have it by containers/storage."""
    metadata = {
        "image-name": "localhost/busybox:latest",
        "image-id": "b" * 64,
        "name": names[0],
        "created-at": 1740428678,
    }
    return {
        "id": identifier,
        "names": list(names),
        "image": "b" * 64,
        "layer": "c" * 64,
        "metadata": json.dumps(metadata),
        "created": "2025-02-24T20:24:38.420859131Z",
        "flags": {"MountLabel": "", "ProcessLabel": "", "Volatile": True},
    }


def storage(root: Path, *entries: dict[str, object], file: str = "containers.json", folder: str = "") -> Path:
    """containers.json of containers/storage."""
    folder = folder or "var/lib/containers/storage/overlay-containers"
    return write(root / folder / file, json.dumps(list(entries)))


def containerd(
    root: Path, namespace: str, identifier: str, annotations: dict[str, str] | None, run: str = "run/containerd"
) -> Path:
    """config.json of a bundle of containerd's: the OCI runtime's specification, of which some is here."""
    spec: dict[str, object] = {
        "ociVersion": "1.1.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/pause"], "env": ["PATH=/usr/bin"], "cwd": "/"},
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "web-1",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-6b474def"}]},
    }
    if annotations is not None:
        spec["annotations"] = annotations
    tasks = root / run / "io.containerd.runtime.v2.task"
    return write(tasks / namespace / identifier / "config.json", json.dumps(spec))


def sandbox(pod: str, namespace: str) -> dict[str, str]:
    """What containerd's CRI notes of a pod's first container, which keeps its network namespace."""
    return {
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
        "io.kubernetes.cri.sandbox-id": "d" * 64,
        "io.kubernetes.cri.sandbox-log-directory": f"/var/log/pods/{namespace}_{pod}_{POD_UID}",
        "io.kubernetes.cri.sandbox-name": pod,
        "io.kubernetes.cri.sandbox-namespace": namespace,
        "io.kubernetes.cri.sandbox-uid": POD_UID,
    }


def in_pod(container: str, pod: str, namespace: str) -> dict[str, str]:
    """What it notes of the others."""
    return {
        "io.kubernetes.cri.container-name": container,
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.image-name": "registry.example/nginx:1",
        "io.kubernetes.cri.sandbox-id": "d" * 64,
        "io.kubernetes.cri.sandbox-name": pod,
        "io.kubernetes.cri.sandbox-namespace": namespace,
        "io.kubernetes.cri.sandbox-uid": POD_UID,
    }


def nerdctl(name: str, identifier: str) -> dict[str, str]:
    """What nerdctl notes."""
    return {
        "nerdctl/extraHosts": "[]",
        "nerdctl/hostname": identifier[:12],
        "nerdctl/name": name,
        "nerdctl/namespace": "default",
        "nerdctl/networks": '["bridge"]',
        "nerdctl/state-dir": f"/var/lib/nerdctl/1935db59/containers/default/{identifier}",
    }
