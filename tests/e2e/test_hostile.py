# SPDX-License-Identifier: Apache-2.0
"""Hostile local users: whatever they call things, and however many there are, each is counted and no line is theirs.

What such a user does is done as nobody; the exporter is started by root.
"""

import ctypes
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.kernel.conftest import top
from tests.kernel.daemon import ROOT, Daemon, Samples, by, count, meanwhile, parsed
from tests.kernel.test_cgroups import TOTAL, apart, call, go, probe
from tests.kernel.test_commands import COMMANDS, EXECS, terminal

__all__ = ["top"]

NOBODY = 65534
OPENS, BYTES = "ebpf_file_opens_total", "ebpf_file_io_bytes_total"
_PR_SET_NAME = 15
READ = "63" if os.uname().machine == "aarch64" else "0"  # the system call's number
_libc = ctypes.CDLL(None, use_errno=True)

# what would lie, if it got through: lines, ends of a page or a label, formats, terminals' orders, halves of characters
HOSTILE = (
    *(b'"} 1\nup{x="', b'",le="+Inf', b"\n# EOF\n", b"\nebpf_lie 7\n", b"\r\nup 1\r\n", b"\\", b'\\"', b"\\n", b"}"),
    *(b"%s%d%n", b"{}", b"(other)", b"(unknown)", b"\xff\xfe", b"\xe2\x80", b"\xe2\x80\xa8x", b"\xf0\x9f\x98\x80"),
    *(b"\xed\xa0\x80", b"\xc0\xaf", b"\xc2\x85", b"\x1b]0;x\x07", b"\x1b[2J", b" ", b"-", b"''", b"</td><script>"),
)
# and each byte there is
NAMES = tuple(dict.fromkeys([*HOSTILE, *(b"n" + bytes([number]) for number in range(1, 256))]))
LINE = re.compile(r'(ebpf|process)_\w+(\{\w+="([^"\\\n]|\\["\\n])*"(,\w+="([^"\\\n]|\\["\\n])*")*\})? [-+.\w]+')


def lawful(daemon: Daemon) -> Samples:
    """Returns the values of a page of which every line is ours, in both formats, with nothing that a terminal obeys."""
    _, body = daemon.get("/metrics", accept="application/openmetrics-text;version=1.0.0")
    for family in parse_openmetrics(body.decode()):  # type: ignore[no-untyped-call]
        assert family.name.startswith(("ebpf_", "process_")), family.name
    page = daemon.page()
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", page) is None
    assert [line for line in page.removesuffix("\n").split("\n") if line[0] != "#" and not LINE.fullmatch(line)] == []
    return parsed(page)


def shown(name: bytes) -> str:
    """A name as the page has it, when a parser has undone the escapes."""
    text = name.decode("utf-8", "backslashreplace")
    spelled = {0x2028: "\\u2028", 0x2029: "\\u2029", **{n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160))}}
    return text.translate({**spelled, 10: "\n"})


def times(at: int) -> int:
    return 1 + at % 7


def expected(names: tuple[bytes, ...]) -> dict[str, float]:
    """What is counted where the at-th name is met so many times; some names read alike."""
    sums: Counter[str] = Counter()
    for at, name in enumerate(names):
        sums[shown(name)] += times(at)
    return dict(sums)


def as_nobody(work: Callable[[], None]) -> None:
    """Does something in a process of its own, of a user without any rights."""

    def without_rights() -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        work()

    apart(without_rights)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of nobody's."""
    with tempfile.TemporaryDirectory() as made:
        os.chown(made, NOBODY, NOBODY)
        yield Path(made)


def test_any_bytes_in_comm(folder: Path) -> None:
    """A process may call itself what it likes: each name has its number, and nothing else is on the page."""

    def work() -> None:
        (folder / "hostile").touch()
        os.chdir(folder)
        for at, name in enumerate(names):
            _libc.prctl(_PR_SET_NAME, name, 0, 0, 0)
            for _ in range(times(at)):
                os.close(os.open("hostile", os.O_RDONLY))

    names = tuple(dict.fromkeys(name[:15] for name in (*NAMES, b"", "é".encode() * 8)))
    with Daemon({"file_opens": {"labels": ["comm", "file", "result"], "max_series": 100_000}}) as daemon:
        as_nobody(work)
        samples = lawful(daemon)
    assert by(samples, "comm", OPENS, file="hostile") == expected(names)


