# SPDX-License-Identifier: Apache-2.0
"""What comes in, what is dropped, by which rule, and which containers talk."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.source.panels import BAD, WARN, course, number, page, rows
from grafana.source.queries import rate, top, trend

UID = "ebpf-network"
PACKETS, BYTES, RULES = "ebpf_xdp_packets_total", "ebpf_xdp_bytes_total", "ebpf_xdp_rule_packets_total"
OF_CONTAINERS, BYTES_OF_CONTAINERS, RULES_OF_CONTAINERS = (
    "ebpf_container_network_packets_total",
    "ebpf_container_network_bytes_total",
    "ebpf_container_network_rule_packets_total",
)
DROPPED, SENT, RECEIVED = 'action="drop"', 'direction="egress"', 'direction="ingress"'
MET = " A rule counts the packets that meet it, whether it drops, passes or only counts them."


def _none_or(expression: str) -> str:
    return f"({expression} or vector(0))"


def build() -> Dashboard:
    return page(
        UID,
        "eBPF / Network",
        "Packets of interfaces and containers, and what rules do. From the probes xdp and container_net.",
        {
            "": [
                number("Received", "pps", "Packets that interfaces received.", rate(PACKETS)),
                number("Received bytes", "Bps", "Bytes of these packets, from the Ethernet header on.", rate(BYTES)),
                number(
                    "Dropped",
                    "percentunit",
                    "Share of the packets received that XDP dropped.",
                    f"{_none_or(rate(PACKETS, (), DROPPED))} / {rate(PACKETS)}",
                    steps={0.1: WARN, 0.5: BAD},
                ),
                number("Containers: sent", "pps", "Packets that containers sent.", rate(OF_CONTAINERS, (), SENT)),
                number(
                    "Containers: received",
                    "pps",
                    "Packets that containers were sent.",
                    rate(OF_CONTAINERS, (), RECEIVED),
                ),
                number(
                    "Containers: dropped",
                    "percentunit",
                    "Share of the containers' packets that rules dropped.",
                    f"{_none_or(rate(OF_CONTAINERS, (), DROPPED))} / {rate(OF_CONTAINERS)}",
                    steps={0.1: WARN, 0.5: BAD},
                ),
            ],
            "Interfaces (XDP)": [
                course(
                    "Packets by action",
                    "pps",
                    "Packets received, by what XDP did with them.",
                    {"{{action}}": rate(PACKETS, ["action"])},
                    width=8,
                    stacked=True,
                ),
                course(
                    "Bytes by action",
                    "Bps",
                    "Bytes received, by what XDP did with them.",
                    {"{{action}}": rate(BYTES, ["action"])},
                    width=8,
                    stacked=True,
                ),
                course(
                    "Packets by protocol",
                    "pps",
                    "Packets received, by protocol.",
                    {"{{protocol}}": rate(PACKETS, ["protocol"])},
                    width=8,
                    stacked=True,
                ),
                course(
                    "Dropped by interface",
                    "pps",
                    "Packets dropped by the interfaces that drop the most now.",
                    {"{{instance}} {{interface}}": trend(PACKETS, ["instance", "interface"], "interface", DROPPED)},
                ),
                course(
                    "Packets by rule",
                    "pps",
                    "The rules that the most packets meet now." + MET,
                    {"{{rule}}": trend(RULES, ["rule"], "rule")},
                ),
                rows(
                    "Interfaces",
                    "pps",
                    "Packets received now, by node, interface, action and protocol.",
                    top(PACKETS, ["instance", "interface", "action", "protocol"], "interface"),
                    ["instance", "interface", "action", "protocol"],
                    "Packets per second",
                ),
                rows(
                    "Rules",
                    "pps",
                    "Packets that meet rules now, by node and interface." + MET,
                    top(RULES, ["instance", "interface", "rule"], "rule"),
                    ["instance", "interface", "rule"],
                    "Packets per second",
                ),
            ],
            "Containers": [
                course(
                    "Packets sent and received",
                    "pps",
                    "By direction as the containers see it, and by what became of them.",
                    {"{{direction}} {{action}}": rate(OF_CONTAINERS, ["direction", "action"])},
                    width=8,
                ),
                course(
                    "Sent by container",
                    "Bps",
                    "Bytes of the containers that send the most now.",
                    {"{{container}}": trend(BYTES_OF_CONTAINERS, ["container"], "container", SENT)},
                    width=8,
                    stacked=True,
                ),
                course(
                    "Received by container",
                    "Bps",
                    "Bytes of the containers that receive the most now.",
                    {"{{container}}": trend(BYTES_OF_CONTAINERS, ["container"], "container", RECEIVED)},
                    width=8,
                    stacked=True,
                ),
                course(
                    "Dropped by container",
                    "pps",
                    "Packets dropped of the containers that lose the most now.",
                    {
                        "{{container}} {{direction}}": trend(
                            OF_CONTAINERS, ["container", "direction"], "container", DROPPED
                        )
                    },
                ),
                course(
                    "Packets of containers by rule",
                    "pps",
                    "The rules that the most packets of containers meet now." + MET,
                    {"{{rule}}": trend(RULES_OF_CONTAINERS, ["rule"], "rule")},
                ),
                rows(
                    "Packets of containers",
                    "pps",
                    "Packets now, by node, container, direction and action.",
                    top(OF_CONTAINERS, ["instance", "container", "direction", "action"], "container"),
                    ["instance", "container", "direction", "action"],
                    "Packets per second",
                ),
                rows(
                    "Rules of containers",
                    "pps",
                    "Packets that meet rules now, by node, container and direction." + MET,
                    top(RULES_OF_CONTAINERS, ["instance", "container", "direction", "rule"], "container"),
                    ["instance", "container", "direction", "rule"],
                    "Packets per second",
                ),
            ],
        },
    )
