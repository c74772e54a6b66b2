# SPDX-License-Identifier: Apache-2.0
"""The probes shell_commands and process_execs against commands really typed and programs really executed."""

import os
import pty
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.kernel.daemon import ROOT, Daemon, by, count

COMMANDS, EXECS = "ebpf_shell_commands_total", "ebpf_process_execs_total"
PROMPT = b"<prompt>"


class Terminal:
    """A program on a pseudo-terminal, typed to line by line."""

    def __init__(self, master: int) -> None:
        self._master = master

    def expect_prompt(self) -> None:
        seen = b""
        while not seen.endswith(PROMPT):
            ready, _, _ = select.select([self._master], [], [], 60)
            assert ready, f"no prompt in {seen!r}"
            seen = (seen + os.read(self._master, 4096)).rstrip(b"\r\n\x1b[?2004hl")

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")
        self.expect_prompt()


@contextmanager
def terminal(*command: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "PS1": PROMPT.decode(),
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "HISTFILE": "/dev/null",
    }
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    try:
        shell = Terminal(master)
        shell.expect_prompt()
        yield shell
    finally:
        process.kill()
        process.wait()
        os.close(master)


@pytest.mark.matrix
def test_typed_commands_are_counted_by_first_word() -> None:
    """41 commands typed into an interactive bash are counted by first word: no argument, value or secret is shown."""
    lines = (
        ["true one --password=hunter2"] * 17
        + ["   :   leading blanks"] * 11
        + ["SECRET=hunter2 true"] * 5
        + ["true;false"] * 3
        + ["echo|cat>/dev/null"] * 2
        + ["(true)"]
        + ["ünïcode-command"]
        + ["# a comment"]
    )
    assert len(lines) == 41
    with Daemon({"shell_commands": {}}) as daemon:
        before = by(daemon.samples(), "command", COMMANDS, user="root")
        with terminal("/bin/bash", "--norc", "--noprofile", "-i") as shell:
            for line in lines:
                shell.type(line)
            shell.type("")  # no command
        page = daemon.page()
        after = by(daemon.samples(), "command", COMMANDS, user="root")
    assert before == {}
    assert after == {
        "true": 20, ":": 11, "SECRET=": 5, "echo": 2, "(": 1, "ünïcode-command": 1, "#": 1,
    }  # fmt: skip
    assert "hunter2" not in page


@pytest.mark.matrix
def test_what_is_typed_and_is_no_command_is_not_shown() -> None:
    """What `read -e` reads, further lines of a here-document or an open quote, a quoted or redirected first word."""
    lines = {
        "read -es PW\nhunter2-read secret": "read",
        "cat >/dev/null <<END\nhunter2-here\nEND": "cat",
        "true 'one\nhunter2-quote two'": "true",
        "'hunter2-quoted'": "'",
        '"hunter2-quoted"': '"',
        "</dev/null hunter2-redirected": "<",
        "$hunter2_variable": "$",
        "echo`hunter2`": "echo",
    }
    with Daemon({"shell_commands": {}}) as daemon:
        with terminal("/bin/bash", "--norc", "--noprofile", "-i") as shell:
            for line in lines:
                shell.type(line)
        page = daemon.page()
        after = by(daemon.samples(), "command", COMMANDS, user="root")
    assert after == dict.fromkeys(lines.values(), 1.0)
    assert "hunter2" not in page


@pytest.mark.matrix
def test_readline_is_found_in_the_library_where_bash_has_none(tmp_path: Path) -> None:
    """Where the shell's own file has no readline, the one of libreadline is taken."""
    (tmp_path / "shell.c").write_text(
        'char *readline(const char *);\nint main(void) { while (readline("<prompt>")); return 0; }\n'
    )
    shell = tmp_path / "shell"
    subprocess.run(["gcc", "-o", str(shell), str(tmp_path / "shell.c"), "-l:libreadline.so.8"], check=True)
    folder = tmp_path / "probes"
    folder.mkdir()
    declared = yaml.safe_load((ROOT / "bpf" / "shell_commands.yaml").read_text())
    declared["attach"][0]["on_prompt"] = f"uprobe:{shell}:readline"
    declared["attach"][0]["on_readline"] = f"uretprobe:{shell}:readline"
    (folder / "shell_commands.yaml").write_text(yaml.safe_dump(declared))
    shutil.copy(ROOT / "bpf" / "shell_commands.c", folder)
    with Daemon({"shell_commands": {}}, folder=folder) as daemon:
        status = daemon.status("shell_commands")
        with terminal(str(shell)) as typed:
            for _ in range(13):
                typed.type("library-made command")
        after = by(daemon.samples(), "command", COMMANDS)
    assert ["on_readline", "uretprobe:libreadline:readline"] in status["attachments"]
    assert after == {"library-made": 13}


@pytest.mark.matrix
def test_executed_programs_are_counted_by_user_and_name(tmp_path: Path) -> None:
    """13 programs of root's and 7 of nobody's; an exec that fails is none."""
    program = tmp_path / "counted-program-with-a-long-name"
    shutil.copy("/bin/true", program)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    missing = tmp_path / "missing"
    with Daemon({"process_execs": {}}) as daemon:
        for _ in range(13):
            subprocess.run([str(program)], check=True)
        for _ in range(7):
            subprocess.run([str(program)], check=True, user=65534, group=65534)
        for _ in range(3):
            subprocess.run(["/bin/sh", "-c", f"{missing} 2>/dev/null"], check=False)
        samples = daemon.samples()
    assert by(samples, "user", EXECS, comm="counted-program") == {"root": 13, "nobody": 7}
    assert count(samples, EXECS, comm="missing") == 0