def test_any_bytes_in_names_of_files(folder: Path) -> None:
    """Of files that are opened and written."""

    def work() -> None:
        os.chdir(folder)
        _libc.prctl(_PR_SET_NAME, b"hostile", 0, 0, 0)
        for at, name in enumerate(names):
            for _ in range(times(at)):
                fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
                os.write(fd, b"x")
                os.close(fd)

    long = ("é".encode() * 100, b"x" * 255)
    names = tuple(name for name in (*NAMES, *long) if b"/" not in name)
    probes = {
        "file_opens": {"labels": ["comm", "file", "result"], "max_series": 100_000},
        "file_io": {"labels": ["op", "comm", "file"], "metrics": [BYTES], "max_series": 100_000},
    }
    with Daemon(probes) as daemon:
        as_nobody(work)
        samples = lawful(daemon)
    cut = tuple(name[:63] for name in names)
    assert by(samples, "file", OPENS, comm="hostile", result="ok") == expected(cut)
    assert by(samples, "file", BYTES, comm="hostile", op="write") == expected(cut)


def test_any_bytes_in_names_of_programs(folder: Path) -> None:
    """Of programs that are executed."""

    def work() -> None:
        os.chdir(folder)
        for at, name in enumerate(names):
            os.link("program", name)
            for _ in range(times(at)):
                if (pid := os.fork()) == 0:
                    os.execv(b"./" + name, [b"x"])
                assert os.waitpid(pid, 0)[1] == 0

    shutil.copy("/bin/true", folder / "program")
    os.chown(folder / "program", NOBODY, NOBODY)
    names = tuple(name for name in NAMES if b"/" not in name)
    with Daemon({"process_execs": {}}) as daemon:
        as_nobody(work)
        samples = lawful(daemon)
    executed = by(samples, "comm", EXECS, user="nobody")  # of programs of other names too, on a host that has such
    assert {name: executed.get(name) for name in expected(names)} == expected(names)


def built(source: str, folder: Path, *flags: str) -> Path:
    """Compiles a C file that is beside this one. Returns what was made, in a folder."""
    made = folder / Path(source).stem
    subprocess.run(["gcc", "-O1", "-Wall", *flags, "-o", made, Path(__file__).with_name(source)], check=True)
    return made


def type_in_bash(folder: Path, data: bytes, **more: str) -> None:
    """Has a bash of nobody's return lines, each with a NUL behind it, as if they had been typed."""
    typist = built("typist.c", folder, "-shared", "-fPIC")
    (folder / "typed").write_bytes(data)
    environment = {"LD_PRELOAD": str(typist), "TYPED": str(folder / "typed"), **more}
    subprocess.run(["/bin/bash", "-c", ":"], env=environment, user=NOBODY, group=NOBODY, check=True)


def first_word(line: bytes) -> bytes:
    """What is shown of a line: up to what may be the first of a secret."""
    found = re.match(rb"[ \t]*(.[^\0 \t\n;|&<>()'\"`$=]*=?)", line, re.DOTALL)
    assert found is not None
    word = found[1]
    return word[:1] if word[:1] in b"\n;|&<>()'\"`$=" else word[:63]


def test_any_bytes_in_commands(folder: Path) -> None:
    """Lines that a bash returns may be of any bytes."""
    beginnings = tuple(bytes([number]) + b"a b" for number in range(1, 256))
    lines = tuple(line for line in (*NAMES, *beginnings) if line.strip(b" \t"))
    sums: Counter[str] = Counter()
    for at, line in enumerate(lines):
        sums[shown(first_word(line))] += times(at)
    with Daemon({"shell_commands": {}}) as daemon:
        type_in_bash(folder, b"".join((line + b"\0") * times(at) for at, line in enumerate(lines)))
        samples = lawful(daemon)
    assert by(samples, "command", COMMANDS, user="nobody") == sums


def test_any_bytes_in_names_of_cgroups(top: bytes, tmp_path: Path) -> None:
    """A user to whom a cgroup was delegated makes others in it."""

    def work() -> None:
        for at, name in enumerate(names):
            os.mkdir(top + b"/" + name)  # noqa: PTH102
            go(top + b"/" + name)
            call(times(at))
            go(top)
            os.rmdir(top + b"/" + name)  # noqa: PTH106

    def delegated() -> None:
        go(top)
        for path in (top, top + b"/cgroup.procs"):
            os.chown(path, NOBODY, NOBODY)
        as_nobody(work)

    names = tuple(name for name in NAMES if b"/" not in name and b"\n" not in name)  # which the kernel does not allow
    with Daemon({"calls": {}}, probe(tmp_path, "expression")) as daemon:
        apart(delegated)
        samples = lawful(daemon)
    base = shown(b"/" + os.path.basename(top) + b"/")  # noqa: PTH119
    assert by(samples, "cgroup", TOTAL) == {base + name: value for name, value in expected(names).items()}


