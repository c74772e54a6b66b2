# SPDX-License-Identifier: Apache-2.0
"""Who is behind an interface, with network namespaces, cgroups and processes of our own for containers."""

import ctypes
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter import cgroups
from exporter.containers import LAST_WORD, LATE_LAST_WORD, Containers, namespaces
from exporter.containers.names import Names
from exporter.places import Place
from tests.kernel.daemon import Daemon, by, count

pytestmark = pytest.mark.anywhere

ID = "4f0a7c1b9e2d" + "0" * 52
OTHER = "5f0a7c1b9e2d" + "1" * 52
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


@contextmanager
def process(cgroup: bytes = b"", apart: bool = True) -> Iterator[int]:
    """A process in a cgroup, in a network namespace of its own. Its number is given once it is there."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if apart and _libc.unshare(_CLONE_NEWNET):
                os._exit(1)
            if cgroup:
                enter(cgroup, os.getpid())
            os.write(theirs, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        assert os.read(ours, 1) == b"x"
        os.close(ours)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def enter(cgroup: bytes, pid: int) -> None:
    fd = os.open(cgroup + b"/cgroup.procs", os.O_WRONLY)
    os.write(fd, b"%d" % pid)
    os.close(fd)


def make(top: bytes, identifier: str = ID) -> bytes:
    """A container's cgroup."""
    folder = top + b"/docker-" + identifier.encode() + b".scope"
    os.mkdir(folder)  # noqa: PTH102 - bytes
    return folder


def called(root: Path, identifier: str, name: str) -> None:
    """Gives a container a name, as docker does."""
    folder = root / "var/lib/docker/containers" / identifier
    folder.mkdir(parents=True)
    (folder / "config.v2.json").write_text(json.dumps({"ID": identifier, "Name": f"/{name}"}))


@contextmanager
def veth(name: str, namespace: str | int) -> Iterator[int]:
    """A veth whose other end is in a network namespace, by name or by a process. Its index is given."""
    ip("link", "add", name, "type", "veth", "peer", "name", "peer", "netns", str(namespace))
    try:
        yield int(Path(f"/sys/class/net/{name}/ifindex").read_text())
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


@contextmanager
def named_namespace(name: str) -> Iterator[str]:
    ip("netns", "add", name)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Watched:
    """Containers as the supervisor has them: called when their descriptors are readable, and at their deadline."""

    def __init__(self, root: Path) -> None:
        self.ahead = 0.0  # seconds that the clock is ahead of the real one
        self.containers = Containers(Names(root), lambda: time.monotonic() + self.ahead)
        self.looks = 0
        self.heard: list[tuple[dict[int, Place], dict[str, str]]] = []

    def once(self, most: float) -> None:
        """Waits for an event or the deadline, but no longer than so many seconds."""
        containers = self.containers
        handlers = dict(containers.handlers())
        left = containers.deadline - time.monotonic() - self.ahead
        for fd in select.select(list(handlers), [], [], max(0.0, min(left, most)))[0]:
            handlers[fd]()
        if time.monotonic() + self.ahead >= containers.deadline:
            self.looks += 1
            if containers.look():
                self.heard.append(containers.news())

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, (self.containers.places(), self.heard)
            self.once(1)

    def until_quiet(self) -> None:
        """Waits until nothing is looked for any more."""
        self.until(lambda: self.containers.deadline == float("inf"))

    def until_it_is(self, index: int, place: Place | None) -> None:
        self.until(lambda: self.place(index) == place)

    def ours(self) -> dict[int, Place]:
        """Returns the places that are this test's: the host has others."""
        places = self.containers.places().items()
        return {index: place for index, place in places if place.interface.startswith("containers-")}

    def place(self, index: int) -> Place | None:
        return self.containers.places().get(index)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    found.once(0)
    yield found
    found.containers.close()


def test_named_namespaces(watched: Watched) -> None:
    """The end of a pair whose other end is in a named network namespace has its name at once; so it has for ever."""
    with named_namespace("containers-n1") as name, veth("containers-v1", name) as index:
        watched.until_it_is(index, Place("containers-v1", name))
        assert all(place.container for places, _ in watched.heard for place in places.values())
    watched.until_it_is(index, None)
    assert watched.containers.told()[0][index] == Place("containers-v1", name)


def test_what_leads_nowhere(watched: Watched) -> None:
    """Pairs with both ends here are no container's, but have names; one whose end goes elsewhere is."""
    ip("link", "add", "containers-v1", "type", "veth", "peer", "name", "containers-v2")
    try:
        index, other = (int(Path(f"/sys/class/net/containers-v{n}/ifindex").read_text()) for n in (1, 2))
        watched.until(lambda: index in watched.containers.told()[0])
        assert watched.containers.told()[0][index] == Place("containers-v1", "containers-v1")
        assert watched.place(index) is None
        with named_namespace("containers-n1") as name:
            ip("link", "set", "containers-v2", "netns", name)
            watched.until_it_is(index, Place("containers-v1", name))
            assert watched.place(other) is None
    finally:
        subprocess.run(["ip", "link", "del", "containers-v1"], check=False, capture_output=True)


