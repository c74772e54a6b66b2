# SPDX-License-Identifier: Apache-2.0
"""``ebpf-exporter top`` as it is run without a terminal."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_cli import ROOT, run

from .support import Exporter, probe_answer, serving


class Counting(Exporter):
    """Whose counters grow by 10 a second, of which one passes with each answer."""

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        now = 100 + sum(asked == path for asked in self.asked)
        found = [
            probe_answer("calm", events_total=now, run_seconds_total=now * 1e-6),
            probe_answer("busy", events_total=now * 10, run_seconds_total=now * 0.01),
        ]
        series = [[["(other)"], 7], [["\x1b[2J"], now * 10], [["קובץ"], now]]
        metric = {"name": "ebpf_a_calls_total", "type": "counter", "help": "A.", "labels": ["comm"], "series": series}
        self.answers = {
            "/probes": {"time": now, "probes": found},
            "/probes/busy": {"time": now, "name": "busy", "metrics": [metric]},
            "/probes/calm": {"time": now, "name": "calm", "metrics": []},
        }
        return super().answer(path, authorization)


@pytest.fixture
def exporter() -> Counting:
    return Counting()


@pytest.fixture
def url(exporter: Counting) -> Iterator[str]:
    with serving(exporter) as found:
        yield found


def test_all_probes(url: str) -> None:
    """A table with rates since a first look, the busiest first, as wide as it is."""
    code, out, err = run("top", "--once", "--interval", "0.5", "--url", url)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        "PROBE STATE EVENTS/Sv NS/EVENT %CORE SERIES BUDGET MISSED MECHANISM REASON".split(),
        "busy running 10.0 1,000,000 1.00 2 1,000 0 tracepoint".split(),
        "calm running 1.00 1,000 0.00 2 1,000 0 tracepoint".split(),
    ]


def test_one_probe(url: str) -> None:
    """Its series; without --once it is the same where there is no terminal."""
    lines = [
        "COMM     CALLS/Sv  CALLS",
        r"\x1b[2J      10.0  1,010",
        "קובץ\u200e         1.00    101",
        "(other)         0      7",
    ]
    command = ["top", "busy", "--interval", "0.5", "--url", url]
    assert run(*command, "--once") == (0, "".join(f"{line}\n" for line in lines), "")
    code, out, _ = run(*command)
    assert (code, out.splitlines()[0]) == (0, lines[0])
    assert run("top", "calm", "--interval", "0.5", "--url", url) == (0, "it has no series\n", "")


def test_json(url: str) -> None:
    """The same as numbers, which no terminal obeys."""
    code, out, err = run("top", "--json", "--interval", "0.5", "--url", url)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["seconds"], [one["name"] for one in found["probes"]]) == (1, ["calm", "busy"])
    busy = found["probes"][1]
    rates = [busy[key] for key in ("events_per_second", "nanoseconds_per_event", "percent_of_core")]
    assert [round(rate, 6) for rate in rates] == [10, 1_000_000, 1]
    code, out, err = run("top", "busy", "--json", "--interval", "0.5", "--url", url)
    assert (code, out.isascii(), "\x1b" in out) == (0, True, False)
    [metric] = json.loads(out)["metrics"]
    assert metric["series"][1] == {"labels": {"comm": "\x1b[2J"}, "value": 1010, "per_second": 10.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["none"], "has no probe 'none'; allowed: calm, busy"),
        (["none", "--json"], "has no probe 'none'; allowed: calm, busy"),
        (["--password-file", "/none"], "--password-file wants a user: --url https://USER@HOST:PORT"),
    ],
)
def test_errors(url: str, options: list[str], words: str) -> None:
    """One line, and 1."""
    code, out, err = run("top", "--url", url, *options)
    assert (code, out, err.count("\n"), words in err, err.startswith("ebpf-exporter: ")) == (1, "", 1, True, True)


def test_password_files(exporter: Counting, url: str, tmp_path: Path) -> None:
    """The password is all of the file but the last newline; without one, and a terminal, there is nobody to ask."""
    exporter.user = "alice: pass word"
    (tmp_path / "password").write_text(" pass word\n")
    with_user = url.replace("//", "//alice@")
    command = ["top", "--once", "--interval", "0.5", "--url", with_user]
    code, out, _ = run(*command, "--password-file", tmp_path / "password")
    assert (code, out.startswith("PROBE")) == (0, True)
    code, _, err = run(*command, "--password-file", tmp_path / "none")
    assert (code, err) == (1, f"ebpf-exporter: {tmp_path}/none: cannot be read: No such file or directory\n")


def test_half_a_pipe(url: str) -> None:
    """`| head` has enough, and nobody is told."""
    command = f"{sys.executable} -m exporter top --json --interval 0.5 --url {url} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("interval", ["0.1", "nan", "x", "1e9"])
def test_intervals(interval: str) -> None:
    """Those that make no sense are wrong uses."""
    code, _, err = run("top", "--interval", interval)
    assert (code, "argument --interval" in err) == (2, True)


def test_what_is_imported(url: str) -> None:
    """None of what the daemon needs: it starts at once, and in little memory."""
    script = (
        "import sys; from exporter import cli; sys.argv = ['ebpf-exporter', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "top", "--once", "--interval", "0.5", "--url", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    found = set(done.stderr.split())
    assert "exporter.top.command" in found
    heavy = {"asyncio", "yaml", "jsonschema", "prometheus_client", "bcc", "elftools", "h11", "bcrypt", "seccomp"}
    assert found & heavy == set()
    own = {name for name in found if name.startswith("exporter.") and not name.startswith("exporter.top")}
    assert own <= {f"exporter.{name}" for name in ("cli", "log", "errors", "channel", "child", "libraries")}
