# SPDX-License-Identifier: Apache-2.0
"""The label ksym against bpftrace's, of the same addresses."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernel.daemon import Daemon

# call_site is somewhere within a function, function where one begins
FIELDS = {"kmem:kmalloc": "call_site", "workqueue:workqueue_execute_start": "function"}
COMMON = 20  # addresses that both must have seen


def probe(name: str, hook: str, value: str) -> str:
    return f"""
purpose: Events by a function, and by its address.
attach: tracepoint:{hook}
metrics:
  ebpf_{name}_total:
    type: counter
    help: Events.
    labels: {{function: "ksym({value})", address: "{value}"}}
"""


@pytest.mark.skipif(shutil.which("bpftrace") is None, reason="needs bpftrace")
def test_names_are_those_of_bpftrace(tmp_path: Path) -> None:
    """An address reads as the function that bpftrace finds for it; where several begin there, as the first."""
    script = "".join(f"tracepoint:{hook} {{ @[ksym(args->{field}), (uint64)args->{field}] = count(); }}\n"
                     for hook, field in FIELDS.items())  # fmt: skip
    for hook, field in FIELDS.items():
        (tmp_path / f"{hook.split(':')[1]}.yaml").write_text(probe(hook.split(":")[1], hook, f"args.{field}"))
    names = {hook.split(":")[1]: {"max_series": 10_000} for hook in FIELDS}
    with Daemon(names, tmp_path) as daemon:
        command = ["bpftrace", "-e", script + 'BEGIN { printf("ready\\n"); }']
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bpftrace:
            assert bpftrace.stdout
            while bpftrace.stdout.readline().strip() not in ("ready", ""):
                pass
            theirs: dict[int, str] = {}
            busy(tmp_path)
            daemon.page()
            bpftrace.terminate()
            for line in bpftrace.stdout:
                if line.startswith("@["):  # @[vfs_read, -2115616304]: 12
                    name, address = line[2 : line.index("]:")].rsplit(", ", 1)
                    theirs[int(address) % 2**64] = name
        ours: dict[int, str] = {}
        for (metric, labels), _ in daemon.samples().items():
            own = dict(labels)
            if metric.startswith("ebpf_") and "function" in own:
                ours[int(own["address"])] = own["function"]
    common = ours.keys() & theirs.keys()
    assert len(common) >= COMMON
    same = aliases()
    assert {at: ours[at] for at in common if theirs[at] not in same.get(ours[at], {ours[at]})} == {}
    assert not any(name.startswith("0x") for name in ours.values())


def busy(folder: Path) -> None:
    """Makes the kernel allocate in many places."""
    for _ in range(20):
        subprocess.run(["find", "/proc/self", "/sys/kernel/mm", str(folder)], capture_output=True, check=False)
        (folder / "file").write_bytes(bytes(100_000))


def aliases() -> dict[str, set[str]]:
    """Returns, by each function's name, all names that are for its address."""
    found: dict[str, set[str]] = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, _, name = line.split()[:3]
        found.setdefault(address, set()).add(name)
    return {name: names for names in found.values() if len(names) > 1 for name in names}
