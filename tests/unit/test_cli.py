# SPDX-License-Identifier: Apache-2.0
"""cli.py: the commands as a user runs them, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter import __version__

from .conftest import Write

ROOT = Path(__file__).resolve().parents[2]
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def run(*arguments: object, prefix: list[str] | None = None) -> tuple[int, str, str]:
    """Runs the command. Returns its exit code, stdout and stderr."""
    done = subprocess.run(
        [*(prefix or []), sys.executable, "-m", "exporter", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_check_of_the_shipped_config() -> None:
    """A good config exits with 0 and names the probes that it runs."""
    path = ROOT / "config.yaml"
    expected = f"{path}: good: file_io, file_opens, shell_commands, process_execs, xdp\n"
    assert run("check", "--config", path) == (0, expected, "")


def test_check_of_a_bad_config(write: Write) -> None:
    """A bad config exits with 1 and a line for each problem, with file and line, in their order."""
    path = write("config.yaml", "listn: [':80']\ninterval: 5\nprobes:\n  file_opens:\n    max_series: 0\n")
    code, out, err = run("check", "--config", path)
    assert (code, out) == (1, "")
    assert [line.partition(" ")[0] for line in err.splitlines()] == [f"{path}:{line}:" for line in (1, 2, 5)]


def test_check_of_a_bad_probe(write: Write) -> None:
    """What the config names and its probe lacks is told by check as well."""
    path = write("config.yaml", "probes:\n  file_opens: {labels: [user]}\n")
    expected = f"{path}:2: probes.file_opens.labels.0: 'user' is not of file_opens; allowed: comm, file, result\n"
    assert run("check", "--config", path) == (1, "", expected)


def test_check_of_a_hook_that_is_not_here(write: Write) -> None:
    """A hook that this host lacks is a warning: the config may be another's."""
    probe = "{attach: 'uprobe:/absent:f', metrics: {ebpf_p_total: {type: counter, help: Calls.}}}"
    path = write("config.yaml", f"probes:\n  p: {probe}\n")
    warning = "warning: probe p would not run on this host: there is no /absent here\n"
    assert run("check", "--config", path) == (0, f"{path}: good: p\n", warning)


def test_check_warns_of_rules_that_cut_off(write: Write) -> None:
    """A rule that would drop what nobody wants to miss is no error, but is told of."""
    rules = "[{name: all, action: drop, protocol: tcp}, {name: named, action: drop, source: 192.0.2.0/24}]"
    path = write("config.yaml", f"listen: [':9435']\nprobes: {{xdp: {{interfaces: [none0], rules: {rules}}}}}\n")
    code, out, err = run("check", "--config", path)
    assert (code, out) == (0, f"{path}: good: xdp\n")
    warnings = [line for line in err.splitlines() if "connected now" not in line]
    assert [line.partition(";")[0] for line in warnings] == [
        "warning: probe xdp: the rule all would drop the page's own port (9435)",
        "warning: probe xdp: the rule all would drop established SSH (port 22)",
    ]


def test_check_shows_the_source(write: Write) -> None:
    """--show-source prints the C of a probe, and nothing else; of a probe that the config lacks, those that it has."""
    path = write("config.yaml", "probes:\n  file_opens: {labels: [result]}\n  process_execs: {}\n")
    code, out, err = run("check", "--config", path, "--show-source", "file_opens")
    assert (code, err) == (0, "")
    assert out.startswith("#line 1 ")
    assert "#define WITH_file 0\n" in out
    assert out.endswith((ROOT / "bpf" / "file_opens.c").read_text() + "\n")
    expected = f"{path}: has no probe 'file_open'; did you mean 'file_opens'? allowed: file_opens, process_execs\n"
    assert run("check", "--config", path, "--show-source", "file_open") == (1, "", expected)


@pytest.mark.parametrize("end", ["", "\n"])
def test_check_shows_a_script(tmp_path: Path, end: str) -> None:
    """Of a bpftrace probe it is the script: as the file or the config has it, with a new line at its end."""
    text = "BEGIN { @a = count(); } // caf\udce9"
    (tmp_path / "a.bt").write_text(text + end, errors="surrogateescape")
    path = tmp_path / "config.yaml"
    inline = text.replace("\udce9", "é")
    path.write_text(json.dumps({"probes": {"file": {"bpftrace": "a.bt"}, "inline": {"bpftrace": inline + end}}}))
    for name, shown in (("file", text), ("inline", inline)):
        command = [sys.executable, "-m", "exporter", "check", "--config", str(path), "--show-source", name]
        env = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == f"{shown}\n".encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("command", ["check", "run", "doctor"])
def test_missing_config(tmp_path: Path, command: str) -> None:
    """A config that is not there is one line."""
    path = tmp_path / "absent.yaml"
    assert run(command, "--config", path) == (1, "", f"{path}: cannot be read: No such file or directory\n")


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_without_root(command: str) -> None:
    """A user without privileges is told, in one line, which are missing and what to do."""
    code, out, err = run(command, "--config", ROOT / "config.yaml", prefix=NOBODY if os.geteuid() == 0 else None)
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert line.startswith("ebpf-exporter: lacks ")
    assert "CAP_BPF (to load BPF programs)" in line
    assert "CAP_SETUID (to give the worker another user)" in line
    assert line.endswith(": run it as root")


def test_version() -> None:
    """--version is the package's."""
    assert run("--version") == (0, f"ebpf-exporter {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [[], ["chekc"], ["check", "--confg", "x"], ["doctor", "--seconds", "nan"], ["doctor", "--seconds", "-1"]],
)
def test_wrong_use(arguments: list[str]) -> None:
    """A wrong command line exits with 2 and the usage."""
    code, out, err = run(*arguments)
    assert (code, out, err.splitlines()[0][:20]) == (2, "", "usage: ebpf-exporter")
