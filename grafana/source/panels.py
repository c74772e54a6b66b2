# SPDX-License-Identifier: Apache-2.0
"""Panels as all dashboards have them: a title, a description, a unit, the templated datasource, (other) in grey.

Heights and widths are in Grafana's grid, which is 24 wide.
"""

from collections.abc import Mapping, Sequence
from itertools import count

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, DynamicConfigValue, Threshold
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.source.queries import OTHER

TAG = "ebpf-exporter"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TOLD_OF_OTHER = f" What has no series of its own is {OTHER}."
NO_DATA = "not counted"
GOOD, WARN, BAD = "green", "orange", "red"

_HEIGHT = 8
_OTHER = "/\\(other\\)/"
_GREY = "#808080"
_IN_GREY = DynamicConfigValue("color", {"mode": "fixed", "fixedColor": _GREY})
_STATES = {"running": GOOD, "starting": "blue", "ended": "blue", "degraded": WARN, "disabled": BAD, "failed": BAD}

AnyPanel = stat.Panel | timeseries.Panel | table.Panel | heatmap.Panel | bargauge.Panel
Queries = Mapping[str, str]  # legend -> PromQL; a legend with {{label}} is filled in


def _thresholds(steps: Mapping[float, str] | None) -> dashboard.ThresholdsConfig:
    found = [Threshold(None, GOOD), *(Threshold(value, color) for value, color in (steps or {}).items())]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def _described(text: str, queries: Queries) -> str:
    return text + TOLD_OF_OTHER if any(OTHER in query for query in queries.values()) else text


def _targets(queries: Queries, instant: bool, form: PromQueryFormat) -> list[Builder[Dataquery]]:
    targets: list[Builder[Dataquery]] = []
    for number, (legend, query) in enumerate(queries.items()):
        target = prometheus.Dataquery().ref_id(chr(ord("A") + number)).datasource(SOURCE).expr(query).format(form)
        target = target.legend_format(legend)
        targets.append(target.instant() if instant else target.range())
    return targets


def number(
    title: str, unit: str, text: str, query: str, width: int = 4, steps: Mapping[float, str] | None = None
) -> stat.Panel:
    """One number, as it is now. steps are values from which on it has another color."""
    return (
        stat.Panel()
        .title(title)
        .description(_described(text, {"": query}))
        .unit(unit)
        .span(width)
        .height(4)
        .datasource(SOURCE)
        .targets(_targets({title: query}, True, PromQueryFormat.TIME_SERIES))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE if steps else BigValueColorMode.NONE)
        .thresholds(_thresholds(steps))
        .no_value(NO_DATA)
    )


def course(
    title: str, unit: str, text: str, queries: Queries, width: int = 12, stacked: bool = False
) -> timeseries.Panel:
    """Values over time; stacked where what is shown are parts of a whole."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(_described(text, queries))
        .unit(unit)
        .min(0)
        .span(width)
        .height(_HEIGHT)
        .datasource(SOURCE)
        .targets(_targets(queries, False, PromQueryFormat.TIME_SERIES))
        .draw_style(GraphDrawStyle.LINE)
        .fill_opacity(25 if stacked else 8)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .override_by_regexp(_OTHER, [_IN_GREY])
        .no_value(NO_DATA)
    )
    return panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)) if stacked else panel


def bars(title: str, unit: str, text: str, queries: Queries, width: int = 8) -> bargauge.Panel:
    """The largest now, each as a bar."""
    return (
        bargauge.Panel()
        .title(title)
        .description(_described(text, queries))
        .unit(unit)
        .min(0)
        .span(width)
        .height(_HEIGHT)
        .datasource(SOURCE)
        .targets(_targets(queries, True, PromQueryFormat.TIME_SERIES))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .thresholds(_thresholds(None))
        .override_by_regexp(_OTHER, [_IN_GREY])
        .no_value(NO_DATA)
    )


def rows(
    title: str, unit: str, text: str, query: str, columns: Sequence[str], value: str | None, width: int = 12
) -> table.Panel:
    """A table of series, the largest first: the labels that are columns, and the value under its name; None: labels
    alone."""
    order = {name: number for number, name in enumerate([*columns, "Value"])}
    hidden = {"Time": True, **({} if value else {"Value": True})}
    organize = {"excludeByName": hidden, "indexByName": order, "renameByName": {"Value": value} if value else {}}
    return (
        table.Panel()
        .title(title)
        .description(_described(text, {"": query}))
        .unit(unit)
        .span(width)
        .height(_HEIGHT + 2)
        .datasource(SOURCE)
        .targets(_targets({title: query}, True, PromQueryFormat.TABLE))
        .with_transformation(models.DataTransformerConfig("organize", options=organize))
        .sort_by([common.TableSortByFieldState().display_name(value or columns[0]).desc(value is not None)])
        .filterable(True)
        .override_by_field_type("string", _in_color({OTHER: _GREY}))
        .override_by_name("state", _in_color(_STATES))
        .no_value(NO_DATA)
    )


def _in_color(words: Mapping[str, str]) -> list[DynamicConfigValue]:
    """Returns what gives words of a column their colors, and leaves the others theirs."""
    options = {word: {"text": word, "color": color} for word, color in words.items()}
    return [
        DynamicConfigValue("mappings", [{"type": "value", "options": options}]),
        DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "text"}),
    ]


def buckets(title: str, unit: str, text: str, query: str, width: int = 12) -> heatmap.Panel:
    """How often a histogram's values were how large, over time; the query is of its buckets, by le."""
    return (
        heatmap.Panel()
        .title(title)
        .description(text)
        .span(width)
        .height(_HEIGHT)
        .unit(unit)
        .datasource(SOURCE)
        .targets(_targets({"{{le}}": query}, False, PromQueryFormat.HEATMAP))
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .fill("dark-orange")
            .exponent(0.5)
            .steps(64)
        )
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .no_value(NO_DATA)
    )


def page(uid: str, title: str, text: str, sections: Mapping[str, Sequence[AnyPanel]]) -> dashboard.Dashboard:
    """Returns a dashboard. sections are its rows, each with a title and its panels; one without a title has no head."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job", "ebpf_exporter_build_info", "Prometheus' job that scrapes the exporters."))
        .with_variable(_variable("instance", 'ebpf_exporter_build_info{job=~"$job"}', "The nodes."))
        .link(
            dashboard.DashboardLink("ebpf-exporter")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
            .icon("external link")
            .tooltip("The other dashboards of ebpf-exporter")
        )
    )
    numbers = count(1)
    for head, panels in sections.items():
        if head:
            made = made.with_row(dashboard.Row(head).id(next(numbers)))
        for panel in panels:
            made = made.with_panel(panel.id(next(numbers)))
    return made


def _variable(label: str, series: str, text: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(label)
        .label(label.capitalize())
        .description(text)
        .datasource(SOURCE)
        .query(f"label_values({series}, {label})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(True, "All", "$__all"))
    )


def leads_to(panel: bargauge.Panel, uid: str, title: str) -> bargauge.Panel:
    """Gives a panel a link to the dashboard that says more."""
    link = dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK)
    return panel.links([link.url(f"/d/{uid}?${{__url_time_range}}&${{__all_variables}}")])
