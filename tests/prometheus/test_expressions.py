# SPDX-License-Identifier: Apache-2.0
"""Every expression of dashboards and rules, by a real Prometheus that scrapes a real exporter while it is at work."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from exporter.probe import OTHER
from tests.documents import ROOT
from tests.kernel.conftest import Workload, built
from tests.kernel.daemon import Daemon
from tests.kernel.prometheus import Prometheus
from tests.prometheus.dashboards import Query, queries
from tests.prometheus.expected import ALERTED, PANELS, QUESTIONS, RECORDED
from tests.prometheus.model import Moment, growth
from tests.prometheus.rules import FILES, expression, rules
from tests.prometheus.traffic import ASKS, FAULTS, FLOOD, PROBES, SIZE, Truth, traffic, write_probes

JOB, NODES = "ebpf-exporter", ["node-1", "node-2"]  # two targets, of the one exporter
LATE = "whoami"
AT_LEAST = {"EbpfCountsOverflow", "EbpfEventsMissed", "EbpfSeriesBudget"}  # others on this host may do it as well
READAHEADS = Path(__file__).resolve().parents[1] / "kernel" / "probes"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@dataclass(frozen=True)
class Played:
    """What has been done, and the servers that saw it."""

    daemon: Daemon
    server: Prometheus
    truth: Truth
    at: float  # Unix time
    seconds: float  # before it, in which it was done

    def moment(self, instances: list[str]) -> Moment:
        return Moment(self.server, self.at, self.seconds, instances)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The same is done twice: so the second time every series is there already, and its rate is all of it."""
    folder = tmp_path_factory.mktemp("dash")
    binary = built("workload.c", tmp_path_factory.mktemp("workload"), "-Wno-nonnull", "-Wno-stringop-overflow")
    own = tmp_path_factory.mktemp("probes")
    write_probes(own)
    with traffic(runner(binary), folder) as does:
        daemon = Daemon(PROBES, probe_folders=[str(own), str(READAHEADS)])
        targets = [{"targets": [f"127.0.0.1:{daemon.port}"], "labels": {"instance": node}} for node in NODES]
        with (
            daemon,
            Prometheus(
                daemon.port,
                {"job_name": JOB, "scrape_interval": "1s", "scrape_timeout": "1s", "static_configs": targets},
                rules=FILES,
            ) as server,
        ):
            server.wait_for_scrape(after=0)
            does.play()
            server.wait_for_scrape(after=time.time())
            began = time.time()
            server.wait_for_scrape(after=began)
            truth = does.play(late=LATE)
            at = seen_by_all(server, after=time.time())
            yield Played(daemon, server, truth, at, round(at - began, 3))


def seen_by_all(server: Prometheus, after: float) -> float:
    """Returns the time of a scrape, at which each node's last one had succeeded: one that fails hides what there is."""

    def rounds() -> list[float]:
        targets = [
            [float(at) for at, value in one["values"] if float(at) > after and value == "1"]
            for one in server.query("up[1h]")
        ]
        return [at for own in targets for at in own if all(any(at - 0.9 < it <= at for it in one) for one in targets)]

    wait_until(lambda: bool(rounds()))
    return max(rounds())


def runner(binary: Path) -> Workload:
    def run(*words: object) -> dict[str, int]:
        out = subprocess.run([str(binary), *map(str, words)], check=True, capture_output=True, text=True).stdout
        return {key: int(value) for key, _, value in (part.partition("=") for part in out.split())}

    return run


def test_prometheus_has_what_was_done(played: Played) -> None:
    """To the last event, on each node: bytes, calls, opens, programs, commands and packets."""
    moment = played.moment(NODES)
    for (metric, labels), number in played.truth.items():
        found = [(dict(has), values) for has, values in moment.courses(metric, played.seconds) if labels <= has.items()]
        if ("command", LATE) in labels:  # nothing was there before it
            assert [values[-1][1] for _, values in found] == [number] * len(NODES)
        else:
            assert [growth(values) for _, values in found] == [number] * len(NODES), (metric, labels)
    for metric, label, least in (
        ("ebpf_exporter_events_missed_total", ("probe", "faults"), FAULTS),
        ("ebpf_exporter_events_overflowed_total", ("probe", "readaheads"), 1),
        ("ebpf_exporter_series_folded_total", ("metric", "ebpf_readaheads_total"), 1),
    ):
        courses = [values for has, values in moment.courses(metric, played.seconds) if label in has.items()]
        assert [growth(values) >= least for values in courses] == [True] * len(NODES), metric


