# SPDX-License-Identifier: Apache-2.0
"""What goes on: one row for each probe, with the question that it answers."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.source import commands, files, health, network
from grafana.source.panels import BAD, WARN, bars, course, leads_to, number, page
from grafana.source.queries import INTERVAL, MOST, rate, select, top, trend

UID = "ebpf-overview"
SHIPPED = "file_io|file_opens|process_execs|shell_commands|xdp|container_net"
RUNS = "ebpf_exporter_program_runs_total"
OF_ONES_OWN = f'probe!~"{SHIPPED}"'


def build() -> Dashboard:
    opens, execs, commands_, packets = (
        "ebpf_file_opens_total",
        "ebpf_process_execs_total",
        "ebpf_shell_commands_total",
        "ebpf_container_network_packets_total",
    )
    nodes = f"count({select('ebpf_exporter_build_info')})"
    busy = f"sum(rate({select('ebpf_exporter_program_run_seconds_total')}[{INTERVAL}])) / {nodes}"
    return page(
        UID,
        "eBPF / Overview",
        "What the processes of the chosen nodes do: one row for each probe.",
        {
            "": [
                number("Nodes", "short", "Exporters that answer.", nodes),
                number(
                    "Probes not running",
                    "short",
                    "Probes that are not wholly attached; Exporter health says why.",
                    f"sum(1 - {select('ebpf_exporter_probe_up')})",
                    steps={1: BAD},
                ),
                number("Program runs", "ops", "Events that programs saw, of all probes.", rate(RUNS)),
                number(
                    "Overhead", "percentunit", "Share of one core that programs take, on average over the nodes.", busy
                ),
                number(
                    "Events missed",
                    "ops",
                    "Events for which the kernel did not run a program.",
                    rate("ebpf_exporter_events_missed_total"),
                    steps={0.01: WARN},
                ),
                number(
                    "Overflow",
                    "ops",
                    "Events counted under (other), as a kernel map was full.",
                    rate("ebpf_exporter_events_overflowed_total"),
                    steps={0.01: WARN},
                ),
            ],
            "file_io: who reads and writes which files?": [
                leads_to(
                    bars(
                        "Most bytes now",
                        "Bps",
                        "Bytes read and written, by process and file.",
                        {"{{comm}} {{file}}": top("ebpf_file_io_bytes_total", ["comm", "file"], "comm")},
                    ),
                    files.UID,
                    "Files",
                ),
                course(
                    "Bytes read and written",
                    "Bps",
                    "Bytes that read and write calls returned or took.",
                    {"{{op}}": rate("ebpf_file_io_bytes_total", ["op"])},
                    width=16,
                ),
            ],
            "file_opens: who opens files, and who fails to?": [
                leads_to(
                    bars(
                        "Most opens now",
                        "ops",
                        "Opens, by process and result.",
                        {"{{comm}} {{result}}": top(opens, ["comm", "result"], "comm")},
                    ),
                    files.UID,
                    "Files",
                ),
                course(
                    "Opens",
                    "ops",
                    "Opens by result: ok, or the error.",
                    {"{{result}}": rate(opens, ["result"])},
                    width=16,
                ),
            ],
            "process_execs: who executes which programs?": [
                leads_to(
                    bars(
                        "Most executed now",
                        "ops",
                        "Programs executed, by user and name.",
                        {"{{user}} {{comm}}": top(execs, ["user", "comm"], "comm")},
                    ),
                    commands.UID,
                    "Commands",
                ),
                course(
                    "Programs executed",
                    "ops",
                    "By the user who does it.",
                    {"{{user}}": trend(execs, ["user"], "user")},
                    width=16,
                ),
            ],
            "shell_commands: what is typed into shells, and by whom?": [
                leads_to(
                    bars(
                        "Most typed now",
                        "ops",
                        "Commands typed into an interactive bash, by user and first word.",
                        {"{{user}} {{command}}": top(commands_, ["user", "command"], "command")},
                    ),
                    commands.UID,
                    "Commands",
                ),
                course(
                    "Commands typed",
                    "ops",
                    "By the user who types.",
                    {"{{user}}": trend(commands_, ["user"], "user")},
                    width=16,
                ),
            ],
            "xdp: what comes in, and what is dropped?": [
                leads_to(
                    bars(
                        "Most packets now",
                        "pps",
                        "Packets received, by interface and protocol.",
                        {
                            "{{interface}} {{protocol}}": top(
                                "ebpf_xdp_packets_total", ["interface", "protocol"], "interface"
                            )
                        },
                    ),
                    network.UID,
                    "Network",
                ),
                course(
                    "Packets received",
                    "pps",
                    "By what XDP did with them.",
                    {"{{action}}": rate("ebpf_xdp_packets_total", ["action"])},
                    width=16,
                ),
            ],
            "container_net: which containers talk, and how much?": [
                leads_to(
                    bars(
                        "Most packets of containers now",
                        "pps",
                        "Packets, by container and by direction as the container sees it.",
                        {"{{container}} {{direction}}": top(packets, ["container", "direction"], "container")},
                    ),
                    network.UID,
                    "Network",
                ),
                course(
                    "Packets of containers",
                    "pps",
                    "By direction as the containers see it, and by what became of them.",
                    {"{{direction}} {{action}}": rate(packets, ["direction", "action"])},
                    width=16,
                ),
            ],
            "Probes of your own": [
                leads_to(
                    bars(
                        "Most runs now",
                        "ops",
                        "Runs of the programs of probes that are not among those above.",
                        {"{{probe}}": f"topk({MOST}, {rate(RUNS, ['probe'], OF_ONES_OWN)})"},
                    ),
                    health.UID,
                    "Exporter health",
                ),
                course(
                    "Runs",
                    "ops",
                    "Runs of the programs of probes that are not among those above.",
                    {"{{probe}}": rate(RUNS, ["probe"], OF_ONES_OWN)},
                    width=16,
                ),
            ],
        },
    )
