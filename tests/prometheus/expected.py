# SPDX-License-Identifier: Apache-2.0
"""What each panel and each rule should say: dashboard -> panel (and legend, where it has several) -> expected."""

from tests.prometheus.model import (
    Expected,
    Moment,
    Result,
    counted,
    how_many,
    largest,
    present,
    quantile,
    rates,
    share,
)

SHOWN, ROWS = 10, 25  # the largest
SHIPPED = ("file_io", "file_opens", "process_execs", "shell_commands", "xdp", "container_net")
BYTES, OPERATIONS, OPENS = "ebpf_file_io_bytes_total", "ebpf_file_io_operations_total", "ebpf_file_opens_total"
LATENCY = "ebpf_file_io_latency_seconds_bucket"
EXECS, TYPED = "ebpf_process_execs_total", "ebpf_shell_commands_total"
XDP, XDP_BYTES, XDP_RULES = "ebpf_xdp_packets_total", "ebpf_xdp_bytes_total", "ebpf_xdp_rule_packets_total"
OF_CONTAINERS, BYTES_OF_CONTAINERS, RULES_OF_CONTAINERS = (
    "ebpf_container_network_packets_total",
    "ebpf_container_network_bytes_total",
    "ebpf_container_network_rule_packets_total",
)
RUNS, SECONDS = "ebpf_exporter_program_runs_total", "ebpf_exporter_program_run_seconds_total"
MISSED, OVERFLOWED = "ebpf_exporter_events_missed_total", "ebpf_exporter_events_overflowed_total"
UP, INFO, BUILD = "ebpf_exporter_probe_up", "ebpf_exporter_probe_info", "ebpf_exporter_build_info"
SERIES, MAX_SERIES, LIMIT = "ebpf_exporter_series", "ebpf_exporter_max_series", "ebpf_exporter_probe_max_cpu_ratio"
GOOD = "ebpf_exporter_config_last_reload_successful"
OF_PROBE = ("job", "instance", "probe")
OF_METRIC = ("job", "instance", "metric")


def zeros(metric: str) -> Expected:
    """How many series are 0, of those that are 0 or 1."""

    def of(moment: Moment) -> Result:
        values = [value for _, value in moment.current(metric)]
        assert set(values) <= {0, 1}
        return Result({frozenset(): (values.count(0),) * 2})

    return of


def of_ones_own(most: int | None = None) -> Expected:
    """Runs of probes that are not shipped."""

    def of(moment: Moment) -> Result:
        all_ = rates(RUNS, "probe")(moment).values
        return Result({key: value for key, value in all_.items() if dict(key)["probe"] not in SHIPPED}, most)

    return of


def positive(expected: Expected) -> Expected:
    """Of counts or rates, those that are above 0."""

    def of(moment: Moment) -> Result:
        found = expected(moment)
        return Result({key: value for key, value in found.values.items() if value[1] > 0}, found.most, found.wide)

    return of


def only(expected: Expected, label: str, *values: str) -> Expected:
    """Those whose label has one of the values."""

    def of(moment: Moment) -> Result:
        found = expected(moment).values
        return Result({key: value for key, value in found.items() if dict(key)[label] in values})

    return of


def unseen(metric: str, *by: str) -> Expected:
    """What there is now, by labels that there were not before."""

    def of(moment: Moment) -> Result:
        began = moment.at - moment.seconds
        courses = moment.courses(metric, moment.seconds + 900)
        before = {
            frozenset((label, has[label]) for label in by)
            for has, values in courses
            if any(at <= began for at, _ in values)
        }
        now = present(metric, *by)(moment).values
        return Result({key: value for key, value in now.items() if key not in before})

    return of


def ages(moment: Moment) -> Result:
    """The time between a read and the scrape that it was for."""
    found: dict[frozenset[tuple[str, str]], tuple[float, float]] = {}
    for labels, values in moment.courses("ebpf_exporter_last_read_timestamp_seconds", moment.seconds):
        at, value = values[-1]
        found[frozenset((name, labels[name]) for name in ("job", "instance"))] = (at - value - 0.01, at - value + 0.01)
    return Result(found, SHOWN)