def test_each_panel_has_its_expectation() -> None:
    """Each expression of each dashboard, and nothing else."""
    assert sorted(expectation(query) for query in queries()) == sorted(
        (dashboard, panel) for dashboard, panels in PANELS.items() for panel in panels
    )


def expectation(query: Query) -> tuple[str, str]:
    several = f"{query.panel} / {query.legend}"
    return query.dashboard, several if several in PANELS[query.dashboard] else query.panel


@pytest.mark.parametrize("chosen", [NODES, NODES[:1]], ids=["both nodes", "one node"])
@pytest.mark.parametrize("query", list(queries()), ids=str)
def test_panel(played: Played, query: Query, chosen: list[str]) -> None:
    """What it says, of the nodes that are chosen, is what the samples say; over time it ends with the same."""
    dashboard, panel = expectation(query)
    moment = played.moment(chosen)
    interval = f"{round(played.seconds * 1000)}ms"
    text = query.filled(JOB, ".+" if chosen == NODES else chosen[0], interval)
    found = moment.found(text)
    assert found, text
    PANELS[dashboard][panel](moment).check(found, text)
    for key in found if query.columns else ():
        assert {name for name, _ in key} <= set(query.columns)  # a label without a value is none
    if not query.instant:
        course = played.server.get("query_range", query=text, start=played.at - 4, end=played.at, step=1)["result"]
        last = {frozenset(one["metric"].items()): one["values"][-1] for one in course}
        assert {key: float(value) for key, (at, value) in last.items() if at == played.at} == found


def test_what_was_done_is_on_the_dashboards(played: Played) -> None:
    """A few cells, as a person would look for them: who read, wrote, opened, executed, typed, and was dropped."""
    moment = played.moment(NODES[:1])
    interval = f"{round(played.seconds * 1000)}ms"

    def cell(dashboard: str, panel: str, **labels: str) -> float:
        [query] = [one for one in queries() if (one.dashboard, one.panel) == (dashboard, panel)]
        found = moment.found(query.filled(JOB, NODES[0], interval))
        [value] = [value for key, value in found.items() if labels.items() <= set(key)]
        return value * (1 if panel.endswith(("shown", "hour")) else played.seconds)

    [(_, scrapes)] = moment.courses("up", played.seconds)
    scraped = [at for at, value in scrapes if value]
    extrapolated = played.seconds / (scraped[-1] - scraped[0])  # at the most
    for dashboard, panel, labels, number in (
        ("ebpf-files", "Files by bytes", {"op": "read", "comm": "dash-reads", "file": "dash-source"}, SIZE),
        ("ebpf-files", "Files by bytes", {"op": "write", "comm": "dash-writes", "file": "dash-target"}, SIZE),
        ("ebpf-commands", "Programs in the time shown", {"user": "nobody", "comm": "dash-program"}, 7),
        ("ebpf-commands", "Commands in the time shown", {"user": "root", "command": "true"}, 11),
        ("ebpf-network", "Rules", {"interface": "dash0", "rule": "flood"}, FLOOD),
        ("ebpf-network", "Packets of containers", {"container": "dash1-ns", "action": "drop"}, 19),
    ):
        shown = cell(dashboard, panel, **labels)
        assert number <= shown * (1 + 1e-6) <= number * extrapolated * (1 + 1e-5), panel
    assert cell("ebpf-commands", "New commands in the last hour", command=LATE) == 1
    assert cell("ebpf-commands", "Commands in the time shown", command=LATE) == 1


