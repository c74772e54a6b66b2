# SPDX-License-Identifier: Apache-2.0
"""Who reads, writes and opens which files, how long that takes, and what fails."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.source.panels import buckets, course, number, page, rows
from grafana.source.queries import rate, top, trend

UID = "ebpf-files"
BYTES, OPERATIONS = "ebpf_file_io_bytes_total", "ebpf_file_io_operations_total"
LATENCY, OPENS = "ebpf_file_io_latency_seconds_bucket", "ebpf_file_opens_total"
READ, WRITE, FAILED = 'op="read"', 'op="write"', 'result!="ok"'
ON_REQUEST = " Counted where the config's metrics name ebpf_file_io_latency_seconds."


def _quantile(share: float) -> str:
    return f"histogram_quantile({share}, {rate(LATENCY, ['le', 'op'])})"


def build() -> Dashboard:
    return page(
        UID,
        "eBPF / Files",
        "Reads, writes and opens of files, by process and file. From the probes file_io and file_opens.",
        {
            "": [
                number("Read", "Bps", "Bytes that read calls returned.", rate(BYTES, (), READ)),
                number("Written", "Bps", "Bytes that write calls took.", rate(BYTES, (), WRITE)),
                number("Operations", "ops", "Read and write calls that succeeded.", rate(OPERATIONS)),
                number("Opens", "ops", "Calls of open, openat, openat2 and creat.", rate(OPENS), width=6),
                number(
                    "Opens that fail",
                    "percentunit",
                    "Share of the opens that ended with an error.",
                    f"({rate(OPENS, (), FAILED)} or vector(0)) / {rate(OPENS)}",
                    width=6,
                ),
            ],
            "Reads and writes": [
                course("Bytes by operation", "Bps", "Bytes by operation.", {"{{op}}": rate(BYTES, ["op"])}),
                course(
                    "Operations by kind",
                    "ops",
                    "Calls that succeeded, by operation.",
                    {"{{op}}": rate(OPERATIONS, ["op"])},
                ),
                course(
                    "Processes by bytes",
                    "Bps",
                    "Bytes read and written by the processes that are the busiest now.",
                    {"{{comm}}": trend(BYTES, ["comm"], "comm")},
                    stacked=True,
                ),
                course(
                    "Processes by operations",
                    "ops",
                    "Reads and writes of the processes that are the busiest now.",
                    {"{{comm}}": trend(OPERATIONS, ["comm"], "comm")},
                    stacked=True,
                ),
                rows(
                    "Files by bytes",
                    "Bps",
                    "The files with the most bytes read or written now, by node, operation and process.",
                    top(BYTES, ["instance", "op", "comm", "file"], "comm"),
                    ["instance", "op", "comm", "file"],
                    "Bytes per second",
                ),
                rows(
                    "Files by operations",
                    "ops",
                    "The files with the most reads or writes now, by node, operation and process.",
                    top(OPERATIONS, ["instance", "op", "comm", "file"], "comm"),
                    ["instance", "op", "comm", "file"],
                    "Operations per second",
                ),
            ],
            "Latency": [
                buckets(
                    "How long reads take",
                    "s",
                    "Time in read calls that succeeded." + ON_REQUEST,
                    rate(LATENCY, ["le"], READ),
                    width=8,
                ),
                buckets(
                    "How long writes take",
                    "s",
                    "Time in write calls that succeeded." + ON_REQUEST,
                    rate(LATENCY, ["le"], WRITE),
                    width=8,
                ),
                course(
                    "Half and 99 of 100 take at most",
                    "s",
                    "Quantiles of the time in calls, as far as the buckets (powers of two) tell." + ON_REQUEST,
                    {"half {{op}}": _quantile(0.5), "99 of 100 {{op}}": _quantile(0.99)},
                    width=8,
                ),
            ],
            "Opens of files": [
                course(
                    "Opens by result",
                    "ops",
                    "ok, or the error's name.",
                    {"{{result}}": rate(OPENS, ["result"])},
                    stacked=True,
                ),
                course(
                    "Opens by process",
                    "ops",
                    "Opens of the processes that are the busiest now.",
                    {"{{comm}}": trend(OPENS, ["comm"], "comm")},
                    stacked=True,
                ),
                rows(
                    "Who fails to open",
                    "ops",
                    "The processes whose opens fail the most now, by node and error.",
                    top(OPENS, ["instance", "comm", "result"], "comm", FAILED),
                    ["instance", "comm", "result"],
                    "Opens per second",
                    width=24,
                ),
            ],
        },
    )