def processes(metric: str, growing: bool = False) -> Expected:
    if growing:
        return rates(metric, "job", "instance", most=SHOWN)
    return present(metric, "__name__", "job", "instance", most=SHOWN)


def total(expected: Expected) -> Expected:
    """The sum of all."""

    def of(moment: Moment) -> Result:
        ranges = expected(moment).values.values()
        return Result({frozenset(): (sum(low for low, _ in ranges), sum(high for _, high in ranges))})

    return of


NODES = how_many(present(BUILD, "instance"))
STATES = {"instance", "probe", "state", "mechanism", "reason"}
PANELS: dict[str, dict[str, Expected]] = {
    "ebpf-overview": {
        "Nodes": NODES,
        "Probes not running": zeros(UP),
        "Program runs": rates(RUNS),
        "Overhead": share(rates(SECONDS), NODES),
        "Events missed": rates(MISSED),
        "Overflow": rates(OVERFLOWED),
        "Most bytes now": rates(BYTES, "comm", "file", most=ROWS),
        "Bytes read and written": rates(BYTES, "op"),
        "Most opens now": rates(OPENS, "comm", "result", most=ROWS),
        "Opens": rates(OPENS, "result"),
        "Most executed now": rates(EXECS, "user", "comm", most=ROWS),
        "Programs executed": rates(EXECS, "user", most=SHOWN),
        "Most typed now": rates(TYPED, "user", "command", most=ROWS),
        "Commands typed": rates(TYPED, "user", most=SHOWN),
        "Most packets now": rates(XDP, "interface", "protocol", most=ROWS),
        "Packets received": rates(XDP, "action"),
        "Most packets of containers now": rates(OF_CONTAINERS, "container", "direction", most=ROWS),
        "Packets of containers": rates(OF_CONTAINERS, "direction", "action"),
        "Most runs now": of_ones_own(SHOWN),
        "Runs": of_ones_own(),
    },
    "ebpf-files": {
        "Read": rates(BYTES, op="read"),
        "Written": rates(BYTES, op="write"),
        "Operations": rates(OPERATIONS),
        "Opens": rates(OPENS),
        "Opens that fail": share(rates(OPENS, result="!ok"), rates(OPENS)),
        "Bytes by operation": rates(BYTES, "op"),
        "Operations by kind": rates(OPERATIONS, "op"),
        "Processes by bytes": rates(BYTES, "comm", most=SHOWN),
        "Processes by operations": rates(OPERATIONS, "comm", most=SHOWN),
        "Files by bytes": rates(BYTES, "instance", "op", "comm", "file", most=ROWS),
        "Files by operations": rates(OPERATIONS, "instance", "op", "comm", "file", most=ROWS),
        "How long reads take": rates(LATENCY, "le", op="read"),
        "How long writes take": rates(LATENCY, "le", op="write"),
        "Half and 99 of 100 take at most / half {{op}}": quantile(0.5, LATENCY),
        "Half and 99 of 100 take at most / 99 of 100 {{op}}": quantile(0.99, LATENCY),
        "Opens by result": rates(OPENS, "result"),
        "Opens by process": rates(OPENS, "comm", most=SHOWN),
        "Who fails to open": rates(OPENS, "instance", "comm", "result", most=ROWS, result="!ok"),
    },
    "ebpf-commands": {
        "Programs executed": counted(EXECS),
        "Users who execute": how_many(present(EXECS, "user", user="!(other)")),
        "Commands typed": counted(TYPED),
        "Users who type": how_many(present(TYPED, "user", user="!(other)")),
        "Programs by user": rates(EXECS, "user", most=SHOWN),
        "Programs by name": rates(EXECS, "comm", most=SHOWN),
        "Programs in the time shown": counted(EXECS, "instance", "user", "comm", most=ROWS),
        "New programs in the last hour": present(EXECS, "instance", "user", "comm", comm="!(other)"),
        "Commands by user": rates(TYPED, "user", most=SHOWN),
        "Commands by first word": rates(TYPED, "command", most=SHOWN),
        "Commands in the time shown": counted(TYPED, "instance", "user", "command", most=ROWS),
        "New commands in the last hour": present(TYPED, "instance", "user", "command", command="!(other)"),
    },
    "ebpf-network": {
        "Received": rates(XDP),
        "Received bytes": rates(XDP_BYTES),
        "Dropped": share(rates(XDP, action="drop"), rates(XDP)),
        "Containers: sent": rates(OF_CONTAINERS, direction="egress"),
        "Containers: received": rates(OF_CONTAINERS, direction="ingress"),
        "Containers: dropped": share(rates(OF_CONTAINERS, action="drop"), rates(OF_CONTAINERS)),
        "Packets by action": rates(XDP, "action"),
        "Bytes by action": rates(XDP_BYTES, "action"),
        "Packets by protocol": rates(XDP, "protocol"),
        "Dropped by interface": rates(XDP, "instance", "interface", most=SHOWN, action="drop"),
        "Packets by rule": rates(XDP_RULES, "rule", most=SHOWN),
        "Interfaces": rates(XDP, "instance", "interface", "action", "protocol", most=ROWS),
        "Rules": rates(XDP_RULES, "instance", "interface", "rule", most=ROWS),
        "Packets sent and received": rates(OF_CONTAINERS, "direction", "action"),
        "Sent by container": rates(BYTES_OF_CONTAINERS, "container", most=SHOWN, direction="egress"),
        "Received by container": rates(BYTES_OF_CONTAINERS, "container", most=SHOWN, direction="ingress"),
        "Dropped by container": rates(OF_CONTAINERS, "container", "direction", most=SHOWN, action="drop"),
        "Packets of containers by rule": rates(RULES_OF_CONTAINERS, "rule", most=SHOWN),
        "Packets of containers": rates(OF_CONTAINERS, "instance", "container", "direction", "action", most=ROWS),
        "Rules of containers": rates(RULES_OF_CONTAINERS, "instance", "container", "direction", "rule", most=ROWS),
    },
    "ebpf-exporter-health": {
        "Nodes": NODES,
        "Probes not running": zeros(UP),
        "Configs refused": zeros(GOOD),
        "Events missed": rates(MISSED),
        "Overflow": rates(OVERFLOWED),
        "Workers restarted": counted("ebpf_exporter_worker_restarts_total"),
        "Probes that do not run as they should": present(INFO, *STATES, state="!running"),
        "Probes by state": present(INFO, "probe", "state", "mechanism"),
        "Programs' time by probe, busiest node": largest(rates(SECONDS, *OF_PROBE), "probe"),
        "Programs' time by node and probe": rates(SECONDS, "instance", "probe", most=SHOWN),
        "Programs' time against max_cpu_percent": share(rates(SECONDS, *OF_PROBE), present(LIMIT, *OF_PROBE), SHOWN),
        "Time a run": share(rates(SECONDS, "probe"), rates(RUNS, "probe")),
        "Runs of programs": rates(RUNS, "probe"),
        "Memory of the process on the network": processes("process_resident_memory_bytes"),
        "Time of the process on the network": processes("process_cpu_seconds_total", growing=True),
        "Series against the budget": largest(
            share(present(SERIES, *OF_METRIC), present(MAX_SERIES, *OF_METRIC)), "metric"
        ),
        "Series": present(SERIES, "metric"),
        "Keys without a series": rates("ebpf_exporter_series_folded_total", "metric"),
        "Overflow by metric": rates(OVERFLOWED, "probe", "metric"),
        "Missed by program": rates(MISSED, "probe", "program"),
        "Time of a read": present("ebpf_exporter_last_read_seconds", "__name__", "job", "instance", most=SHOWN),
        "Age of the last read": ages,
        "Versions": present(BUILD, "version", "bcc", "kernel"),
    },
}
RECORDED: dict[str, Expected] = {
    "instance_probe:ebpf_exporter_program_run_seconds:rate5m": rates(SECONDS, *OF_PROBE, seconds=300),
    "instance_metric:ebpf_exporter_series:ratio": share(present(SERIES, *OF_METRIC), present(MAX_SERIES, *OF_METRIC)),
    "instance_interface:ebpf_xdp_dropped_packets:rate5m": rates(
        XDP, "job", "instance", "interface", seconds=300, action="drop"
    ),
    "instance_interface_rule:ebpf_xdp_rule_packets:rate5m": rates(
        XDP_RULES, "job", "instance", "interface", "rule", seconds=300
    ),
}
# of an alert that is to be found by its expression: labels besides job and instance, once for each node
ALERTED: dict[str, list[dict[str, str]]] = {
    "EbpfExporterDown": [],
    "EbpfProbeDown": [{"probe": "broken"}],
    "EbpfProbeDegraded": [],
    "EbpfOverheadAboveBudget": [{"probe": "stopwatch"}],
    "EbpfCountsOverflow": [{"probe": "readaheads", "metric": "ebpf_readaheads_total"}],
    "EbpfEventsMissed": [{"probe": "faults", "program": "on_fault"}],
    "EbpfSeriesBudget": [{"metric": "ebpf_readaheads_total"}],
    "EbpfReadsStale": [],
    "EbpfReloadFailed": [],
    "EbpfXdpRuleSuddenlyDrops": [{"interface": "dash0", "rule": "seen"}, {"interface": "dash0", "rule": "flood"}],
}

