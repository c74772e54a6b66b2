# SPDX-License-Identifier: Apache-2.0
"""selftest.py: commands with nothing of the caller's, some on a terminal, and what is said of those that go wrong."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporter import selftest
from exporter.probe import Selftest


def sh(script: str, terminal: str | None = None) -> Selftest:
    return Selftest(("/bin/sh", "-c", script), terminal)


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        (Selftest(("/bin/true",)), ""),
        (Selftest(("true",)), ""),
        (Selftest(("/bin/absent",)), "cannot run /bin/absent: No such file or directory"),
        (Selftest(("/bin/absent",), "x"), "cannot run /bin/absent: No such file or directory"),
        (sh("exit 3"), "/bin/sh ended with code 3"),
        (sh("echo one >&2; echo two >&2; exit 3"), "/bin/sh ended with code 3: two"),
        (sh("kill -TERM $$"), "/bin/sh ended with SIGTERM"),
        (sh('read -r word; [ "$word" = typed ]', "typed\n"), ""),
        (sh('read -r word; [ "$word" = typed ]', "other\n"), "/bin/sh ended with code 1"),
        (sh("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && : </dev/tty", ""), ""),
        (sh("head -c 1000000 /dev/zero", ""), ""),
    ],
)
def test_runs(test: Selftest, complaint: str) -> None:
    """A command that ends with 0 is nothing to complain of; else the way that it ended is, with its last words."""
    assert selftest.run(test, 30.0) == complaint


@pytest.mark.parametrize("terminal", [None, "", "never read\n"])
def test_the_limit_of_time(terminal: str | None) -> None:
    """A command that does not end is ended."""
    assert selftest.run(Selftest(("/bin/sleep", "1000"), terminal), 0.1) == "/bin/sleep had not ended after 0.1 s"


def test_words_are_no_shells(tmp_path: Path) -> None:
    """What would be syntax to a shell is a word like any other."""
    made = tmp_path / "$(echo *); true"
    assert selftest.run(Selftest(("/bin/touch", str(made))), 30.0) == ""
    assert list(tmp_path.iterdir()) == [made]


def test_the_environment_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the caller's environment nor its folder, nor its descriptors, are a command's."""
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.setenv("PATH", "/nowhere")
    out = tmp_path / "out"
    with (tmp_path / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        assert selftest.run(sh(f"{{ env; pwd; ls -l /proc/$$/fd; }} >{out}"), 30.0) == ""
    text = out.read_text()
    assert "/" in text.splitlines()
    assert f"PATH={selftest.ENVIRONMENT['PATH']}" in text.splitlines()
    assert "hunter2" not in text
    assert "/held" not in text


def test_nothing_of_a_command_stays(tmp_path: Path) -> None:
    """What a command started in its session's group ends with it."""
    pid = tmp_path / "pid"
    assert selftest.run(sh(f"sleep 1000 & echo $! >{pid}"), 30.0) == ""
    try:
        left = os.pidfd_open(int(pid.read_text()))
    except ProcessLookupError:
        return
    assert select.select([left], [], [], 30.0)[0], "it lives"
    os.close(left)


@pytest.mark.parametrize("terminal", [None, "never read\n"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_command_ends_with_its_caller(tmp_path: Path, terminal: str | None, number: signal.Signals) -> None:
    """By Ctrl-C, and by kill -9, which the caller can do nothing about."""
    written = tmp_path / "pid"
    test = sh(f"echo $$ >{written}; exec sleep 1000", terminal)
    code = f"from exporter import selftest, probe; selftest.run(probe.{test!r}, 1000.0)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as caller:
        while not (written.exists() and written.read_text().endswith("\n")):
            assert caller.poll() is None
            time.sleep(0.01)
        command = os.pidfd_open(int(written.read_text()))
        caller.send_signal(number)
        try:
            assert select.select([command], [], [], 30.0)[0], "it lives"
        finally:
            os.close(command)


@pytest.mark.parametrize("terminal", [None, "never read\n"])
def test_what_a_command_started_ends_by_a_ctrl_c(tmp_path: Path, terminal: str | None) -> None:
    """The rest of its session's group too, while the caller goes on."""
    written = tmp_path / "pid"

    def interrupt(*_: object) -> None:
        if not written.exists() or not written.read_text().endswith("\n"):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            return
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            selftest.run(sh(f"trap '' HUP; sleep 1000 & echo $! >{written}; wait", terminal), 1000.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    try:
        left = os.pidfd_open(int(written.read_text()))
    except ProcessLookupError:
        return
    assert select.select([left], [], [], 30.0)[0], "it lives"
    os.close(left)
