# SPDX-License-Identifier: Apache-2.0
"""The documents: every config, probe and command in them is good, and tables name all that there is."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from exporter import catalog, cli, kinds
from exporter.config import SETTINGS
from exporter.loader import context, script
from exporter.probe import FAMILIES, Hook
from tests.documents import DOCUMENTS, PROBES, ROOT, commands, configs, write

from .test_cli import run


@pytest.mark.parametrize(
    ("document", "config"), [(document, config) for document in DOCUMENTS for config in configs(document)]
)
def test_configs_are_good(tmp_path: Path, document: str, config: str) -> None:
    """Each config that a document shows, with the probes that it shows, passes check."""
    write(document, tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(config)
    names = ", ".join(yaml.safe_load(config)["probes"])
    code, out, err = run("check", "--config", path)
    assert (code, out) == (0, f"{path}: good: {names}\n"), err


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_good(document: str) -> None:
    """Each command that a document shows is one that there is, with options that it has."""
    found = [shlex.split(line, comments=True)[1:] for line in commands(DOCUMENTS[document])]
    assert {"check", "doctor"} <= {words[0] for words in found}
    for words in found:
        cli.parser().parse_args(words)


def test_links_are_good() -> None:
    """Links within a document, and to other files, lead somewhere."""
    for document, text in DOCUMENTS.items():
        heads = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)", text, re.M)}
        for target in re.findall(r"\]\(([^)]+)\)", text):
            path, _, anchor = target.partition("#")
            assert not path or path.startswith("http") or (ROOT / document).parent.joinpath(path).exists(), target
            assert path or anchor in heads, target


def rows(head: str) -> str:
    """Returns the first columns of a table of docs/probes.md, as they stand."""
    table = PROBES.partition(f"\n| {head} |")[2].partition("\n\n")[0]
    assert table, head
    return "\n".join(line.split(" |")[0] for line in table.splitlines())


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("key | meaning", ["attach", "where", "metrics", "purpose", "selftest", "max_series"]),
        ("family", FAMILIES),
        (
            "word",
            [*context.Context(Hook("profile", "hz:99")).words()],
        ),
        ("word", ["args.A.B", "arg0", "arg5", "retval", "elapsed"]),
        ("function", script.FUNCTIONS),
        ("kind", ["string(N)", "[read, write]", *kinds.SIMPLE]),
    ],
)
def test_tables_are_whole(head: str, names: list[str]) -> None:
    """What a probe may name stands in the document."""
    found = rows(head)
    assert [name for name in names if not re.search(rf"`{re.escape(name)}(\(X\))?`", found)] == []


def test_keys_are_whole() -> None:
    """The keys of a probe and of a metric stand in the document."""
    described = set(catalog.IN_YAML["properties"])
    assert [key for key in described if f"\n| `{key}` |" not in PROBES] == []
    metric = catalog.IN_YAML["properties"]["metrics"]["additionalProperties"]["properties"]
    assert [key for key in metric if f"\n| `{key}` |" not in PROBES] == []
    assert "`source`" in PROBES
    assert set(SETTINGS) >= {"max_series", "options"}
