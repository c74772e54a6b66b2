# SPDX-License-Identifier: Apache-2.0
"""``ebpf-exporter top`` in a real terminal: its numbers, its keys, and that names do nothing to the terminal."""

import os
import re
import select
import shlex
import shutil
import signal
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.metrics.series import Series
from exporter.status import ProbeStatus
from tests.certificates import Authority
from tests.kernel.daemon import COMMAND, Daemon, count
from tests.ui.host import Host, add
from tests.ui.terminal import SECONDS, Terminal
from tests.unit.support import counter, label, probe
from tests.unit.top.support import Exporter, probe_answer, serving

LABELS = (label("name", "string(128)"), label("op", ["read", "write"]))
PROBE = probe(counter("ebpf_p_calls_total", *LABELS), counter("ebpf_p_bytes_total", *LABELS))
FAILED = ProbeStatus(
    "q", "Counts others.", "failed", reason="there is no such interface as eth7 on this host, nor eth8"
)
HOSTILE = {
    "\x1b]2;owned\x07": r"\x1b]2;owned\x07",
    "\x1b[2J\x1b[31m": r"\x1b[2J\x1b[31m",
    "\x9b31m": r"\x9b31m",
    "two\nlines": r"two\nlines",
    "\u202egnp.exe": r"\u202egnp.exe",
    "a\u2066b\u200dc": r"a\u2066b\u200dc",
    "שלום 12": "שלום 12\u200e",
    "漢字ファイル": "漢字ファイル",
    "<script>": "<script>",
    "x" * 60: "x" * 60,
    " ": " ",
}


@pytest.fixture(autouse=True)
def needs_tmux() -> None:
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux")


def step(_: int, tables: list[Series]) -> None:
    """At each read, which is two seconds after the one before."""
    for number, name in enumerate(("bash", "cron", "sshd", "tar")):
        for op in (0, 1):
            add(tables[0], (20 * (number + 1), 4096 * (4 - number)), name=name, op=op)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(PROBE, step, FAILED) as one:
        yield one


def top(host: Host, *words: object, **settings: object) -> Terminal:
    command = [COMMAND, "top", "--url", host.url, "--interval", "0.5", *words]
    return Terminal(*command, **settings)  # type: ignore[arg-type]


def column(screen: list[str], at: int = 0) -> list[str]:
    """Returns a column of the table: its rows' words, which are without spaces."""
    head = next(number for number, line in enumerate(screen) if re.search(r"\S[v^]( |$)", line))
    rows = screen[head + 1 :]
    return [line.split()[at] for line in rows[: rows.index("")]]


def test_probes(host: Host) -> None:
    """100 runs of 400 ns in 2 s; what has failed says why in full where its column has no room."""
    with top(host) as terminal:
        screen = terminal.wait_for(r"^p +running +50\.0 ")
        assert screen[1].split() == "PROBE STATE EVENTS/Sv NS/EVENT %CORE SERIES BUDGET MISSED MECHANISM".split()
        assert screen[2].split() == "p running 50.0 400 0.00 8 1,000 0 kprobe".split()
        assert screen[3].split() == "q failed - - - 0 - -".split()
        assert "2 probes, 1 not well" in screen[0]
        terminal.press("Down")
        terminal.wait_for("^failed: there is no such interface as eth7 on this host, nor eth8$")
        terminal.press("Up", "Enter")
        screen = terminal.wait_for(r"^tar +read +40\.0 ")
        assert screen[1].split() == "NAME OP CALLS/Sv CALLS BYTES/S BYTES".split()
        assert column(screen) == [name for name in ("tar", "sshd", "cron", "bash") for _ in range(2)]
        assert column(screen, 2) == ["40.0", "40.0", "30.0", "30.0", "20.0", "20.0", "10.0", "10.0"]
        assert column(screen, 4) == ["2.05k", "2.05k", "4.10k", "4.10k", "6.14k", "6.14k", "8.19k", "8.19k"]
        terminal.press("Escape")
        terminal.wait_for("^q +failed ")


def test_keys(host: Host) -> None:
    """Sort, reverse, filter, pause and help."""
    with top(host, "p") as terminal:
        terminal.wait_for(r"^tar +read +40\.0 ")
        terminal.press(">", ">")
        assert column(terminal.wait_for(r"BYTES/Sv"))[0] == "bash"
        terminal.press("r")
        assert column(terminal.wait_for(r"BYTES/S\^"))[0] == "tar"
        terminal.press("/", "SSH")
        screen = terminal.wait_for("^/SSH_$")
        assert column(screen) == ["sshd", "sshd"]
        terminal.press("Enter")
        assert "2 of 8 with 'SSH'" in terminal.wait_for("Esc all")[-1]
        terminal.press("Escape")
        terminal.when(lambda screen: len(column(screen)) == 8)
        terminal.press("p")
        paused = terminal.wait_for("PAUSED")
        terminal.press("?")
        terminal.wait_for("sort by the column before, or after")
        terminal.press("x")
        assert terminal.wait_for("PAUSED") == paused
        terminal.press("p")
        terminal.when(lambda screen: "PAUSED" not in screen[0] and column(screen, 3) != column(paused, 3))


