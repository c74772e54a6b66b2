# SPDX-License-Identifier: Apache-2.0
"""The rules as they are in the tree, and promtool."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.documents import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
FILES = sorted(FOLDER.glob("*.rules.yml"))
OURS = FOLDER / "ebpf-exporter.rules.yml"


def rules(kind: str) -> Iterator[dict[str, Any]]:
    """Yields the rules of one kind: alert, or record."""
    for group in yaml.safe_load(OURS.read_text())["groups"]:
        yield from (rule for rule in group["rules"] if kind in rule)


def expression(name: str) -> str:
    """Returns the expression of the rule with this name."""
    return next(str(rule["expr"]) for kind in ("alert", "record") for rule in rules(kind) if rule[kind] == name)


def promtool(*words: object) -> str:
    """Returns what promtool says; fails where it finds fault."""
    if shutil.which("promtool") is None:
        pytest.skip("needs prometheus")
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
