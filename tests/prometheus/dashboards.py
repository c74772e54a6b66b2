# SPDX-License-Identifier: Apache-2.0
"""The dashboards as they are in the tree: what tests look at is their JSON, as Grafana does."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.documents import ROOT

FOLDER = ROOT / "grafana" / "dashboards"
DASHBOARDS: dict[str, dict[str, Any]] = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.iterdir())}


@dataclass(frozen=True)
class Query:
    """An expression of a panel. text is as it stands there, with Grafana's variables in it."""

    dashboard: str  # its uid
    panel: str  # its title
    kind: str  # of panel
    legend: str
    text: str
    instant: bool
    columns: tuple[str, ...]  # of a table, labels only

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel} / {self.legend}"

    def filled(self, job: str, instance: str, interval: str) -> str:
        """Returns the expression as Grafana asks for it. job and instance are regular expressions."""
        text = self.text.replace("$__rate_interval", interval).replace("$__range", interval)
        return text.replace("$job", job).replace("$instance", instance)


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields what has queries; rows have none."""
    yield from (panel for panel in dashboard["panels"] if panel["type"] != "row")


def queries() -> Iterator[Query]:
    """Yields all expressions of all dashboards."""
    for dashboard in DASHBOARDS.values():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield Query(
                    dashboard["uid"],
                    panel["title"],
                    panel["type"],
                    target["legendFormat"],
                    target["expr"],
                    target["instant"],
                    columns(panel),
                )


def columns(panel: dict[str, Any]) -> tuple[str, ...]:
    """Returns the labels that a table shows."""
    if panel["type"] != "table":
        return ()
    [organize] = [one for one in panel["transformations"] if one["id"] == "organize"]
    return tuple(sorted(organize["options"]["indexByName"].keys() - {"Value"}))
