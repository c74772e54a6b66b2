# SPDX-License-Identifier: Apache-2.0
"""Pages of a real exporter on a host at work, and a server that gives them to Prometheus as those of many hosts."""

import gzip
import os
import pty
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.kernel.daemon import Daemon, meanwhile

# stands in what a workload makes up, and becomes the host's own when the page is served: no two hosts share such a name
HOST = "host0000"
NAMES = 1_200  # of files, processes and commands: more than a metric has series
PAGES = 20  # of a host that is simulated
WARM_SECONDS = 20.0

Work = Callable[[Path], None]


@dataclass(frozen=True)
class Recording:
    """A host's pages, one after the other, and the mean length of one when it is compressed."""

    pages: tuple[bytes, ...]
    series: int  # of the last page
    of_itself: int  # of them, the exporter's own
    compressed: float


def at_work(folder: Path) -> None:
    """As when programs are built: a compiler, a search through a thousand files, and a shell's small programs."""
    source = folder / "program.c"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("built") < 0; }\n')
    script = f"""
        for i in 1 2 3 4 5; do gcc -O2 -o {folder}/program {source} && {folder}/program; done
        grep -rl --include='*.py' supervisor /usr/lib/python3 | sort | head -100 | xargs wc -l
        find /etc -type f | xargs cat 2>/dev/null | gzip | wc -c; date; id; uname -a; cat /etc/nothing-here
    """
    subprocess.run(["sh", "-c", script], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def all_budgets(folder: Path) -> None:
    """More names than a metric has series: of processes and files, of programs, of commands at a prompt."""
    names = [f"{HOST}-{number:05}" for number in range(NAMES)]
    for name in names:
        Path("/proc/thread-self/comm").write_text(name[:15])
        with (folder / name).open("w+") as file:
            file.write("some")
            file.seek(0)
            file.read()
        with suppress(FileNotFoundError):
            (folder / f"{name}.none").open()
    for name in names:
        program = folder / f"{name}.run" / name
        if not program.exists():
            program.parent.mkdir()
            program.symlink_to("/bin/true")
        subprocess.run([program], check=True)
    _type(names)


def _type(commands: list[str]) -> None:
    """Types commands at the prompt of an interactive bash; most of them it does not find."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
    reader = threading.Thread(target=_read, args=(terminal,))
    reader.start()
    for command in [*commands, "exit"]:
        os.write(terminal, f"{command}\n".encode())
    os.waitpid(pid, 0)
    reader.join()
    os.close(terminal)


def _read(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # the other end is closed
        pass


def record(work: Work, daemon: Daemon, folder: Path, count: int, pace: float) -> Recording:
    """Returns so many pages, one every so many seconds, of a daemon while its host does a work again and again."""
    pages, compressed = [], 0
    with meanwhile(lambda: work(folder)):
        time.sleep(WARM_SECONDS)
        for _ in range(count):
            time.sleep(pace)
            pages.append(daemon.get("/metrics")[1])
            compressed += len(daemon.get("/metrics", accept_encoding="gzip")[1])
    lines = [line for line in pages[-1].splitlines() if line and not line.startswith(b"#")]
    own = [line for line in lines if not line.startswith(b"ebpf_") or line.startswith(b"ebpf_exporter_")]
    return Recording(tuple(pages), len(lines), len(own), compressed / count)


@dataclass
class Fleet:
    """Many hosts with one host's pages: each is at another of them, and a page further at each scrape interval. After
    the last comes the first: to Prometheus, an exporter that was restarted."""

    recording: Recording
    hosts: int
    interval: float
    began: float = field(default_factory=time.monotonic)

    def page(self, host: int) -> bytes:
        pages = self.recording.pages
        step = int((time.monotonic() - self.began) / self.interval) + host * len(pages) // self.hosts
        return pages[step % len(pages)].replace(HOST.encode(), b"host%04d" % host)


@contextmanager
def served(fleet: Fleet) -> Iterator[int]:
    """Serves the hosts' pages, /0 and on, meanwhile; the port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = gzip.compress(fleet.page(int(self.path[1:])), 1)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # Prometheus ends
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
