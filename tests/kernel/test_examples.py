# SPDX-License-Identifier: Apache-2.0
"""Every example in bpf/examples runs here and counts what happens, or says why this kernel can't."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import lacks
from .daemon import Daemon, Samples, count, free_port

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "bpf" / "examples"
DOCUMENT = ROOT / "docs" / "examples.md"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
COMM = "example"
# what a kernel or a machine may lack, and what is said then
MECHANISMS = {
    "cache_misses": ("hardware", "no PMU"),
    "file_locks": ("kprobe", "no kprobes"),
    "lock_errors": ("kprobe", "no kprobes"),
    "tcp_connects": ("fexit", "tracing programs"),
    "connect_times": ("fexit", "tracing programs"),
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon({name: {} for name in NAMES}, folder=EXAMPLES) as one:
        yield one


def python(script: str, *words: object, first: str = "") -> None:
    """Runs a script in a process that is called ``example`` when it has done what comes first, to its abrupt end."""
    head = f"import os, sys\n{first}\nopen('/proc/self/comm', 'w').write('{COMM}')\n"
    subprocess.run(
        ["/usr/bin/python3", "-c", head + script + "\nos._exit(0)", *map(str, words)], check=True, timeout=60
    )


def moved(before: Samples, after: Samples, name: str, **labels: str) -> float:
    return count(after, name, **labels) - count(before, name, **labels)


def trigger(name: str, folder: Path) -> dict[str, dict[str, int]]:
    """Does something known for an example. Returns by how much series are to have grown: labels -> number."""
    if name == "tcp_states":
        port = free_port()
        python(f"import socket\nfor _ in range(7): socket.socket().connect_ex(('127.0.0.1', {port}))")
        return {"ebpf_tcp_state_changes_total": {f"port={port} state=2": 7, f"port={port} state=7": 7}}
    if name == "image_execs":
        shutil.copy("/bin/true", folder / "example-true")
        for _ in range(7):
            subprocess.run([folder / "example-true"], check=True)
        return {"ebpf_image_execs_total": {"user=root comm=example-true": 7}}
    if name == "dns_lookups":
        python("import socket\nfor _ in range(7): socket.getaddrinfo('localhost', 80)")
        return {"ebpf_dns_lookups_total": {f"comm={COMM} host=localhost": 7}}
    if name == "dns_times":
        python("import socket\nfor _ in range(7): socket.getaddrinfo('localhost', 80)")
        return {"ebpf_dns_lookup_seconds_count": {f"comm={COMM}": 7}}
    if name == "environment_reads":
        first = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.getenv(b'')"
        python("for _ in range(7): libc.getenv(b'EXAMPLE_UNSET')", first=first)
        return {"ebpf_getenv_unset_total": {f"comm={COMM}": 7}}
    if name == "python_collections":
        python("import gc\ngc.disable()\nfor _ in range(7): gc.collect(1)")
        return {"ebpf_python_collections_total": {f"comm={COMM} generation=1": 7}}
    if name in ("file_locks", "lock_errors"):
        script = (
            "import fcntl, os\nfile = open(sys.argv[1], 'w')\n"
            "for _ in range(5): fcntl.lockf(file, fcntl.LOCK_EX)\n"
            "if not os.fork():\n"
            "    for _ in range(3):\n"
            "        try: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "        except OSError: pass\n"
            "    os._exit(0)\n"
            "os.wait()\nfcntl.lockf(file, fcntl.LOCK_UN)"
        )
        python(script, folder / "file")
        if name == "lock_errors":
            return {"ebpf_file_lock_errors_total": {f"comm={COMM} error=-11": 3}}
        return {"ebpf_file_locks_total": {f"comm={COMM}": 5 + 3 + 1}}
    if name in ("tcp_connects", "connect_times"):
        port = free_port()
        python(f"import socket\nfor _ in range(7): socket.socket().connect_ex(('127.0.0.1', {port}))")
        if name == "connect_times":
            return {"ebpf_connect_seconds_count": {"failed=false": 7}}
        return {"ebpf_tcp_connects_total": {f"address=127.0.0.1 port={port}": 7}}
    if name == "page_faults":
        python("import mmap\nmemory = mmap.mmap(-1, 4096 * 1009)\nfor page in range(1009): memory[page * 4096] = 1")
        return {"ebpf_page_faults_total": {f"comm={COMM}": 1009}}
    if name in ("cpu_samples", "cache_misses"):
        python("for _ in range(20_000_000): pass")
        return {f"ebpf_{name}_total": {f"comm={COMM}": 1}}
    raise AssertionError(f"nothing is known to do for {name}")


# what else the process does is counted too; and a sample comes when it comes
AT_LEAST = ("page_faults", "cpu_samples", "cache_misses", "connect_times")


@pytest.mark.parametrize("name", NAMES)
def test_example(daemon: Daemon, name: str, tmp_path: Path) -> None:
    """It is attached, and counts exactly what was done."""
    status = daemon.status(name)
    if status["state"] != "running":
        mechanism, words = MECHANISMS[name]
        assert words in status["reason"]
        if mechanism == "hardware":  # of the machine, not of the kernel
            pytest.skip(status["reason"])
        lacks(mechanism, status["reason"])
    before = daemon.samples()
    expected = trigger(name, tmp_path)
    after = daemon.samples()
    for metric, series in expected.items():
        for text, number in series.items():
            labels = dict(part.split("=", 1) for part in text.split())
            grown = moved(before, after, metric, **labels)
            assert grown >= number if name in AT_LEAST else grown == number, (metric, labels)
    page = {bare(line) for line in daemon.page().splitlines()}
    assert {bare(line) for line in documented(name)[1].splitlines()} <= page


def bare(line: str) -> str:
    """A line without its value; ports differ from run to run."""
    return re.sub(r'port="\d+"', 'port="N"', line.rpartition(" ")[0])


def documented(name: str) -> tuple[str, str]:
    """The YAML and the lines of the page that the document shows."""
    match = re.search(rf"`{name}\.yaml`\n\n```yaml\n(.*?)```\n\n```text\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert match, f"{name} is not in {DOCUMENT}"
    return match[1], match[2]


@pytest.mark.anywhere
@pytest.mark.parametrize("name", NAMES)
def test_each_example_is_documented(name: str) -> None:
    """Who reads of examples finds all of them, as they are."""
    assert (EXAMPLES / f"{name}.yaml").read_text().partition("\n")[2] == documented(name)[0]
