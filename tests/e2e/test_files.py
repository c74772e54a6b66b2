# SPDX-License-Identifier: Apache-2.0
"""Programs and libraries that are replaced, removed and brought back while programs of ours are attached to them."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import attached, patched
from tests.kernel.conftest import lacks
from tests.kernel.daemon import ROOT, Daemon, count
from tests.kernel.test_commands import COMMANDS, terminal

WORK = "ebpf_work_total"
PROGRAM = r"""
#include <stdio.h>
#ifdef MOVED
int before(int number) { return number * 3; }
#endif
__attribute__((noinline)) int work(int number) { __asm__ volatile(""); return number + 1; }
#ifndef LIBRARY
int main(void)
{
    int sign;
    while ((sign = getchar()) != EOF) {
        putchar(work(sign) - 1);
        fflush(stdout);
    }
    return 0;
}
#endif
"""


def build(made: Path, *flags: str) -> Path:
    """Compiles the program, which works once for each byte that it is sent. What is there is replaced, by a file of
    another inode, in one step."""
    work = made.with_name(f"{made.name}.new")
    command = ["gcc", "-O1", "-x", "c", "-", "-o", str(work), *flags]
    subprocess.run(command, input=PROGRAM, text=True, check=True)
    work.rename(made)
    return made


def probe(file: object) -> dict[str, Any]:
    metrics = {WORK: {"type": "counter", "help": "Work.", "labels": {"comm": "comm"}}}
    return {"attach": f"uprobe:{file}:work", "metrics": metrics}


class Worker:
    """A process of the program."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def work(self, times: int) -> None:
        """Returns when it has worked so many times."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"x" * times)
        done = 0
        while done < times:
            done += len(self.process.stdout.read(times - done) or b"")


@contextmanager
def running(program: Path) -> Iterator[Worker]:
    worker = Worker(program)
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()
        for pipe in (worker.process.stdin, worker.process.stdout):
            assert pipe is not None
            pipe.close()


def links(daemon: Daemon) -> set[int]:
    return attached(daemon).get("on_event", set())


def wait_for_others(daemon: Daemon, before: set[int]) -> None:
    """Returns when there is a link that was not there before."""
    daemon.wait_for(lambda: bool(links(daemon) - before), "another link")


def test_a_program_that_is_replaced_is_counted_on(tmp_path: Path) -> None:
    """Both the processes that still run the old file and those of the new one are counted, in the same totals, though
    the function is elsewhere in it."""
    program = build(tmp_path / "program")
    with Daemon({"work": probe(program)}) as daemon, running(program) as old:
        old.work(7)
        assert count(daemon.samples(), WORK) == 7
        before = links(daemon)
        for number, flags in enumerate(((), ("-DMOVED",), ("-DMOVED", "-O2")), 1):
            build(program, *flags)
            daemon.wait_for_log("attached to a file that is another", number)
            with running(program) as new:
                new.work(5)
            old.work(3)
            assert count(daemon.samples(), WORK) == 7 + 8 * number
            assert before < links(daemon)
        assert daemon.status("work")["state"] == "running"
        assert count(daemon.samples(), "ebpf_exporter_program_runs_total", probe="work") == 31


def test_only_the_last_of_many_files_are_held(tmp_path: Path) -> None:
    """A program that is built again and again does not fill the disk with files that only we hold."""
    program = build(tmp_path / "program")
    with Daemon({"work": probe(program)}) as daemon:
        for number in range(1, 8):
            before = links(daemon)
            build(program, f"-DNUMBER={number}")
            wait_for_others(daemon, before)
        daemon.wait_for(lambda: len(links(daemon)) == 4, "the end of the oldest")
        with running(program) as new:
            new.work(5)
        assert count(daemon.samples(), WORK) == 5


def test_a_program_that_is_written_anew_in_place(tmp_path: Path) -> None:
    """What is where in a file is another thing, though it is the same file: it is attached to anew, and each call
    counts once."""
    program = build(tmp_path / "program")
    other = build(tmp_path / "other", "-DMOVED")
    with Daemon({"work": probe(program)}) as daemon:
        for number, content in enumerate((other.read_bytes(), program.read_bytes()), 1):
            inode, before = program.stat().st_ino, links(daemon)
            program.write_bytes(content)
            assert program.stat().st_ino == inode
            wait_for_others(daemon, before)
            with running(program) as new:
                new.work(5)
            assert count(daemon.samples(), WORK) == 5 * number
            assert len(links(daemon)) == 1


def test_a_program_that_goes_and_comes(tmp_path: Path) -> None:
    """While it is gone its probe says so, and counts who still runs it; when it is there again, it is counted on."""
    program = build(tmp_path / "program")
    with Daemon({"work": probe(program)}) as daemon, running(program) as old:
        program.unlink()
        daemon.wait_for(lambda: daemon.status("work")["state"] == "degraded", "that it is gone")
        assert daemon.status("work")["reason"] == f"there is no {program} any more"
        old.work(3)
        build(program)
        daemon.wait_for(lambda: daemon.status("work")["state"] == "running", "that it is back")
        with running(program) as new:
            new.work(5)
        old.work(2)
        assert count(daemon.samples(), WORK) == 10


def test_a_program_that_comes_later(tmp_path: Path) -> None:
    """A probe that failed because there was no such file runs once there is one, long before it is tried anyway."""
    program = tmp_path / "program"
    with Daemon({"work": probe(program)}, prefix=patched("supervisor.life.FIRST_PAUSE=3600.0")) as daemon:
        status = daemon.status("work")
        assert (status["state"], status["reason"]) == (
            "failed",
            f"cannot attach to uprobe:{program}:work: there is no {program} here",
        )
        build(program)
        daemon.wait_for(lambda: daemon.status("work")["state"] == "running", "that it is there")
        with running(program) as new:
            new.work(5)
        assert count(daemon.samples(), WORK) == 5


def test_a_program_without_the_function(tmp_path: Path) -> None:
    """A new version that does not have what was attached to is told; who runs the old one is still counted, and the
    next version that has it is counted on."""
    program = build(tmp_path / "program")
    with Daemon({"work": probe(program)}) as daemon, running(program) as old:
        build(program, "-Dwork=labour")
        daemon.wait_for(lambda: daemon.status("work")["state"] == "degraded", "that it lacks the function")
        reason = (
            f"{program} changed, and can't be attached to again: cannot attach to uprobe:{program}:work: there is no"
        )
        assert daemon.status("work")["reason"].startswith(reason)
        old.work(3)
        build(program)
        daemon.wait_for(lambda: daemon.status("work")["state"] == "running", "that it has the function")
        with running(program) as new:
            new.work(5)
        assert count(daemon.samples(), WORK) == 8


def test_a_library_whose_name_means_another_file(tmp_path: Path) -> None:
    """A short name is looked up again when the loader's cache is another: the new library is counted on."""
    if not shutil.which("ldconfig"):
        pytest.skip("needs ldconfig")
    cache, libraries = tmp_path / "cache", [tmp_path / "one", tmp_path / "two"]
    users = []
    for number, folder in enumerate(libraries):
        folder.mkdir()
        flags = ("-DLIBRARY", "-shared", "-fPIC", "-Wl,-soname,libebpfexportertest.so.1", *["-DMOVED"] * number)
        library = build(folder / "libebpfexportertest.so.1", *flags)
        user = tmp_path / f"user{number}"
        code = "int work(int);\nint main(void) { for (int i = 0; i < 5; i++) work(i); return 0; }\n"
        command = ["gcc", "-x", "c", "-", "-x", "none", str(library), f"-Wl,-rpath,{folder}", "-o", str(user)]
        subprocess.run(command, input=code, text=True, check=True)
        users.append(user)

    def name(folder: Path) -> None:
        """Makes a cache of the loader's in which the library is in a folder; the file stays the same one."""
        new, listed = tmp_path / "new", tmp_path / "ld.so.conf"
        listed.write_text(f"{folder}\ninclude /etc/ld.so.conf.d/*.conf\n")
        subprocess.run(["ldconfig", "-X", "-C", str(new), "-f", str(listed)], check=True, capture_output=True)
        cache.write_bytes(new.read_bytes())

    name(libraries[0])
    bound = ["unshare", "-m", "sh", "-c", f'mount --bind {cache} /etc/ld.so.cache && exec "$@"', "sh"]
    with Daemon({"work": probe("libebpfexportertest")}, prefix=bound) as daemon:
        subprocess.run([users[0]], check=True)
        assert count(daemon.samples(), WORK) == 5
        name(libraries[1])
        daemon.wait_for_log("attached to a file that is another")
        for user in users:
            subprocess.run([user], check=True)
        assert count(daemon.samples(), WORK) == 15


