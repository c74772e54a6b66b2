# SPDX-License-Identifier: Apache-2.0
"""Conventions of the dashboards: each panel says what it shows, of the nodes that are chosen, in whose unit."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from exporter.probe import OTHER
from grafana.source.__main__ import texts
from tests.documents import ROOT
from tests.prometheus.dashboards import DASHBOARDS, FOLDER, Query, columns, panels, queries
from tests.prometheus.rules import promtool

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'job=~"$job",instance=~"$instance"'
UNITS = {value for name, value in vars(units).items() if name[0].isupper() and isinstance(value, str)}
UNBOUNDED = ("comm", "file", "user", "command", "container")
TAG = "ebpf-exporter"

every_dashboard = pytest.mark.parametrize("dashboard", list(DASHBOARDS.values()), ids=list(DASHBOARDS))
every_panel = pytest.mark.parametrize(
    "panel",
    [
        pytest.param(panel, id=f"{dashboard['title']} / {panel['title']}")
        for dashboard in DASHBOARDS.values()
        for panel in panels(dashboard)
    ],
)
every_query = pytest.mark.parametrize("query", list(queries()), ids=str)
Json = dict[str, Any]


def test_what_is_kept_is_what_the_source_makes() -> None:
    """To be made again by python3 -m grafana.source."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == texts()


@every_dashboard
def test_grafanas_own_model_knows_all_of_it(dashboard: Json) -> None:
    """Read and written by Grafana's library, nothing is lost: there is no field that Grafana has not."""
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard))) == dashboard


@every_dashboard
def test_head(dashboard: Json) -> None:
    """It has a name, a description and a uid that links can rely on, and no id: that is the importing Grafana's own."""
    assert dashboard["title"].startswith("eBPF / ")
    assert dashboard["description"].endswith(".")
    assert f"{dashboard['uid']}.json" in DASHBOARDS
    assert "id" not in dashboard
    assert dashboard["tags"] == [TAG]


@every_dashboard
def test_datasource_job_and_instance_are_chosen_by_who_looks(dashboard: Json) -> None:
    """Of jobs and instances one, several or all, from those that there are."""
    datasource, job, instance = dashboard["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    for variable, query in (
        (job, "label_values(ebpf_exporter_build_info, job)"),
        (instance, 'label_values(ebpf_exporter_build_info{job=~"$job"}, instance)'),
    ):
        assert variable["query"] == query
        assert variable["name"] in query
        assert variable["datasource"] == SOURCE
        assert variable["multi"]
        assert variable["includeAll"]
        assert variable["allValue"] == ".+"  # a list of a hundred nodes is no regular expression to send