@pytest.mark.parametrize("end", ["q", "C-c", "TERM"])
def test_the_end(host: Host, end: str) -> None:
    """Whatever ends it, the terminal is as it was, with what was on it."""
    with top(host) as terminal:
        terminal.wait_for(r"^p +running ")
        if end == "TERM":
            os.kill(terminal.pid("ebpf-exporter"), signal.SIGTERM)
        else:
            terminal.press(end)
        assert terminal.wait_for_end() == (128 + signal.SIGTERM if end == "TERM" else 0, True)
        assert terminal.screen()[:2] == ["before", f"ended with {143 if end == 'TERM' else 0}"]


def test_a_terminal_that_is_closed(host: Host, tmp_path: Path) -> None:
    """It ends with its terminal, and has nothing to say."""
    command = shlex.join(map(str, [COMMAND, "top", "--url", host.url]))
    with Terminal("bash", "-c", f"exec {command} 2>{tmp_path}/words") as terminal:
        terminal.wait_for(r"^p +running ")
        process = os.pidfd_open(terminal.pid("ebpf-exporter"))
        terminal.close()
        ready, _, _ = select.select([process], [], [], SECONDS)
        os.close(process)
        assert ready
        assert (tmp_path / "words").read_text() == ""


def test_an_exporter_that_goes_and_comes(host: Host) -> None:
    """It says so over the last values, and goes on when it is back."""
    with top(host, "p") as terminal:
        terminal.wait_for(r"^tar +read +40\.0 ")
        host.vanish()
        why = f"http://127.0.0.1:{host.port} does not answer: Connection refused; is the exporter running?"
        away = terminal.when(lambda screen: "".join(screen[1:3]).replace(" ", "").startswith(why.replace(" ", "")))
        assert "tar" in column(away)
        host.answer()
        terminal.when(lambda screen: "CALLS/Sv" in screen[1] and column(screen, 3) != column(away, 3))


def test_sizes(host: Host) -> None:
    """As the terminal grows and shrinks, so does the table; down to nothing, and back."""
    with top(host, "p") as terminal:
        terminal.wait_for(r"^tar +read +40\.0 ")
        terminal.press("p")  # no answer, of which the screen is drawn anew
        before = terminal.wait_for("PAUSED")[1]
        terminal.resize(40, 10)
        screen = terminal.when(lambda screen: len(screen) == 10 and "CALLS/Sv" in screen[1] and screen[-1])
        assert screen[1].split()[:3] == ["NAME", "OP", "CALLS/Sv"]
        assert max(map(len, screen)) <= 40
        for columns, lines in ((12, 4), (2, 2), (1, 1), (300, 60)):
            terminal.resize(columns, lines)
        terminal.when(lambda screen: len(screen) == 60 and screen[-1].startswith("q quit"))
        terminal.resize(80, 24)
        terminal.when(lambda screen: screen[1] == before)
        terminal.press("q")
        assert terminal.wait_for_end() == (0, True)


@pytest.mark.parametrize(
    ("environment", "kanji"),
    [
        ({}, "漢字ファイル"),
        ({"LC_ALL": "C"}, r"\u6f22\u5b57"),
        ({"TERM": "linux"}, "漢字ファイル"),
        ({"TERM": "vt100"}, "漢字ファイル"),
    ],
)
def test_hostile_names(environment: dict[str, str], kanji: str) -> None:
    """Each is legible in a line of its own, and none of their escape sequences gets to the terminal."""

    def hostile(_: int, tables: list[Series]) -> None:
        for number, name in enumerate(HOSTILE):
            add(tables[0], (20 * (len(HOSTILE) - number), 2), name=name)

    with Host(PROBE, hostile) as host, top(host, "p", environment=environment, size=(120, 24)) as terminal:
        screen = terminal.wait_for(r"<script> +read +30\.0 ")
        rows = screen[2 : 2 + len(HOSTILE)]
        assert [line.split()[-5] for line in rows] == ["read"] * len(HOSTILE)
        assert any(line.startswith(kanji) for line in rows)
        if kanji.isascii():
            assert all(line.isascii() for line in screen)
        else:
            assert [line.partition(" read ")[0].strip() for line in rows] == [
                shown.strip() for shown in HOSTILE.values()
            ]
        for number in range(len(HOSTILE)):
            terminal.press("Down")
            terminal.wait_for(rf"^NAME .*CALLS/S {10 * max(1, len(HOSTILE) - number - 1)}(\.0)? ")
        terminal.press("q")
        assert terminal.wait_for_end() == (0, True)
        assert b"owned" in terminal.received
        assert not re.search(
            rb"\x1b\]2;owned|\x9b31m|\xc2\x9b|\xe2\x80\xae|\xe2\x81\xa6|\xe2\x80\x8d", terminal.received
        )
        assert "owned" not in terminal.tmux("display-message", "-p", "#{pane_title}")


