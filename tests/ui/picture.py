# SPDX-License-Identifier: Apache-2.0
"""Makes docs/images/status.png: the status page over a host that is made up. Run: python -m tests.ui.picture"""

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from exporter import __version__
from exporter.web.page import PAGE
from tests.kernel.daemon import ROOT
from tests.ui.browser import Browser

BEGAN = 1_750_000_000.0
READS = 120

# name, mechanism, purpose, events a second, ns an event, series of a thousand
PROBES = [
    ("file_io", "fexit", "Bytes and operations of reads and writes of files, by process and file.", 18_400, 152, 731),
    ("file_opens", "tracepoint", "Files opened (open, openat, openat2, creat), by process and result.", 2_310, 184, 96),
    ("shell_commands", "uprobe+uretprobe", "Commands typed into an interactive bash, by user and word.", 0.2, 884, 17),
    ("process_execs", "tracepoint", "Programs executed, by user and by the name of the new program.", 36, 731, 58),
    ("xdp", "xdp", "Packets and bytes received by an interface, by what XDP did with them and by protocol.", 0, 0, 0),
]  # fmt: skip
FILES = [
    ("read", "postgres", "16384", 41_900_000, 5_115),
    ("write", "postgres", "000000010000002A0000009F", 12_600_000, 1_538),
    ("read", "nginx", "app.4f21c9.js", 5_240_000, 80),
    ("write", "journald", "system.journal", 1_130_000, 412),
    ("write", "nginx", "access.log", 402_000, 2_010),
    ("read", "prometheus", "000004", 371_000, 12),
    ("write", "rsync", ".invoices-2026.tar.x7Qd", 262_000, 8),
    ("read", "(other)", "(other)", 31_500, 44),
]


def totals(rate: float, cost: float) -> list[tuple[float, int, float]]:
    """Returns a history whose rate goes up and down around one, and ends at it."""
    chance, found, events, drift = random.Random(rate), [], 0.0, 0.0
    for number in range(READS):
        found.append((BEGAN + 5 * number, round(events), events * cost / 1e9))
        drift = 0.9 * drift + chance.gauss(0, 0.1)
        peak = chance.random() if chance.random() < 0.06 else 0.0
        events += 5 * rate * (1 + max(drift, -0.8) + peak if number < READS - 3 else 1)
    return found


def overview() -> dict[str, Any]:
    probes: list[dict[str, Any]] = []
    for name, mechanism, purpose, rate, cost, series in PROBES:
        history = totals(rate, cost)
        probes.append(
            {
                "name": name, "mechanism": mechanism, "purpose": purpose, "state": "running", "reason": "",
                "details": "", "tried": [], "attachments": [], "misses_unknown": [], "declaration": "", "metrics": [],
                "events_total": history[-1][1], "run_seconds_total": history[-1][2], "missed_total": 0,
                "overflowed_total": 0, "folded_total": 0, "series": series, "max_series": 1000, "max_cpu_percent": 5.0,
                "history": history,
            }
        )  # fmt: skip
    probes[-1] |= {"state": "degraded", "reason": "there is no default route: name the interfaces", "history": []}
    return {
        "version": __version__, "host": "db1.example.org", "time": probes[0]["history"][-1][0], "interval": 5.0,
        "config_loaded": BEGAN, "config_good": True, "web_config_good": True, "probes": probes,
    }  # fmt: skip


def series(looks: int) -> dict[str, Any]:
    metrics = [
        {
            "name": f"ebpf_file_io_{name}_total", "type": "counter", "labels": ["op", "comm", "file"], "help": help_,
            "series": [[file[:3], (300 + 2 * looks) * file[at]] for file in FILES],
        }
        for name, at, help_ in (
            ("bytes", 3, "Bytes that read and write calls returned or took."),
            ("operations", 4, "Read and write calls."),
        )
    ]  # fmt: skip
    return {"time": BEGAN + 5 * READS + 2 * looks, "name": "file_io", "metrics": metrics}


class Handler(BaseHTTPRequestHandler):
    looks = 0

    def do_GET(self) -> None:
        if self.path == "/":
            body = PAGE
        elif self.path == "/probes":
            body = json.dumps(overview()).encode()
        else:
            Handler.looks += 1
            body = json.dumps(series(self.looks)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if body is PAGE else "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    try:
        with Browser() as browser:
            browser.open(f"http://127.0.0.1:{server.server_port}/#file_io", width=1040, height=790)
            browser.when("document.querySelector('#top tbody tr')?.cells[3].textContent === '40.0 MiB'")
            browser.screenshot(str(ROOT / "docs" / "images" / "status.png"))
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