def test_other_is_beside_the_largest(played: Played) -> None:
    """An expression of the form that dashboards have, of a metric with a (other): that is shown though it is neither
    small nor large, and all that there is adds up."""
    query = next(one for one in queries() if one.panel == "Most typed now")
    text = query.filled(JOB, NODES[0], f"{round(played.seconds * 1000)}ms")
    text = text.replace("ebpf_shell_commands_total", "ebpf_readaheads_total")
    text = text.replace("user, command", "half, size").replace("command", "size")
    found = {dict(key)["size"]: value for key, value in played.moment(NODES[:1]).found(text).items()}
    assert found[OTHER] * played.seconds >= ASKS - 10
    assert 1 < len(found) <= 25 + 1


QUERIES = {path.stem: yaml.safe_load(path.read_text())["questions"] for path in sorted((ROOT / "bpf").glob("*.yaml"))}


@pytest.mark.parametrize(
    ("probe", "question"), [(probe, question) for probe, queries in QUERIES.items() for question in queries]
)
def test_question(played: Played, probe: str, question: str) -> None:
    """The PromQL that a probe's page has for a question is its answer, over the time in which all was done."""
    moment = played.moment(NODES)
    text = re.sub(r"(?<=\[)(5m|1h)(?=\])|(?<=offset )1h", f"{round(played.seconds * 1000)}ms", QUERIES[probe][question])
    found = moment.found(text)
    assert found, text
    QUESTIONS[probe][question](moment).check(found, text)


@pytest.mark.parametrize("record", RECORDED)
def test_recording_rule(played: Played, record: str) -> None:
    """What it computes is what the samples say; and Prometheus has recorded it."""
    moment = played.moment(NODES)
    RECORDED[record](moment).check(moment.found(expression(record)), record)
    recorded = played.server.query(f"{record}[{round(played.seconds * 1000)}ms]", time=played.at)
    has = {frozenset(one["metric"].items() - {("__name__", record)}) for one in recorded}
    assert has >= moment.found(expression(record)).keys()


@pytest.mark.parametrize("alert", ALERTED)
def test_alert(played: Played, alert: str) -> None:
    """Its expression finds what is wrong, on each node, and nothing else, once what it asks has been recorded."""

    def finds() -> bool:
        found = [one["metric"] for one in played.server.query(expression(alert))]
        assert {one["job"] for one in found} <= {JOB}
        labels = [{name: one[name] for name in one.keys() - {"job", "instance", "__name__"}} for one in found]
        whole = alert in AT_LEAST or len(found) == len(ALERTED[alert]) * len(NODES)
        return whole and all(labels.count(expected) == len(NODES) for expected in ALERTED[alert])

    wait_until(finds)


def test_all_rules_are_there_and_well(played: Played) -> None:
    """Prometheus evaluates each without an error, and this test knows all of them."""
    own = {rule[kind] for kind in ("alert", "record") for rule in rules(kind)}
    assert own == ALERTED.keys() | RECORDED.keys()
    found = [rule for group in played.server.get("rules")["groups"] for rule in group["rules"]]
    assert own <= {rule["name"] for rule in found}
    assert {(rule["health"], rule.get("lastError")) for rule in found} == {("ok", None)}

    def pending() -> set[tuple[str, str]]:
        alerts = played.server.get("alerts")["alerts"]
        return {(one["labels"]["alertname"], one["labels"]["instance"]) for one in alerts}

    wait_until(lambda: {("EbpfProbeDown", node) for node in NODES} <= pending())


def test_promtool_finds_no_fault_with_the_page(played: Played) -> None:
    """As it is under that load."""
    page = played.daemon.page()
    done = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_config_that_is_refused_and_an_exporter_that_ends(played: Played) -> None:
    """The last of the alerts, each found when it happens."""

    def nodes(alert: str) -> list[str]:
        return sorted(one["metric"]["instance"] for one in played.server.query(expression(alert)))

    played.daemon.config.write_text("probes: [")
    assert played.daemon.reload().returncode == 1
    wait_until(lambda: nodes("EbpfReloadFailed") == NODES)
    played.daemon.kill()
    wait_until(lambda: nodes("EbpfExporterDown") == NODES)


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)  # Prometheus tells nobody
    raise AssertionError("it never came")