def test_thousands_of_series() -> None:
    """Every one can be reached, and found."""
    many = 5000

    def thousands(_: int, tables: list[Series]) -> None:
        for number in range(many):
            add(tables[0], (many - number, 1), name=f"n{number:04}")

    one = probe(counter("ebpf_p_calls_total", *LABELS), counter("ebpf_p_bytes_total", *LABELS), max_series=many + 1)
    with Host(one, thousands) as host, top(host, "p") as terminal:
        terminal.wait_for(r"^n0000 +read +2\.50k ")
        terminal.press("End")
        terminal.wait_for(r"^n4999 +read +0\.50 ")
        terminal.press("/", "n31")
        terminal.when(lambda screen: screen[-1] == "/n31_" and screen[2].startswith("n3100"))
        terminal.press("Enter")
        terminal.wait_for("^100 of 5000 with 'n31'")


@pytest.mark.parametrize("term", ["dumb", None, "no-such-terminal"])
def test_terminals_that_are_none(host: Host, term: str | None) -> None:
    """The table is printed once, cut to the terminal's width, without any escape sequence."""
    with top(host, environment={"TERM": term}) as terminal:
        assert terminal.wait_for_end() == (0, True)
        screen = terminal.screen()
        assert screen[1].split()[0] == "PROBE"
        assert screen[2].split() == "p running 50.0 400 0.00 8 1,000 0 kprobe".split()
        assert screen[4] == "ended with 0"
        assert b"\x1b" not in terminal.received


def test_a_running_exporter(tmp_path: Path) -> None:
    """103 runs of a program, on the screen as in the metrics; the exporter is that of a config."""
    times, comm = 103, "top\x1b[31mred"
    binary = tmp_path / comm
    shutil.copy("/bin/true", binary)
    probes: dict[str, object] = {"process_execs": {"max_series": 5000}}
    with Daemon(probes) as daemon:
        for _ in range(times):
            subprocess.run([binary], check=True)
        assert count(daemon.samples(), "ebpf_process_execs_total", comm=r"top\x1b[31mred") == times
        with Terminal(COMMAND, "top", "--config", daemon.config) as terminal:
            terminal.wait_for(r"^process_execs +running ")
            terminal.press("Enter")
            terminal.wait_for("EXECS/Sv")
            terminal.press("/", "31mred", "Enter")
            user, shown, _, total = terminal.wait_for("^root .*red")[2].split()
            assert (user, shown, total) == ("root", r"top\x1b[31mred", str(times))
            for _ in range(times):
                subprocess.run([binary], check=True)
            terminal.wait_for(rf"^root .*red .* {2 * times}$")
            daemon.configure({"file_opens": {}})
            assert daemon.reload().returncode == 0
            terminal.wait_for("has no probe 'process_execs'; allowed: file_opens")
            terminal.press("Escape", "Escape")
            terminal.wait_for(r"^file_opens +running ")
            terminal.press("q")
            assert terminal.wait_for_end() == (0, True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may look into, as they may not into pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_tls_and_a_password(open_folder: Path) -> None:
    """The password is asked for, and not shown; who has no rights here may ask as well."""
    authority = Authority(open_folder)
    pair = authority.issue("server", "IP:127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    exporter = Exporter()
    exporter.user, exporter.answers = "alice:correct horse", {"/probes": {"time": 5, "probes": [probe_answer("p")]}}
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    with serving(exporter, tls=context) as url:
        with_user = url.replace("//", "//alice@")
        command = [*nobody, COMMAND, "top", "--url", with_user, "--ca-file", authority.certificate]
        for password, shown in (
            ("correct horse", "^p +running "),
            ("battery", f"^ebpf-exporter: {url} does not take this password of 'alice'$"),
        ):
            with Terminal(*command) as terminal:
                terminal.wait_for(f"^password of alice at {url}:")
                terminal.press(password, "Enter")
                terminal.wait_for(shown)
                if password != "battery":
                    terminal.press("q")
                assert terminal.wait_for_end() == (int(password == "battery"), True)
                assert password.encode() not in terminal.received
