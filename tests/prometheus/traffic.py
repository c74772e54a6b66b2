# SPDX-License-Identifier: Apache-2.0
"""Known numbers of things that every probe counts, and what they are on the page: the truth."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kernel.readahead import ask
from tests.kernel.test_commands import terminal
from tests.kernel.test_container_rules import udp
from tests.kernel.wires import Link, frame, link

Truth = dict[tuple[str, frozenset[tuple[str, str]]], int]  # metric, labels -> how many
Workload = Callable[..., dict[str, int]]

MANY = 50_000  # series: whatever else goes on on this host, ours have theirs at once
PROBES: dict[str, Any] = {
    "file_io": {
        "labels": ["op", "comm", "file"],
        "max_series": MANY,
        "metrics": ["ebpf_file_io_bytes_total", "ebpf_file_io_operations_total", "ebpf_file_io_latency_seconds"],
    },
    "file_opens": {"max_series": MANY},
    "process_execs": {"max_series": MANY},
    "shell_commands": {"max_series": MANY},
    "xdp": {
        "interfaces": ["dash0"],
        "rules": [
            {"name": "seen", "action": "count", "protocol": "udp"},
            {"name": "flood", "action": "drop", "protocol": "udp", "destination_port": 9},
        ],
    },
    "container_net": {
        "interfaces": ["dash1"],
        "rules": [
            {"name": "datagrams", "action": "count", "protocol": "udp"},
            {"name": "no-mail", "action": "drop", "protocol": "udp", "destination_port": 25},
        ],
    },
    # more keys at once than its maps have room for, and than it may have series
    "readaheads": {"metrics": ["ebpf_readaheads_total"], "labels": ["size", "half"], "max_series": 10},
    # the kernel does not run it for some events
    "faults": {"max_cpu_percent": 0},
    # it takes more than it may; that is found out after a minute
    "stopwatch": {
        "attach": "tracepoint:syscalls:sys_enter_readahead",
        "max_cpu_percent": 0.0001,
        "metrics": {"ebpf_stopwatch_asks_total": {"type": "counter", "help": "Calls of readahead."}},
    },
    # it can't be attached
    "broken": {
        "attach": "tracepoint:dash:nothing",
        "metrics": {"ebpf_broken_total": {"type": "counter", "help": "Nothing."}},
    },
}
FAULTS = 53  # at the least
SIZE = 30_000_001  # bytes: more than others on this host read or write of one file in a few seconds
FLOOD = 4001  # packets: more than 10 a second in five minutes
ASKS = 20_011  # with as many sizes: more than there is room for between two reads
_IN_KERNEL_MODE = f"""
import mmap
buffer = mmap.mmap(-1, 4096 * {FAULTS})
zero = open('/dev/zero', 'rb', buffering=0)
for page in range({FAULTS}):
    zero.readinto(memoryview(buffer)[page * 4096:page * 4096 + 16])