# what probes' YAML asks -> what is the answer
QUESTIONS: dict[str, dict[str, Expected]] = {
    "file_io": {
        "Which processes read and write most?": rates(BYTES, "comm", "op", most=SHOWN),
        "Which files are written most?": rates(BYTES, "file", op="write", most=SHOWN),
        "How large is a write, by process?": share(
            rates(BYTES, "comm", op="write"), positive(rates(OPERATIONS, "comm", op="write"))
        ),
        "How long do 99 of 100 reads and writes take at most?": quantile(0.99, LATENCY),
    },
    "file_opens": {
        "Which processes open most files?": rates(OPENS, "comm", most=SHOWN),
        "Who looks for files that are not there?": rates(OPENS, "comm", result="ENOENT", most=SHOWN),
        "Who is refused?": positive(only(counted(OPENS, "instance", "comm", "result"), "result", "EACCES", "EPERM")),
        "Has a process run out of descriptors?": positive(
            only(counted(OPENS, "instance", "comm", "result"), "result", "EMFILE", "ENFILE")
        ),
    },
    "process_execs": {
        "Which programs are executed most?": rates(EXECS, "comm", most=SHOWN),
        "What does root execute?": counted(EXECS, "comm", user="root", most=SHOWN),
        "Which programs are new in the last hour?": unseen(EXECS, "instance", "comm"),
    },
    "shell_commands": {
        "What is typed most?": counted(TYPED, "command", most=SHOWN),
        "Who works in a shell?": positive(counted(TYPED, "instance", "user")),
        "Where was sudo or su typed?": positive(
            only(counted(TYPED, "instance", "user", "command"), "command", "sudo", "su")
        ),
    },
    "xdp": {
        "How much does each interface receive?": rates(XDP_BYTES, "instance", "interface"),
        "Of what is it made?": rates(XDP, "instance", "interface", "protocol"),
        "Which rules are met?": positive(rates(XDP_RULES, "instance", "rule")),
        "Which share is dropped?": share(rates(XDP, "instance", action="drop"), rates(XDP, "instance")),
    },
    "container_net": {
        "Which containers send and receive most?": rates(
            BYTES_OF_CONTAINERS, "instance", "container", "direction", most=SHOWN
        ),
        "Whose packets are dropped?": positive(
            rates(OF_CONTAINERS, "instance", "container", "direction", action="drop")
        ),
        "By which rule?": positive(rates(RULES_OF_CONTAINERS, "instance", "container", "rule")),
    },
}