def test_a_container_by_its_name(watched: Watched, top: bytes, tmp_path: Path) -> None:
    """A container's interface has its name, whether its link, its cgroup or its process comes first."""
    called(tmp_path, ID, "web")
    called(tmp_path, OTHER, "db")
    cgroup = make(top)
    with process(cgroup) as pid, veth("containers-v1", pid) as index:
        watched.until_it_is(index, Place("containers-v1", "web"))
    other = make(top, OTHER)
    with process() as pid, veth("containers-v2", pid) as second:
        watched.until_it_is(second, Place("containers-v2", ""))
        enter(other, pid)
        watched.until_it_is(second, Place("containers-v2", "db"))
    names = watched.containers.told()[1]
    assert (names[ID[:12]], names[OTHER[:12]]) == ("web", "db")


def test_a_container_that_was_there(top: bytes, tmp_path: Path) -> None:
    """What runs when the exporter starts is known by the first look."""
    called(tmp_path, ID, "web")
    with process(make(top)) as pid, veth("containers-v1", pid) as index:
        watched = Watched(tmp_path)
        watched.once(0)
        assert watched.place(index) == Place("containers-v1", "web")
        assert watched.heard[0][0][index] == Place("containers-v1", "web")
        assert watched.heard[0][1][ID[:12]] == "web"
        watched.containers.close()


def test_the_last_word(watched: Watched, top: bytes, tmp_path: Path) -> None:
    """Where nobody is known to be behind an interface its own name is said after a while; a better one if it comes."""
    called(tmp_path, ID, "web")
    cgroup, unnamed = make(top), make(top, OTHER)
    with (
        process() as pid,
        process(unnamed) as second,
        veth("containers-v1", pid) as index,
        veth("containers-v2", second) as b,
    ):
        watched.until_it_is(index, Place("containers-v1", ""))
        assert watched.place(b) == Place("containers-v2", "")
        watched.ahead += LAST_WORD
        watched.until_it_is(index, Place("containers-v1", "containers-v1"))
        assert watched.place(b) == Place("containers-v2", OTHER[:12])
        assert watched.containers.told()[1].items() >= {ID[:12]: "web", OTHER[:12]: OTHER[:12]}.items()
        watched.until_quiet()
        enter(cgroup, pid)
        watched.until_it_is(index, Place("containers-v1", "web"))


