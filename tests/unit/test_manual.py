# SPDX-License-Identifier: Apache-2.0
"""The manual page: it has the commands and options that there are, and no others."""

import argparse
import re

from exporter import cli
from tests.kernel.daemon import ROOT

PAGE = ROOT / "docs" / "ebpf-exporter.8"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    [choices] = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(choices)


def arguments(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Returns what a command takes, each with what follows it: {"--config": "FILE", "--json": "", "PATTERN": ""}."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        takes = action.nargs != 0
        after = (action.metavar or " | ".join(map(str, action.choices or ()))) if takes else ""
        if action.option_strings:
            found[action.option_strings[0]] = str(after)
        else:
            found[str(action.metavar)] = ""
    return found


def synopsis() -> dict[str, dict[str, str]]:
    """Returns the same of the page's lines: ``.Op Fl -config Ar FILE`` -> {"--config": "FILE"}."""
    [section] = re.findall(r"^\.Sh SYNOPSIS\n(.*?)^\.Sh ", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found = {}
    for block in section.split(".Nm\n")[1:]:
        if command := re.match(r"\.Cm (\S+)\n", block):
            words = re.findall(r"^\.Op (?:Fl (\S+)(?: Ar (.+))?|Ar (\S+))$", block, re.MULTILINE)
            found[command[1]] = {f"-{flag}" if flag else bare: after for flag, after, bare in words}
    return found


def test_the_synopsis_is_that_of_the_commands() -> None:
    """Each command with its options and what they take."""
    expected = {name: arguments(parser) for name, parser in subcommands(cli.parser()).items()}
    assert synopsis() == expected


def test_each_command_and_option_is_described() -> None:
    """In the text, by all its names."""
    [text] = re.findall(r"^\.Sh DESCRIPTION\n(.*)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    parser = cli.parser()
    commands = subcommands(parser)
    assert re.findall(r"^\.It Cm (\S+)$", text, re.MULTILINE) == list(commands)
    actions = [action for one in (parser, *commands.values()) for action in one._actions]
    options = {name for action in actions for name in action.option_strings}
    assert {f"-{name}" for name in re.findall(r"\bFl (\S+)", text)} == options