"""


@contextmanager
def traffic(workload: Workload, folder: Path) -> Iterator["Traffic"]:
    with link("dash0") as outside, link("dash1") as container:
        yield Traffic(workload, folder, outside, container)


class Traffic:
    """Each play does the same, and returns what that is."""

    def __init__(self, workload: Workload, folder: Path, outside: Link, container: Link) -> None:
        self._workload, self._folder, self._outside, self._container = workload, folder, outside, container
        self._source, self._target = folder / "dash-source", folder / "dash-target"
        self._source.write_bytes(bytes(SIZE))
        (folder / "file").touch()  # that the opener opens
        self._program = folder / "dash-program"
        shutil.copy("/bin/true", self._program)
        for parent in folder.parents:  # of pytest's, which are closed to others
            if parent.owner() == "root" and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        folder.chmod(0o755)

    def play(self, late: str = "") -> Truth:
        """late is a command that is typed too, once; and what is rare is done."""
        truth: Truth = {}

        def did(number: int, metric: str, **labels: str) -> None:
            truth[metric, frozenset(labels.items())] = number

        self._files(did)
        if late:
            self._rarely()
        self._commands(did, late)
        self._packets(did)
        for size in range(ASKS):
            ask(size)
        subprocess.run(["/usr/bin/python3", "-c", _IN_KERNEL_MODE], check=True)
        return truth

    def _files(self, did: Callable[..., None]) -> None:
        for op, path in (("read", self._source), ("write", self._target)):
            done = self._workload(f"dash-{op}s", f"{op}s", path, SIZE)
            labels = {"op": op, "comm": f"dash-{op}s", "file": path.name}
            did(done["bytes"], "ebpf_file_io_bytes_total", **labels)
            did(done["calls"], "ebpf_file_io_operations_total", **labels)
        opened = self._workload("dash-opener", "opens", self._folder, 211, 97)
        for result, number in opened.items():
            did(number, "ebpf_file_opens_total", comm="dash-opener", result=result)

    def _rarely(self) -> None:
        """What is seldom, and then matters: an open that is refused, and one without a descriptor left."""
        secret = self._folder / "secret"
        secret.touch(0o600)
        assert subprocess.run(["cat", secret], user=65534, group=65534, capture_output=True).returncode == 1
        limited = "import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); os.open('/dev/null', 0)"
        assert b"Too many open files" in subprocess.run(["/usr/bin/python3", "-c", limited], capture_output=True).stderr

    def _commands(self, did: Callable[..., None], late: str) -> None:
        for user, number in ((0, 13), (65534, 7)):
            for _ in range(number):
                subprocess.run([str(self._program)], check=True, user=user, group=user)
            did(number, "ebpf_process_execs_total", user={0: "root"}.get(user, "nobody"), comm=self._program.name)
        with terminal("/bin/bash", "--norc", "--noprofile", "-i") as shell:
            for line in ["true --password=secret"] * 11 + [":"] * 5 + [late, "sudo --version"] * bool(late):
                shell.type(line)
        for command, number in {"true": 11, ":": 5, **({late: 1} if late else {})}.items():
            did(number, "ebpf_shell_commands_total", user="root", command=command)

    def _packets(self, did: Callable[..., None]) -> None:
        flood, datagrams, others = [udp(9)] * FLOOD, [udp(53)] * 41, [frame(100)] * 29
        self._outside.send(flood + datagrams + others)
        on = {"interface": "dash0"}
        for name, small, large in (("packets", 1, 1), ("bytes", 64, 100)):
            did(FLOOD * small, f"ebpf_xdp_{name}_total", **on, action="drop", protocol="udp")
            did(41 * small, f"ebpf_xdp_{name}_total", **on, action="pass", protocol="udp")
            did(29 * large, f"ebpf_xdp_{name}_total", **on, action="pass", protocol="non-ip")
        did(FLOOD + 41, "ebpf_xdp_rule_packets_total", **on, rule="seen")
        did(FLOOD, "ebpf_xdp_rule_packets_total", **on, rule="flood")
        with self._container.ports() as (here, there):
            there.send([udp(25)] * 19 + [udp(53)] * 17)
            here.send([frame(200)] * 23)
        at = {"container": self._container.namespace, "interface": "dash1"}
        for name, small, large in (("packets", 1, 1), ("bytes", 64, 200)):
            metric = f"ebpf_container_network_{name}_total"
            did(19 * small, metric, **at, direction="egress", action="drop")
            did(17 * small, metric, **at, direction="egress", action="pass")
            did(23 * large, metric, **at, direction="ingress", action="pass")
        did(36, "ebpf_container_network_rule_packets_total", **at, direction="egress", rule="datagrams")
        did(19, "ebpf_container_network_rule_packets_total", **at, direction="egress", rule="no-mail")


def write_probes(folder: Path) -> None:
    """Writes a probe that misses events: what its program does causes its event again."""
    yaml = """
purpose: Page faults in kernel mode; each causes another one.
attach: {on_fault: "rawtracepoint:page_fault_kernel"}
metrics: {ebpf_faults_total: {type: counter, help: A test., labels: {comm: comm}}}
"""
    c = """
int on_fault(void *ctx)
{
    struct faults_key key = {};
    u64 nothing;

    faults_add(&key, 1);
    bpf_probe_read_user(&nothing, sizeof(nothing), (void *)0x10);
    return 0;
}
"""
    (folder / "faults.yaml").write_text(yaml)
    (folder / "faults.c").write_text(c)