def test_a_runtimes_namespace(watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that a runtime made up is better than none, where no process comes; that is waited for longer."""
    made_up, dockers = "cni-6b474def-e6ef-32e7-8f49-169e5d77706e", "1-6b474def"
    monkeypatch.setattr(namespaces, "DOCKERS", tmp_path)
    with named_namespace(made_up), process() as pid:
        (tmp_path / dockers).symlink_to(f"/proc/{pid}/ns/net")
        with veth("containers-v1", made_up) as index, veth("containers-v2", pid) as second:
            watched.until_it_is(second, Place("containers-v2", ""))
            watched.ahead += LAST_WORD
            looks = watched.looks
            watched.until(lambda: watched.looks > looks)
            assert watched.place(index) == Place("containers-v1", "")
            assert watched.place(second) == Place("containers-v2", "")
            watched.ahead += LATE_LAST_WORD
            watched.until_it_is(index, Place("containers-v1", made_up))
            watched.until_it_is(second, Place("containers-v2", dockers))


def test_a_namespace_that_is_named_later(watched: Watched) -> None:
    """A network namespace that somebody gives a name to has it from then on."""
    with process() as pid, veth("containers-v1", pid) as index:
        watched.until(lambda: watched.place(index) is not None)
        watched.ahead += LAST_WORD
        watched.until_it_is(index, Place("containers-v1", "containers-v1"))
        ip("netns", "attach", "containers-n2", str(pid))
        try:
            watched.until_it_is(index, Place("containers-v1", "containers-n2"))
        finally:
            ip("netns", "del", "containers-n2")


def test_a_name_that_is_given_anew(watched: Watched) -> None:
    """A namespace that is made where another was, which a process keeps, has the name; not the other one."""
    with named_namespace("containers-n1") as name:
        with veth("containers-v1", name) as index:
            watched.until_it_is(index, Place("containers-v1", name))
        kept = subprocess.Popen(["ip", "netns", "exec", name, "sh", "-c", "echo; exec sleep 1000"], stdout=-1)
        assert kept.stdout
        assert kept.stdout.readline() == b"\n"
        try:
            ip("netns", "del", name)
            ip("netns", "add", name)
            with veth("containers-v2", name) as second, veth("containers-v3", kept.pid) as third:
                watched.until_it_is(second, Place("containers-v2", name))
                watched.ahead += LAST_WORD
                watched.until_it_is(third, Place("containers-v3", "containers-v3"))
        finally:
            kept.kill()
            kept.communicate()


def test_pods(watched: Watched, top: bytes, tmp_path: Path) -> None:
    """Of containers that share a network namespace the interface is the oldest's; in Kubernetes, the pod's."""
    called(tmp_path, ID, "k8s_nginx_web-1_shop_1-2_0")
    called(tmp_path, OTHER, "proxy")
    with process(make(top)) as pid, veth("containers-v1", pid) as index:
        younger = subprocess.Popen(["nsenter", "-t", str(pid), "-n", "sleep", "1000"])
        try:
            enter(make(top, OTHER), younger.pid)
            watched.until_it_is(index, Place("containers-v1", "shop/web-1"))
            watched.until_quiet()
            assert watched.place(index) == Place("containers-v1", "shop/web-1")
            assert watched.containers.told()[1].items() >= {ID[:12]: "shop/web-1/nginx", OTHER[:12]: "proxy"}.items()
        finally:
            younger.kill()
            younger.wait()


def test_a_renamed_interface(watched: Watched, top: bytes, tmp_path: Path) -> None:
    """An interface that is renamed keeps who is behind it."""
    called(tmp_path, ID, "web")
    with process(make(top)) as pid, veth("containers-v1", pid) as index:
        watched.until_it_is(index, Place("containers-v1", "web"))
        ip("link", "set", "containers-v1", "name", "containers-v9")
        watched.until_it_is(index, Place("containers-v9", "web"))


def test_a_port_of_a_bridge(watched: Watched) -> None:
    """An interface that becomes a port of a bridge, and is one no longer, is where it was."""
    ip("link", "add", "containers-b1", "type", "bridge")
    try:
        with named_namespace("containers-n1") as name, veth("containers-v1", name) as index:
            for words in (("master", "containers-b1"), ("nomaster",), ("name", "containers-v9")):
                ip("link", "set", "containers-v1", *words)
            watched.until_it_is(index, Place("containers-v9", name))
            assert {place.container for places, _ in watched.heard for place in places.values()} >= {name}
            assert [places[index].container for places, _ in watched.heard if index in places].count("") == 0
    finally:
        ip("link", "del", "containers-b1")


def test_numbers_of_namespaces_are_used_again(watched: Watched, top: bytes, tmp_path: Path) -> None:
    """A namespace that gets the number of one that has ended is not taken for that one; the old name stays."""
    called(tmp_path, ID, "web")
    called(tmp_path, OTHER, "db")
    first, second = make(top), make(top, OTHER)
    indexes = []
    for cgroup, name in ((first, "web"), (second, "db"), (first, "web"), (second, "db")):
        with process(cgroup) as pid, veth("containers-v1", pid) as index:
            watched.until_it_is(index, Place("containers-v1", name))
            indexes.append(index)
        # the kernel takes its time with a namespace that has ended, and then tells
        watched.until_it_is(index, None)
    places = watched.containers.told()[0]
    assert [places[index].container for index in indexes] == ["web", "db", "web", "db"]


def test_a_container_on_the_hosts_network(watched: Watched, top: bytes, tmp_path: Path) -> None:
    """A container without a network namespace of its own has a name, and no interface; it is not looked at for ever."""
    called(tmp_path, ID, "web")
    with process(make(top), apart=False):
        watched.until(lambda: watched.containers.told()[1].get(ID[:12]) == "web")
        watched.ahead += LAST_WORD
        watched.until_quiet()
    assert watched.ours() == {}


def test_a_container_that_ends_at_once(watched: Watched, top: bytes, tmp_path: Path) -> None:
    """One whose link is gone before anybody was found behind it has its last word then: nothing waits for it."""
    called(tmp_path, ID, "web")
    with process() as pid, veth("containers-v1", pid) as index:
        pass
    watched.until(lambda: index in watched.containers.told()[0])
    assert watched.containers.told()[0][index] == Place("containers-v1", "containers-v1")
    cgroup = make(top)
    os.rmdir(cgroup)  # noqa: PTH106
    make(top, OTHER)
    watched.until(lambda: OTHER[:12] in watched.containers.told()[1])


def test_fifty_containers_leave_nothing(watched: Watched, top: bytes, tmp_path: Path) -> None:
    """Containers that were started and stopped are named each, and leave no descriptor and no watch behind."""

    def left() -> set[int]:
        """Watched inodes that are no cgroup's any more, which the kernel keeps for the sake of the watch."""
        _, (tree, _), _ = watched.containers.handlers()
        lines = Path(f"/proc/self/fdinfo/{tree}").read_text().splitlines()
        inodes = {int(line.split("ino:")[1].split()[0], 16) for line in lines if line.startswith("inotify ")}
        mounts = [mount for mount, _ in filter(None, (cgroups.mounted(), cgroups.mounted_v1()))]
        return inodes - {os.stat(path).st_ino for mount in mounts for path, _, _ in os.walk(mount)}  # noqa: PTH116

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    names = {}
    for number in range(50):
        identifier = f"{number:012x}" + "a" * 52
        called(tmp_path, identifier, f"web-{number}")
        cgroup = make(top, identifier)
        with process(cgroup) as pid, veth("containers-v1", pid) as index:
            names[index] = f"web-{number}"
            watched.until_it_is(index, Place("containers-v1", names[index]))
        os.rmdir(cgroup)  # noqa: PTH106
    watched.until(lambda: not watched.ours() and not left())
    assert descriptors() == before
    places = watched.containers.told()[0]
    assert {index: places[index].container for index in names} == names


# -- to the page

PACKETS = "ebpf_received_packets_total"
YAML = """
purpose: Packets that interfaces receive.
attach: {on_packet: "rawtracepoint:netif_receive_skb"}
metrics:
  ebpf_received_packets_total:
    type: counter
    help: Packets.
    labels: {container: veth_container, interface: veth}
"""
C = """
int on_packet(struct bpf_raw_tracepoint_args *ctx)
{
    struct sk_buff *skb = (struct sk_buff *)ctx->args[0];
    struct received_packets_key key = {};
    struct net_device *device = 0;
    int index = 0;

    bpf_probe_read_kernel(&device, sizeof(device), &skb->dev);
    bpf_probe_read_kernel(&index, sizeof(index), &device->ifindex);
    key.container = key.interface = index;
    received_packets_add(&key, 1);
    return 0;
}
"""


def send(namespace: str, packets: int) -> None:
    """Sends so many packets from the other end, where nothing else speaks."""
    script = (
        "import socket\n"
        "out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
        "out.bind(('peer', 0))\n"
        f"for _ in range({packets}):\n"
        "    out.send(bytes(12) + b'\\x88\\xcc' + bytes(46))\n"
    )
    subprocess.run(["ip", "netns", "exec", namespace, "/usr/bin/python3", "-c", script], check=True)


@contextmanager
def quiet(name: str, namespace: str) -> Iterator[int]:
    """A veth between this and a named namespace that is up, and on which no one speaks."""
    with veth(name, namespace) as index:
        ip("link", "set", name, "addrgenmode", "none")
        ip("-n", namespace, "link", "set", "peer", "addrgenmode", "none")
        ip("-n", namespace, "link", "set", "peer", "up")
        ip("link", "set", name, "up")
        yield index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "received.yaml").write_text(YAML)
    (tmp_path / "received.c").write_text(C)
    return tmp_path


