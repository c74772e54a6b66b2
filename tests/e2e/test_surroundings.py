# SPDX-License-Identifier: Apache-2.0
"""What others have of it: its processes, what lies in its places, and what is set in the environment at its start."""

import ctypes
import json
import os
import re
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.test_hostile import NOBODY, as_nobody, folder, lawful
from tests.e2e.test_reload import executes
from tests.kernel.daemon import Daemon, count
from tests.kernel.test_commands import EXECS
from tests.kernel.wires import link

__all__ = ["folder"]

_PTRACE_SEIZE = 0x4206
_libc = ctypes.CDLL(None, use_errno=True)


def test_no_user_can_signal_or_look_into_it() -> None:
    """Not even nobody, whose processes may be many: the worker is of a user that has no others."""

    def refused(action: Callable[[], object]) -> bool:
        try:
            action()
        except (PermissionError, ProcessLookupError):
            return True
        return False

    def work() -> None:
        for pid in pids:
            for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGHUP, signal.SIGTERM):
                assert refused(partial(os.kill, pid, number))
            assert _libc.ptrace(_PTRACE_SEIZE, pid, None, None) == -1
            for name in ("environ", "mem", "maps"):
                assert refused(Path(f"/proc/{pid}/{name}").read_bytes)
            assert refused(partial(os.listdir, f"/proc/{pid}/fd"))

    with Daemon({"process_execs": {}}) as daemon:
        assert daemon.process is not None
        assert daemon.page()  # so the worker is what it stays
        pids = daemon.process.pid, daemon.worker_pid()
        as_nobody(work)
        assert count(daemon.samples(), "ebpf_exporter_worker_restarts_total") == 0


def test_the_worker_has_no_rights() -> None:
    """No user with files or processes, no group, no capability nor a way to one, a filter of system calls; and none of
    its descriptors is of a file that it could write, but the log."""
    with Daemon({"process_execs": {}}, prefix=["setpriv", "--groups", "4,27"]) as daemon:
        assert daemon.page()  # so the worker is what it stays
        process = Path(f"/proc/{daemon.worker_pid()}")
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        writable = [
            int(entry.name)
            for entry in (process / "fdinfo").iterdir()
            if int(re.findall(r"^flags:\t(\d+)", entry.read_text(), re.MULTILINE)[0], 8) & os.O_ACCMODE
            and (process / "fd" / entry.name).readlink().is_absolute()
        ]
    assert len(set(status["Uid"].split())) == len(set(status["Gid"].split())) == 1
    assert (int(status["Uid"].split()[0]) in (0, NOBODY), status["Groups"].split()) == (False, [])
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert set(writable) <= {1, 2}


def test_the_worker_is_given_no_rules() -> None:
    """Of the maps of a probe with rules it has those that count, and none that says what becomes of a packet."""
    rules = [{"name": "web", "action": "drop", "destination": "192.0.2.0/24", "destination_port": [80, "90-99"]}]
    with link("docs-rules") as pair, Daemon({"xdp": {"interfaces": [pair.name], "rules": rules}}) as daemon:
        assert daemon.status("xdp")["state"] == "running"

        assert daemon.process is not None
        out = subprocess.run(["bpftool", "map", "list", "--json"], check=True, capture_output=True).stdout
        names = {str(one["id"]): str(one.get("name", "")) for one in json.loads(out)}
        kept = [entry.read_text() for entry in Path(f"/proc/{daemon.worker_pid()}/fdinfo").iterdir()]
        found = {names[number] for one in kept for number in re.findall(r"^map_id:\t(\d+)", one, re.MULTILINE)}
    assert any(name.startswith("rules_") for name in names.values())  # the kernel has them
    assert {name for name in found if not name.startswith("xdp_")} == {"barrier", "barrier_inner", "writing"}
    assert any(name.startswith("xdp_rule") for name in found)


def test_any_user_may_read_the_page_on_loopback() -> None:
    """By default nobody is asked who he is: a host whose users are not to see it wants a socket or a password."""

    def read() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}/metrics", timeout=60) as answer:
            assert b"ebpf_exporter_build_info" in answer.read()

    with Daemon({"process_execs": {}}) as daemon:
        as_nobody(read)


def private(plant: str) -> list[str]:
    """Returns a prefix for a daemon's command: in empty places of its own for caches and sockets, with this done."""
    script = f"mount -t tmpfs -o mode=755 none /var/cache && mount -t tmpfs -o mode=755 none /run && {plant}"
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh"]


