# SPDX-License-Identifier: Apache-2.0
"""The label ksym against bpftrace's, of the same addresses."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernel.daemon import START_SECONDS, Daemon

# call_site is somewhere within a function, function where one begins
FIELDS = {"kmem:kmalloc": "call_site", "workqueue:workqueue_execute_start": "function"}
COMMON = 20  # addresses that both must have seen
# makes the kernel allocate in many places
BUSY = "for n in 1 2 3 4 5 6 7 8 9 10; do find /proc/self /sys/kernel/mm; done >/dev/null 2>&1; exit 0\n"


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


@pytest.mark.anywhere  # bpftrace 0.17 does not run this script on Linux 6.1 without headers
@pytest.mark.skipif(shutil.which("bpftrace") is None, reason="needs bpftrace")
def test_names_are_those_of_bpftrace(tmp_path: Path) -> None:
    """An address reads as the function that bpftrace finds for it; where several begin there, as the first."""
    script = "".join(f"tracepoint:{hook} {{ @[ksym(args->{field}), (uint64)args->{field}] = count(); }}\n"
                     for hook, field in FIELDS.items())  # fmt: skip
    for hook, field in FIELDS.items():
        (tmp_path / f"{hook.split(':')[1]}.yaml").write_text(probe(hook.split(":")[1], hook, f"args.{field}"))
    names = {hook.split(":")[1]: {"max_series": 10_000} for hook in FIELDS}
    with Daemon(names, tmp_path) as daemon:
        (tmp_path / "busy.sh").write_text(BUSY)
        command = ["bpftrace", "-e", script, "-c", f"/bin/sh {tmp_path}/busy.sh"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=START_SECONDS)
        theirs: dict[int, str] = {}
        for line in done.stdout.splitlines():
            if line.startswith("@["):  # @[vfs_read, -2115616304]: 12
                name, address = line[2 : line.index("]:")].rsplit(", ", 1)
                theirs[int(address) % 2**64] = name
        ours: dict[int, str] = {}
        for (metric, labels), _ in daemon.samples().items():
            own = dict(labels)
            if metric.startswith("ebpf_") and "function" in own:
                ours[int(own["address"])] = own["function"]
        assert len(tables(daemon)) == 1
    common = ours.keys() & theirs.keys()
    assert len(common) >= COMMON
    same = aliases()
    assert {at: ours[at] for at in common if theirs[at] not in same.get(ours[at], {ours[at]})} == {}
    assert not any(name.startswith("0x") for name in ours.values())


def tables(daemon: Daemon) -> set[int]:
    """Returns the tables of symbols that the supervisor keeps, by their inodes."""
    assert daemon.process
    fds = Path(f"/proc/{daemon.process.pid}/fd").iterdir()
    return {fd.stat().st_ino for fd in fds if str(fd.readlink()).startswith("/memfd:ksyms")}


def aliases() -> dict[str, set[str]]:
    """Returns, by each function's name, all names that are for its address."""
    found: dict[str, set[str]] = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, _, name = line.split()[:3]
        found.setdefault(address, set()).add(name)
    return {name: names for names in found.values() if len(names) > 1 for name in names}
