# SPDX-License-Identifier: Apache-2.0
"""Alerts and recording rules, by promtool; and what the runbook says of them."""

import re
from pathlib import Path

import pytest
import yaml

from tests.certificates import Authority
from tests.documents import ROOT, blocks, shown
from tests.prometheus.rules import FILES, OURS, promtool, rules

ALERTS = Path(__file__).with_name("alerts.yml")
RUNBOOK = ROOT / "docs" / "runbook.md"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_rules_are_good(path: Path) -> None:
    """promtool finds nothing, as an error or as a warning."""
    assert re.search(r"SUCCESS: \d+ rules found\n*$", promtool("check", "rules", "--lint-fatal", path))


def test_alerts_fire_when_they_should() -> None:
    """And not when they should not: the cases are in alerts.yml."""
    promtool("test", "rules", ALERTS)


def test_each_alert_has_its_cases() -> None:
    """One in which it fires, and one in which it does not."""
    cases = [test for case in yaml.safe_load(ALERTS.read_text())["tests"] for test in case["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fires == quiet == {rule["alert"] for rule in rules("alert")}


def test_each_alert_says_what_to_do() -> None:
    """It has a summary, a description, a severity that the runbook explains, and its section there."""
    runbook = RUNBOOK.read_text()
    sections = re.findall(r"^## (Ebpf\w+)$", runbook, re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules("alert")]
    for rule in rules("alert"):
        assert f"| {rule['labels']['severity']} |" in runbook
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert re.search(rf"## {rule['alert']}\n\n.+\n(.+\n)*\n1\. ", runbook)


def test_each_recorded_series_is_used() -> None:
    """By an alert; dashboards work without these rules."""
    alerts = " ".join(rule["expr"] for rule in rules("alert"))
    assert [rule["record"] for rule in rules("record") if rule["record"] not in alerts] == []


def test_the_documented_config_is_good(tmp_path: Path) -> None:
    """Prometheus takes it, with the rules of the tree in the place of those of an installation."""
    [config] = [text for language, text, _ in blocks((ROOT / "docs" / "grafana.md").read_text()) if language == "yaml"]
    path = tmp_path / "prometheus.yml"
    path.write_text(config.replace("/usr/share/ebpf-exporter/prometheus", str(OURS.parent)))
    said = promtool("check", "config", path)
    assert f"{sum(1 for kind in ('alert', 'record') for _ in rules(kind))} rules found" in said


def test_the_config_for_prometheus(tmp_path: Path) -> None:
    """What docs/web.md has for the side of Prometheus is taken by it, with files of the names that it has."""
    authority = Authority(tmp_path)
    for name in ("web", "client"):
        pair = authority.issue(name)
        pair.certificate.rename(tmp_path / f"{name}.crt")
        pair.key.rename(tmp_path / f"{name}.key")
    (tmp_path / "password").write_text("correct horse")
    path = tmp_path / "prometheus.yml"
    path.write_text(shown("docs/web.md", "scrape_configs:"))
    assert "is valid prometheus config file syntax" in promtool("check", "config", path)


def test_the_document_names_what_is_recorded() -> None:
    """Each recording rule, and nothing else."""
    named = re.findall(r"^\| `(instance_\S+)` \|", (ROOT / "docs" / "grafana.md").read_text(), re.MULTILINE)
    assert named == [rule["record"] for rule in rules("record")]
