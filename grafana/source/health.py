# SPDX-License-Identifier: Apache-2.0
"""Whether the exporters work, what they cost, and what they could not count one by one."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.source.panels import BAD, WARN, bars, course, number, page, rows
from grafana.source.queries import INTERVAL, MOST, rate, select, total

UID = "ebpf-exporter-health"
UP, INFO, BUILD = "ebpf_exporter_probe_up", "ebpf_exporter_probe_info", "ebpf_exporter_build_info"
RUNS, SECONDS = "ebpf_exporter_program_runs_total", "ebpf_exporter_program_run_seconds_total"
GOOD_CONFIG = "ebpf_exporter_config_last_reload_successful"
GOOD_WEB_CONFIG = "ebpf_exporter_web_config_last_reload_successful"
SERIES, MAX_SERIES = "ebpf_exporter_series", "ebpf_exporter_max_series"
OF_PROBE = ["job", "instance", "probe"]
TOLD = ["instance", "probe", "state", "mechanism", "reason"]


def _largest(expression: str) -> str:
    return f"topk({MOST}, {expression})"


def build() -> Dashboard:
    cost = rate(SECONDS, OF_PROBE)
    missed, overflowed = "ebpf_exporter_events_missed_total", "ebpf_exporter_events_overflowed_total"
    not_running = select(INFO, 'state!="running"')
    budget = f"{select(SERIES)} / on (job, instance, metric) {select(MAX_SERIES)}"
    return page(
        UID,
        "eBPF / Exporter health",
        "The exporters themselves: which probes run, what they cost, what was missed or has no series of its own.",
        {
            "": [
                number("Nodes", "short", "Exporters that answer.", f"count({select(BUILD)})"),
                number(
                    "Probes not running",
                    "short",
                    "Probes that are not wholly attached.",
                    f"sum(1 - {select(UP)})",
                    steps={1: BAD},
                ),
                number(
                    "Configs refused",
                    "short",
                    "Nodes whose last reload of the config, or web config, failed: they go on with the one before.",
                    f"sum(1 - {select(GOOD_CONFIG)}) + (sum(1 - {select(GOOD_WEB_CONFIG)}) or vector(0))",
                    steps={1: BAD},
                ),
                number(
                    "Events missed",
                    "ops",
                    "Events for which the kernel did not run a program.",
                    rate(missed),
                    steps={0.01: WARN},
                ),
                number(
                    "Overflow",
                    "ops",
                    "Events counted under (other), as a kernel map was full.",
                    rate(overflowed),
                    steps={0.01: WARN},
                ),
                number(
                    "Workers restarted",
                    "short",
                    "Times that the process on the network was started again, in the time shown.",
                    f"sum(increase({select('ebpf_exporter_worker_restarts_total')}[$__range]))",
                    steps={1: WARN},
                ),
            ],
            "Probes": [
                rows(
                    "Probes that do not run as they should",
                    "none",
                    "All that are not running, with the reason; the page /probes of the node has the whole story.",
                    f"max by ({', '.join(TOLD)}) ({not_running})",
                    TOLD,
                    None,
                    width=14,
                ),
                rows(
                    "Probes by state",
                    "short",
                    "On how many nodes a probe is in a state, and how it is attached there.",
                    f"count by (probe, state, mechanism) ({select(INFO)})",
                    ["probe", "state", "mechanism"],
                    "Nodes",
                    width=10,
                ),
            ],
            "What it costs": [
                course(
                    "Programs' time by probe, busiest node",
                    "percentunit",
                    "Share of one core that a probe's programs take, by the kernel's statistics, where that is most.",
                    {"{{probe}}": f"max by (probe) ({cost})"},
                ),
                course(
                    "Programs' time by node and probe",
                    "percentunit",
                    "Share of one core: the largest ones.",
                    {"{{instance}} {{probe}}": _largest(rate(SECONDS, ["instance", "probe"]))},
                ),
                bars(
                    "Programs' time against max_cpu_percent",
                    "percentunit",
                    "Share of what a probe may take of a core; above it for a minute, it is detached.",
                    {
                        "{{instance}} {{probe}}": _largest(
                            f"{cost} / on ({', '.join(OF_PROBE)}) {select('ebpf_exporter_probe_max_cpu_ratio')}"
                        )
                    },
                    width=8,
                ),
                course(
                    "Time a run",
                    "s",
                    "Time that a run of a program takes, on average over the nodes.",
                    {"{{probe}}": f"{rate(SECONDS, ['probe'])} / {rate(RUNS, ['probe'])}"},
                    width=8,
                ),
                course(
                    "Runs of programs",
                    "ops",
                    "Events that programs saw.",
                    {"{{probe}}": rate(RUNS, ["probe"])},
                    width=8,
                ),
                course(
                    "Memory of the process on the network",
                    "bytes",
                    "Resident memory of the worker, on the nodes where it is most.",
                    {"{{instance}}": _largest(select("process_resident_memory_bytes"))},
                ),
                course(
                    "Time of the process on the network",
                    "percentunit",
                    "Share of one core that reading and answering takes, on the nodes where it is most.",
                    {"{{instance}}": _largest(f"rate({select('process_cpu_seconds_total')}[{INTERVAL}])")},
                ),
            ],
            "What has no series of its own": [
                bars(
                    "Series against the budget",
                    "percentunit",
                    "Series of a metric as a share of its max_series, on the node where that is most. At 1, the "
                    "least active keys are counted under (other).",
                    {"{{metric}}": f"max by (metric) ({budget})"},
                    width=8,
                ),
                course(
                    "Series",
                    "short",
                    "Series of a metric, over all nodes, with (other).",
                    {"{{metric}}": total(select(SERIES), ["metric"])},
                    width=8,
                ),
                course(
                    "Keys without a series",
                    "ops",
                    "How often a key was counted under (other), because its metric had its max_series.",
                    {"{{metric}}": rate("ebpf_exporter_series_folded_total", ["metric"])},
                    width=8,
                ),
                course(
                    "Overflow by metric",
                    "ops",
                    "Events counted under (other), as a kernel map was full between two reads.",
                    {"{{probe}} {{metric}}": rate(overflowed, ["probe", "metric"])},
                ),
                course(
                    "Missed by program",
                    "ops",
                    "Events for which the kernel did not run the program; before 6.7 it tells this of some families.",
                    {"{{probe}} {{program}}": rate(missed, ["probe", "program"])},
                ),
            ],
            "Reads": [
                course(
                    "Time of a read",
                    "s",
                    "Time that reading all maps took, on the nodes where it is most.",
                    {"{{instance}}": _largest(select("ebpf_exporter_last_read_seconds"))},
                ),
                course(
                    "Age of the last read",
                    "s",
                    "How old what a scrape brings is, on the nodes where it is most. The clocks of both sides count.",
                    {
                        "{{instance}}": _largest(
                            "timestamp({0}) - {0}".format(select("ebpf_exporter_last_read_timestamp_seconds"))
                        )
                    },
                ),
                rows(
                    "Versions",
                    "short",
                    "On how many nodes a version runs, with which BCC and kernel.",
                    f"count by (version, bcc, kernel) ({select(BUILD)})",
                    ["version", "bcc", "kernel"],
                    "Nodes",
                    width=24,
                ),
            ],
        },
    )