@every_dashboard
def test_dashboards_link_to_each_other(dashboard: Json) -> None:
    """To all that have the tag, for the same time and nodes; and no link leads to a dashboard that is not there."""
    [link] = dashboard["links"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == ("dashboards", [TAG], True, True)
    own = [link["url"] for panel in panels(dashboard) for link in panel.get("links", [])]
    assert (dashboard["uid"] == "ebpf-overview") == bool(own)
    for url in own:
        uid, variables = re.fullmatch(r"/d/([\w-]+)\?(.*)", url).groups()  # type: ignore[union-attr]
        assert f"{uid}.json" in DASHBOARDS
        assert variables == "${__url_time_range}&${__all_variables}"


@every_dashboard
def test_panels_lie_side_by_side(dashboard: Json) -> None:
    """None on another, none beyond the grid; each with an id and a title of its own."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for key in ("id", "title"):
        values = [panel[key] for panel in dashboard["panels"]]
        assert len(set(values)) == len(values)


@every_panel
def test_panel(panel: Json) -> None:
    """It says what it shows, in a unit that Grafana knows, from the chosen datasource, and what it is when there is
    nothing."""
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"][0].isupper()
    assert re.fullmatch(r"[A-Za-z].{10,}\.", panel["description"])
    assert defaults["unit"] in UNITS
    assert defaults["noValue"]
    assert panel["datasource"] == SOURCE
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == SOURCE
        assert target["instant"] == (panel["type"] in ("stat", "table", "bargauge"))
        assert target["range"] != target["instant"]
        assert target["format"] == {"table": "table", "heatmap": "heatmap"}.get(panel["type"], "time_series")


@every_query
def test_query_is_of_the_chosen_nodes(query: Query) -> None:
    """Each metric in it is selected by job and instance; and it has no variable but those that there are."""
    metrics = re.findall(r"\b(?:ebpf|process)_[a-z_]+\b(\{[^}]*\})?", query.text)
    assert metrics
    assert all(selector.startswith("{" + CHOSEN) for selector in metrics)
    assert set(re.findall(r"\$\w+", query.text)) <= {"$job", "$instance", "$__rate_interval", "$__range"}


@every_query
def test_rates_are_over_the_interval_that_fits(query: Query) -> None:
    """A rate is over $__rate_interval, an increase over what is shown; fixed are the times of what is new."""
    ranges = set(re.findall(r"(\w+)\([\w:]+\{[^}]*\}\[(.*?)\]", query.text))
    looked_at = {("last_over_time", "15m"), ("last_over_time", "1d:5m")}
    assert ranges <= {("rate", "$__rate_interval"), ("increase", "$__range"), *looked_at}


@every_query
def test_what_is_shown_is_bounded(query: Query) -> None:
    """A hundred nodes with a thousand series each: what is shown by node, or by a label with any values, is the largest
    of it, or what is new or wrong; it has (other) besides, where that may be."""
    assert query.text.startswith(("sum", "count", "max by", "topk(", "histogram_quantile(", "(sum", "rate"))
    by = set(re.split(", ?", re.findall(r"\bby \((.*?)\)", query.text)[0])) if " by (" in query.text else set()
    wide = by.intersection([*UNBOUNDED, "instance"])
    if not wide or query.text.startswith(("count(", "max by", "count by")):
        return
    assert "topk(" in query.text or " unless " in query.text
    if by.intersection(UNBOUNDED) and "offset 1h" not in query.text:
        assert re.search(rf'!="{re.escape(OTHER)}".*\) or .*="{re.escape(OTHER)}"', query.text)


@every_panel
def test_other_is_shown_as_such(panel: Json) -> None:
    """In grey, wherever labels are shown; and where it may be, the description says what it is."""
    overrides = panel["fieldConfig"]["overrides"]
    if panel["type"] in ("timeseries", "bargauge"):
        [grey] = [one for one in overrides if one["matcher"]["id"] == "byRegexp"]
        assert re.search(grey["matcher"]["options"].strip("/"), f"bash {OTHER}")
        assert grey["properties"] == [{"id": "color", "value": {"mode": "fixed", "fixedColor": "#808080"}}]
    if panel["type"] == "table":
        [texts] = [one for one in overrides if one["matcher"] == {"id": "byType", "options": "string"}]
        [mapping] = next(one["value"] for one in texts["properties"] if one["id"] == "mappings")
        assert mapping["options"] == {OTHER: {"text": OTHER, "color": "#808080"}}
    if any(f'="{OTHER}"' in target["expr"] for target in panel["targets"]):
        assert OTHER in panel["description"]


@every_panel
def test_legends_and_columns_are_labels_of_the_query(panel: Json) -> None:
    """What a legend or a column names is what the query's series are told apart by."""
    for target in panel["targets"]:
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) | set(columns(panel))
        by = {label for group in re.findall(r"\bby \((.*?)\)", target["expr"]) for label in group.split(", ")}
        assert named <= by or panel["title"].endswith("of the process on the network") or named == {"instance"}


def test_provisioning_shows_all() -> None:
    """Grafana is pointed to where the package has the dashboards, and to a datasource of the kind that they ask for."""
    folder = ROOT / "grafana" / "provisioning"
    [provider] = yaml.safe_load((folder / "dashboards" / "ebpf-exporter.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"] == {"path": "/usr/share/ebpf-exporter/grafana/dashboards"}
    [source] = yaml.safe_load((folder / "datasources" / "ebpf-exporter.yaml").read_text())["datasources"]
    assert source["type"] == SOURCE["type"]


def test_what_is_new_and_what_was_counted(tmp_path: Path) -> None:
    """Of a command that was typed two hours ago too, of one that was first typed ten minutes ago, and of one whose
    counter begins anew: what the dashboard says is new, and how often each was typed in half an hour."""
    typed = 'ebpf_shell_commands_total{job="j", instance="n", user="root", command="%s"}'
    shown = {query.panel: query for query in queries() if query.dashboard == "ebpf-commands"}

    def sample(command: str, value: float) -> dict[str, object]:
        return {"labels": f'{{instance="n", user="root", command="{command}"}}', "value": value}

    def case(panel: str, *samples: dict[str, object]) -> dict[str, object]:
        return {"expr": shown[panel].filled("j", "n", "30m"), "eval_time": "3h", "exp_samples": list(samples)}

    known = {"series": typed % "known", "values": "5x150 6+1x35"}
    new = {"series": typed % "new", "values": "_x170 3x15"}
    again = {"series": typed % "again", "values": "100x160 2x25"}
    other = {"series": typed % "(other)", "values": "_x170 7x15"}
    cases = [
        case("New commands in the last hour", sample("new", 3)),
        case(
            "Commands in the time shown",
            sample("known", 30),
            sample("new", 3),
            sample("again", 2),
            sample("(other)", 7),
        ),
    ]
    test = {"interval": "1m", "input_series": [known, new, again, other], "promql_expr_test": cases}
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", path)