CACHE, RUNTIME = "/var/cache/ebpf-exporter", "/run/ebpf-exporter"
PLANTED = {
    "a link to a folder of somebody's": "ln -s {target} {place}",
    "a link to a private folder": "chown root {target} && chmod 700 {target} && ln -s {target} {place}",
    "a link to nothing": "ln -s {target}/nothing {place}",
    "a folder of somebody's": f"mkdir -m 700 {{place}} && chown {NOBODY} {{place}}",
    "a folder that all may write": "mkdir {place} && chmod 777 {place}",
    "a file": "touch {place}",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_lies_in_place_of_the_cache(planted: str, folder: Path) -> None:
    """Is not followed, nor trusted: what has to be compiled fails with the reason, and nothing is written there."""
    plant = PLANTED[planted].format(target=folder, place=CACHE)
    with Daemon({"process_execs": {}}, prefix=private(plant)) as daemon:
        status = daemon.status("process_execs")
        lawful(daemon)
        there = Path(f"/proc/{daemon.worker_pid()}/root{CACHE}")
        assert planted.startswith("a link") or not there.is_dir() or list(there.iterdir()) == []
    assert (status["state"], status["reason"]) == (
        "failed",
        f"cannot make {CACHE}: File exists"
        if planted in ("a file", "a link to nothing")
        else f"{CACHE} is not a folder that only root can write; remove it",
    )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("planted", PLANTED)
def test_what_lies_in_place_of_the_runtime_folder(planted: str, folder: Path) -> None:
    """Is not followed, nor trusted: the log says that a reload is by SIGHUP alone, and all else is as ever."""
    plant = PLANTED[planted].format(target=folder, place=RUNTIME)
    with Daemon({"process_execs": {}}, prefix=private(plant)) as daemon:
        executes(13)
        samples = lawful(daemon)
        log = daemon.log()
    assert count(samples, EXECS, user="root", comm="true") >= 13
    assert "WARNING ebpf-exporter reload cannot reach this exporter, only SIGHUP can" in log
    assert list(folder.iterdir()) == []


SPY = """
#include <fcntl.h>
#include <sys/prctl.h>
#include <string.h>
#include <unistd.h>
__attribute__((constructor)) static void tell(void)
{
    char name[17] = "";
    int fd = open("%s", O_WRONLY | O_APPEND);
    prctl(PR_GET_NAME, name);
    strcat(name, "\\n");
    (void)!write(fd, name, strlen(name));
    close(fd);
}
"""
MODULES = (
    "exporter",
    "yaml",
    "bcc",
    "prometheus_client",
    "seccomp",
    "json",
    "logging",
    "sitecustomize",
    "usercustomize",
)


def test_what_is_set_at_start(folder: Path) -> None:
    """LD_PRELOAD goes into no program that it runs; PYTHONPATH and its like are ignored; TMPDIR is not used; a path of
    headers is not looked into. Nothing of it is on a page."""
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        (work / "seen").touch()
        (work / "spy.c").write_text(SPY % (work / "seen"))
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", work / "spy.so", work / "spy.c"], check=True)
        for name in ("linux", "bcc", "uapi/linux", "asm"):
            (work / "headers" / name).mkdir(parents=True)
        for name in ("vmlinux.h", "linux/kconfig.h", "linux/sched.h", "linux/bpf.h", "uapi/linux/ptrace.h", "stddef.h"):
            (work / "headers" / name).write_text("#error hunter2\n")
        for name in MODULES:
            (work / f"{name}.py").write_text(f"open({str(work / 'imported')!r}, 'a').write({name!r})\n")
        environment = {
            "LD_PRELOAD": f"{work}/spy.so {work}/missing.so",
            **dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "HOME"), work),
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP", "PROMETHEUS_MULTIPROC_DIR", "XDG_CACHE_HOME"), folder),
            **dict.fromkeys(("CPATH", "C_INCLUDE_PATH"), work / "headers"),
            **{"PYTHONSTARTUP": work / "yaml.py", "PYTHONINSPECT": "1", "PYTHONWARNINGS": "error", "PATH": "/nowhere"},
            **{"BCC_KERNEL_SOURCE": work, "LC_ALL": "no_SUCH.locale", "SECRET": "hunter2"},
        }
        prefix = [*private("true"), "env", *(f"{name}={value}" for name, value in environment.items())]
        script = "tracepoint:sched:sched_process_exec { @execs = count(); }"
        with Daemon({"process_execs": {}, "script": {"bpftrace": script}}, prefix=prefix) as daemon:
            assert [daemon.status(name)["reason"] for name in ("process_execs", "script")] == ["", ""]
            before = count(daemon.samples(), EXECS, user="root", comm="true")
            executes(13)
            assert count(lawful(daemon), EXECS, user="root", comm="true") == before + 13
            pages = b"".join(daemon.get(path)[1] for path in ("/metrics", "/probes", "/"))
            log = daemon.log()
        assert set((work / "seen").read_text().split()) == {"ebpf-exporter"}
        assert not (work / "imported").exists()
    assert list(folder.iterdir()) == []
    assert b"hunter2" not in pages
    assert "Traceback" not in log
