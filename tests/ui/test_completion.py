# SPDX-License-Identifier: Apache-2.0
"""The Tab key in real shells, with the files that are shipped: commands, options, files, probes of a config, hooks."""

import itertools
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.daemon import ROOT
from tests.ui.terminal import Terminal

FILES = ROOT / "deploy" / "completion"
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        ["PS1='> '", f"source {shlex.quote(str(FILES / 'bash' / 'ebpf-exporter'))}"],
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        [f"fpath=({shlex.quote(str(FILES / 'zsh'))} $fpath)", "autoload -Uz compinit", "compinit -D -u"],
    ),
    "fish": (
        ["fish", "--no-config", "-i"],
        [
            "function fish_prompt; echo '> '; end",
            f"source {shlex.quote(str(FILES / 'fish' / 'ebpf-exporter.fish'))}",
        ],
    ),
}
NUMBERS = itertools.count()
CONFIG = """\
listen: [localhost:9435]
probes:
  # those that there are
  fitness: {labels: [comm]}
  fields:
    attach: tracepoint:signal:signal_generate
    metrics: {}
    filter: args.sig == 9
  xylophone: {}
"""


@pytest.fixture(autouse=True)
def needs_tmux() -> None:
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux")


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A shell in a folder with a config and with one that can't be read; its prompt is >."""
    if shutil.which(request.param) is None:
        pytest.skip(f"needs {request.param}")
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "absent.yaml").symlink_to("nowhere")
    (tmp_path / "a=b.yaml").write_text(CONFIG)
    os.mkfifo(tmp_path / "queue")
    command, lines = SHELLS[request.param]
    environment = {"HOME": str(tmp_path), "PS1": "> ", "XDG_CONFIG_HOME": None, "PROMPT": None, "RPROMPT": None}
    with Terminal("env", "-C", tmp_path, *command, environment=environment, size=(200, 24)) as terminal:
        for line in lines:
            terminal.press(line, "Enter")
        terminal.press("clear; echo rea''dy", "Enter")
        terminal.when(lambda screen: screen[:2] == ["ready", ">"])
        yield terminal


def typed(terminal: Terminal, words: str, *keys: str) -> None:
    """Types words on an empty screen, then presses keys."""
    number = next(NUMBERS)
    terminal.press("C-u", f"clear; echo line ''{number}", "Enter")
    terminal.when(lambda screen: screen[:2] == [f"line {number}", ">"])
    terminal.press(f"ebpf-exporter {words}", *keys)


def expect(terminal: Terminal, words: str, completed: str) -> None:
    """A Tab makes that of the words; the cursor stands where more can be typed, which is shown by a sign."""
    typed(terminal, words, "Tab")
    terminal.wait_for(rf"^> ebpf-exporter {re.escape(completed.rstrip())}( |$)")
    terminal.press("+")
    terminal.wait_for(rf"^> ebpf-exporter {re.escape(completed)}\+$")


def test_commands_and_options(shell: Terminal) -> None:
    """A command, its options, and the choices of one."""
    expect(shell, "ch", "check ")
    expect(shell, "check --co", "check --config ")
    expect(shell, "run --log-format js", "run --log-format json ")


def test_files(shell: Terminal) -> None:
    """Where a file is wanted."""
    expect(shell, "check --config con", "check --config config.yaml ")
    expect(shell, "top --ca-file con", "top --ca-file config.yaml ")


def test_probes_are_those_of_the_config(shell: Terminal) -> None:
    """All of them, and nothing that stands deeper in it."""
    expect(shell, "top --config config.yaml x", "top --config config.yaml xylophone ")
    expect(shell, "check --config config.yaml --show-source fit", "check --config config.yaml --show-source fitness ")
    typed(shell, "top --config config.yaml fi", "Tab", "Tab")
    screen = " ".join(shell.when(lambda screen: {"fields", "fitness"} <= set(" ".join(screen[2:]).split())))
    assert not {"attach", "filter", "file_io"} & set(screen.split())


def test_probes_of_a_config_that_is_not_to_be_read(shell: Terminal) -> None:
    """Those that are shipped."""
    expect(shell, "top --config absent.yaml sh", "top --config absent.yaml shell_commands ")


def test_families(shell: Terminal) -> None:
    """What is listed goes on after the colon, without a space."""
    expect(shell, "list trace", "list tracepoint:")
    expect(shell, "list -v usd", "list -v usdt:")


def test_words_with_colons(shell: Terminal) -> None:
    """A URL is one argument, whatever a shell splits it into."""
    before = "top --url http://localhost:9435 --config config.yaml"
    expect(shell, f"{before} x", f"{before} xylophone ")


@pytest.mark.parametrize("shell", ["bash"], indirect=True)
def test_a_file_after_an_equals_sign(shell: Terminal) -> None:
    """As after a space; zsh and fish offer no files there."""
    expect(shell, "check --config=con", "check --config=config.yaml ")


@pytest.mark.parametrize("shell", ["bash", "fish"], indirect=True)
def test_probes_of_a_config_after_an_equals_sign(shell: Terminal) -> None:
    """As after a space; zsh offers none."""
    expect(shell, "top --config=config.yaml x", "top --config=config.yaml xylophone ")


@pytest.mark.parametrize("config", ["-", "/dev/tty", "queue"])
def test_probes_of_what_is_no_file(shell: Terminal, config: str) -> None:
    """A config that would be read for ever is not read: those that are shipped."""
    expect(shell, f"top --config {config} sh", f"top --config {config} shell_commands ")


def test_a_config_that_looks_like_an_assignment(shell: Terminal) -> None:
    """Its probes are known."""
    expect(shell, "top --config a=b.yaml xy", "top --config a=b.yaml xylophone ")


@pytest.mark.parametrize("shell", ["bash"], indirect=True)
def test_a_pattern_is_not_what_it_stands_for(shell: Terminal) -> None:
    """What was typed stays: no file is called so."""
    expect(shell, "check --config *", "check --config *")