def test_shell_commands_go_on_when_bash_is_upgraded(tmp_path: Path) -> None:
    """A package's new bash has another inode: what is typed into it is counted, as is what is typed into a shell that
    was there before."""
    bash, folder = tmp_path / "bash", tmp_path / "probes"
    folder.mkdir()
    shutil.copy("/bin/bash", bash)
    shutil.copy(ROOT / "bpf" / "shell_commands.c", folder)
    declared = (ROOT / "bpf" / "shell_commands.yaml").read_text()
    (folder / "shell_commands.yaml").write_text(declared.replace("/bin/bash", str(bash)))
    shell = (str(bash), "--norc", "--noprofile", "-i")
    with Daemon({"shell_commands": {}}, folder) as daemon, terminal(*shell) as old:
        old.type("true")
        shutil.copy("/bin/bash", tmp_path / "new")
        (tmp_path / "new").rename(bash)
        daemon.wait_for_log("attached to a file that is another")
        with terminal(*shell) as new:
            for _ in range(3):
                new.type("true")
        old.type("true")
        assert count(daemon.samples(), COMMANDS, command="true", user="root") == 5


def test_a_usdt_probe_whose_arguments_are_elsewhere(tmp_path: Path) -> None:
    """A new version of a program has a probe's argument in another place: programs for it are made, and count it."""
    source = "#include <sys/sdt.h>\n#include <stdlib.h>\nint main(int n, char **words)\n{\n"
    bodies = (
        "    int size = atoi(words[1]);\n    STAP_PROBE1(test, size, size);\n",
        "    static volatile long size; size = atol(words[1]);\n    STAP_PROBE1(test, size, size);\n",
    )
    program = tmp_path / "program"

    def make(body: str) -> None:
        work = tmp_path / "new"
        command = ["gcc", "-O1", "-x", "c", "-", "-o", str(work)]
        subprocess.run(command, input=f"{source}{body}    return 0;\n}}\n", text=True, check=True)
        work.rename(program)

    make(bodies[0])
    metrics = {"ebpf_sizes_total": {"type": "counter", "help": "Sizes.", "labels": {"size": "arg0"}}}
    with Daemon({"sizes": {"attach": f"usdt:{program}:test:size", "metrics": metrics}}) as daemon:
        if daemon.status("sizes")["state"] != "running":
            lacks("usdt", daemon.status("sizes")["reason"])
        subprocess.run([program, "12"], check=True)
        assert count(daemon.samples(), "ebpf_sizes_total", size="12") == 1
        before = set().union(*attached(daemon).values())
        make(bodies[1])
        daemon.wait_for(lambda: before.isdisjoint(*attached(daemon).values()), "programs for it")
        subprocess.run([program, "34"], check=True)
        assert count(daemon.samples(), "ebpf_sizes_total", size="34") == 1
        assert daemon.status("sizes")["state"] == "running"


def test_a_file_of_a_probe_that_is_removed_is_let_go(tmp_path: Path) -> None:
    """Nothing of ours keeps a deleted file on the disk."""
    program = build(tmp_path / "program")
    other = probe(build(tmp_path / "other"))
    other["metrics"] = {"ebpf_other_total": other["metrics"][WORK]}
    with Daemon({"work": probe(program), "other": other}) as daemon:
        build(program, "-DMOVED")
        daemon.wait_for_log("attached to a file that is another")
        assert len(links(daemon)) == 3
        daemon.configure({"other": other})
        assert daemon.reload().returncode == 0
        daemon.wait_for(lambda: len(links(daemon)) == 1, "the end of what attached it")