def test_the_page_has_names(folder: Path) -> None:
    """Packets are counted under the name of the namespace that sent them, from the first one, and after it has gone."""
    with Daemon({"received": {}}, folder) as daemon:
        wanted: dict[str, int] = {}

        def shown() -> dict[str, float]:
            found = by(daemon.samples(), "container", PACKETS, interface="containers-v1")
            assert found.keys() <= wanted.keys()
            return found

        for number, packets in enumerate((13, 17, 19)):
            with named_namespace(f"containers-n{number}") as name, quiet("containers-v1", name):
                send(name, packets)
                wanted[name] = packets
                daemon.wait_for(lambda: shown() == wanted, "packets by the name of who sent them")
        assert shown() == wanted


def test_a_new_worker_is_told_all(folder: Path) -> None:
    """A worker that is started anew knows the interfaces that there are, and those gone of late."""
    with Daemon({"received": {}}, folder, interval="60s") as daemon:
        with named_namespace("containers-n1") as name, quiet("containers-v1", name):
            daemon.wait_for(lambda: count(daemon.samples(), PACKETS) >= 0, "a page")
            old = daemon.worker_pid()
            with named_namespace("containers-n2") as second, quiet("containers-v2", second):
                send(second, 7)
            os.kill(old, signal.SIGKILL)
            send(name, 11)
            daemon.wait_for(lambda: count(daemon.samples(), PACKETS, container=name) == 11, "the new worker's page")
            found = by(daemon.samples(), "container", PACKETS)
        assert daemon.worker_pid() != old
    assert (found[name], found[second]) == (11, 7)
