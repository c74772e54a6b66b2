# SPDX-License-Identifier: Apache-2.0
"""Shells' completion: it names all that there is, wherever it is made. tests/ui has it in the shells."""

import re

import pytest

from exporter import catalog, cli
from generate import completion
from tests.unit.test_manual import subcommands

TEXTS = completion.texts()


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_and_option_is_named(name: str) -> None:
    """Of each command, its own."""
    lines = TEXTS[name].splitlines()
    for command, parser in subcommands(cli.parser()).items():
        # ..._check_option_strings=(-h --config) / ..._check_options=( … ) / ..._using check' … -l config
        if name.endswith("bash/ebpf-exporter"):
            own = next(line for line in lines if line.startswith(f"_shtab_ebpf_exporter_{command}_option_strings="))
        elif name.endswith(".fish"):
            own = "\n".join(line for line in lines if f"_using {command}'" in line)
            own = re.sub(r"-l (\S+)", r"--\1", re.sub(r"-s (\S)", r"-\1", own))
        else:
            begin = lines.index(f"_shtab_ebpf_exporter_{command}_options=(")
            own = "\n".join(lines[begin : lines.index(")", begin)])
        options = {option for action in parser._actions for option in action.option_strings}
        assert options <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", own)), command


@pytest.mark.parametrize("name", TEXTS)
def test_every_probe_that_is_shipped_is_named(name: str) -> None:
    """For a config that can't be read."""
    for path in catalog.SHIPPED.glob("*.yaml"):
        assert re.search(rf"\b{path.stem}\b", TEXTS[name])


def test_it_is_the_same_in_any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse looks at COLUMNS when it writes help."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert completion.texts() == TEXTS
