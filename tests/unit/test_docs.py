# SPDX-License-Identifier: Apache-2.0
"""The documents: every config, probe and command in them is good, and tables name all that there is."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from exporter import cli, forms, kinds
from exporter.config import SETTINGS
from exporter.loader import body, context
from exporter.probe import FAMILIES, Hook
from tests.documents import DOCUMENTS, PROBES, ROOT, SHOWN, commands, configs, others, write

from .test_cli import run
from .test_security import present


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
    for line in commands(DOCUMENTS[document]):
        words = shlex.split(line.partition(" | ")[0], comments=True)[1:]
        if words != ["--version"]:  # which ends at once
            cli.parser().parse_args(words)


def test_commands_are_found() -> None:
    """In blocks with a prompt or none, and in the midst of words."""
    found = {document: {line.split()[1] for line in commands(text)} for document, text in DOCUMENTS.items()}
    assert {"check", "doctor", "list", "reload", "top", "run"} <= set().union(*found.values())
    assert {"check", "doctor", "list", "run"} <= found["docs/probes.md"]
    assert {"check", "doctor", "list", "reload", "top"} <= found["docs/tour.md"]


def accounts(document: str, block: str) -> list[str]:
    """How the entries of SHOWN begin that a block may be of, the longest last."""
    return sorted((start for start in SHOWN.get(document, ()) if block.startswith(start)), key=len)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_run_or_excused(document: str) -> None:
    """What is not checked as a config stands in the table, with its tests or the reason; and nothing else does."""
    blocks = others(document)
    assert [block.partition("\n")[0] for block in blocks if not accounts(document, block)] == []
    assert {accounts(document, block)[-1] for block in blocks} == set(SHOWN.get(document, ()))


def test_what_runs_a_block_is_a_test() -> None:
    """The table names tests that there are; or says why there is none."""
    assert set(SHOWN) <= set(DOCUMENTS)
    there = present()
    for blocks in SHOWN.values():
        for words in blocks.values():
            named = re.findall(r"\btest_\w+", words)
            assert set(named) <= there, words
            assert named or words.startswith("not run: "), words


def test_the_map_is_whole() -> None:
    """CONTRIBUTING.md says of each module what it is for, by its path or beside one of its folder."""
    named = set()
    for line in re.findall(r"^\| (`.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE):
        folder = ""
        for path in re.findall(r"`([^`]+)`", line):
            folder = folder if "/" not in path else path.rpartition("/")[0]
            named.add(path if "/" in path else f"{folder}/{path}")
    named = {path if (ROOT / path).exists() else f"exporter/{path}" for path in named}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "exporter").rglob("*.py")}
    assert {path for path in modules - named if Path(path).name not in ("__init__.py", "__main__.py")} == set()
    assert {path for path in named if path.endswith(".py") and not (ROOT / path).exists()} == set()


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
        ("function", body.FUNCTIONS),
        ("kind", ["string(N)", "[read, write]", *kinds.SIMPLE]),
    ],
)
def test_tables_are_whole(head: str, names: list[str]) -> None:
    """What a probe may name stands in the document."""
    found = rows(head)
    assert [name for name in names if not re.search(rf"`{re.escape(name)}(\(X\))?`", found)] == []


def test_keys_are_whole() -> None:
    """The keys of a probe and of a metric stand in the document."""
    described = set(forms.IN_YAML["properties"])
    assert [key for key in described if f"\n| `{key}` |" not in PROBES] == []
    metric = forms.IN_YAML["properties"]["metrics"]["additionalProperties"]["properties"]
    assert [key for key in metric if f"\n| `{key}` |" not in PROBES] == []
    assert "`source`" in PROBES
    assert set(SETTINGS) >= {"max_series", "options"}