def test_a_fork_bomb_of_execs(folder: Path) -> None:
    """A program that forks and executes itself without end, within the limit of its processes: each is counted, and
    scrapes go on."""
    most, pages = 5_003, 0
    bomb, counter = built("bomb.c", folder), folder / "counter"
    counter.write_bytes(bytes(8))
    os.chown(counter, NOBODY, NOBODY)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (200, 200))

    def scrape() -> None:
        nonlocal pages
        pages += bool(daemon.page())

    with Daemon({"process_execs": {}, "file_opens": {}}) as daemon:
        reader, writer = os.pipe()
        with meanwhile(scrape, 0.05):
            subprocess.run(
                [bomb, counter, str(most)],
                user=NOBODY, group=NOBODY, extra_groups=[], preexec_fn=limited, pass_fds=(writer,), check=True,
            )  # fmt: skip
            os.close(writer)
            assert os.read(reader, 1) == b""  # the last of them has ended
            os.close(reader)
        samples = lawful(daemon)
    executed = int.from_bytes(counter.read_bytes(), "little")
    assert executed >= most
    assert count(samples, EXECS, user="nobody", comm="bomb") == executed
    assert count(samples, "ebpf_exporter_worker_restarts_total") == 0
    assert pages > 0


def test_no_secret_is_on_a_page(folder: Path) -> None:
    """With every probe as it is by default: no argument, nothing of an environment, nothing that is typed behind a
    command."""
    probes = ("file_io", "file_opens", "process_execs", "shell_commands")
    with Daemon({name: {} for name in probes}) as daemon:
        type_in_bash(folder, b"mysql -phunter2\0PASSWORD=hunter2 true\0'hunter2'\0", PASSWORD="hunter2")
        for _ in range(3):
            subprocess.run(
                ["/bin/sh", "-c", "cat /etc/passwd >/dev/null; true", "--password=hunter2"],
                env={"PASSWORD": "hunter2"}, user=NOBODY, group=NOBODY, check=True,
            )  # fmt: skip
        samples = lawful(daemon)
        pages = b"".join(daemon.get(path)[1] for path in ("/metrics", "/probes", "/"))
        log = daemon.log()
    assert by(samples, "command", COMMANDS, user="nobody") == {"mysql": 1, "PASSWORD=": 1, "'": 1}
    assert count(samples, EXECS, user="nobody", comm="cat") >= 3
    assert b"hunter2" not in pages
    assert "hunter2" not in log


@pytest.mark.parametrize(
    ("kept_in", "words"),
    [
        ("lru_hash", {"first": 1, "read": 1, "last": 1, "(other)": 0}),
        ("hash", {"first": 0, "read": 0, "last": 0, "(other)": 4}),
    ],
    ids=["as it is", "where none gives way"],
)
def test_shells_that_are_killed_while_they_read(kept_in: str, words: dict[str, float], tmp_path: Path) -> None:
    """They leave what is kept of them, and others' commands are shown all the same. If there were no room for those,
    what another user types, a password perhaps, would be counted under (other), not shown."""
    for name in ("shell_commands.c", "shell_commands.yaml"):
        text = (ROOT / "bpf" / name).read_text()
        for old, new in (("#define THREADS 10240", "#define THREADS 64"), ('"lru_hash"', f'"{kept_in}"')):
            assert text.count(old) == name.endswith(".c")
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
    with Daemon({"shell_commands": {}}, folder=tmp_path) as daemon:
        for _ in range(100):
            kill_while_it_reads()
        with terminal("/bin/bash", "--norc", "--noprofile", "-i") as shell:
            for line in ("first one", "read -es PASSWORD\nhunter2 is typed", "last one"):
                shell.type(line)
        page = daemon.page()
        samples = lawful(daemon)
    found = by(samples, "command", COMMANDS)
    typed = {word: found.get(word, 0) for word in ("first", "read", "last", "(other)")}
    # others may type something as well, which is (other) where nothing else is
    assert {**typed, "(other)": min(typed["(other)"], words["(other)"])} == words
    assert "hunter2" not in page


def kill_while_it_reads() -> None:
    """Has nobody start a shell, and kill it in its `read`."""
    with subprocess.Popen(
        ["/bin/bash", "-c", "read"], stdin=subprocess.PIPE, user=NOBODY, group=NOBODY, cwd="/"
    ) as shell:
        # it reads from descriptor 0
        while Path(f"/proc/{shell.pid}/syscall").read_text().split()[:2] != [READ, "0x0"]:
            assert shell.poll() is None
        shell.kill()
