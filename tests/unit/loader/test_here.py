# SPDX-License-Identifier: Apache-2.0
"""loader/here.py: expressions against what a host's hooks give: a tracefs made of files, and the kernel's own BTF."""

import platform
from pathlib import Path

import pytest

from exporter import catalog, config
from exporter.errors import HookError
from exporter.hooks import btf, tracefs
from exporter.loader import here
from exporter.loader.here import Comparison
from exporter.probe import Probe
from tests.unit.conftest import Write

FORMAT = """\
name: sent
ID: 1
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;

\tfield:__u16 family;\toffset:8;\tsize:2;\tsigned:0;
\tfield:char name[16];\toffset:16;\tsize:16;\tsigned:0;
\tfield:char path[200];\toffset:32;\tsize:200;\tsigned:0;
"""
KERNEL = f" on kernel {platform.release()}"
HAS_BTF = pytest.mark.skipif(not (btf.FOLDER / "vmlinux").exists(), reason="this kernel has no BTF")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tracefs with one event, net:sent."""
    root = tmp_path / "tracing"
    (root / "events" / "net" / "sent").mkdir(parents=True)
    (root / "events" / "net" / "sent" / "format").write_text(FORMAT)
    monkeypatch.setattr(tracefs, "ROOTS", (root,))
    return tmp_path


def probe(write: Write, attach: str, label: str = "comm", **more: str) -> Probe:
    """A probe of one counter with one label, in a config; its hooks are in line 3, the label in line 7."""
    lines = [f"    {key}: {value}" for key, value in more.items()]
    text = "\n".join(
        [
            "probes:",
            "  p:",
            f"    attach: {attach}",
            "    metrics:",
            "      ebpf_p_total:",
            "        {type: counter, help: Help., labels: {",
            f"        l: {label}}}}}",
            *lines,
        ]
    )
    [found] = catalog.load(config.load(write("config.yaml", text + "\n")))
    return found


def test_what_the_format_says(write: Write) -> None:
    """An expression that names what the event has is good."""
    assert here.compare(probe(write, "tracepoint:net:sent", "args.family", where="args.name == 'lo'")) == Comparison()


def test_what_the_format_contradicts(write: Write, folder: Path) -> None:
    """Each expression that the kernel's own format contradicts is an error with its line, and says of which kernel."""
    found = here.compare(probe(write, "tracepoint:net:sent", "args.famly", where="args.name == 3"))
    assert [str(problem).replace(f"{folder}/", "") for problem in found.problems] == [
        "config.yaml:7: probes.p.metrics.ebpf_p_total.labels.l: args.famly: sent has family, name, path; "
        f"did you mean family?{KERNEL}",
        f"config.yaml:8: probes.p.where: args.name is a text, where a number must be{KERNEL}",
    ]
    assert (found.absent, found.unread) == ((), ())


@pytest.mark.parametrize(
    ("attach", "reason"),
    [
        ("tracepoint:net:sent_", "this kernel has no tracepoint:net:sent_; did you mean sent?"),
        ("uprobe:libabsent:f", "there is no library and no program libabsent here"),
        ("uprobe:/absent:f", "there is no /absent here"),
        ("usdt:/absent:a:b", "there is no /absent here"),
        ("{start: 'tracepoint:net:sent', end: 'tracepoint:net:sent_'}", "this kernel has no tracepoint:net:sent_"),
        pytest.param("rawtracepoint:sched_switchh", "this kernel has no rawtracepoint:sched_switchh", marks=HAS_BTF),
        pytest.param("fexit:no_such_fun", "fexit:no_such_fun: this kernel has no function no_such_fun", marks=HAS_BTF),
    ],
)
def test_hooks_that_are_not_here(write: Write, attach: str, reason: str) -> None:
    """They are no errors, but told: the config may be meant for another host."""
    found = here.compare(probe(write, attach))
    assert (found.problems, found.unread) == ((), ())
    assert [one[: len(reason)] for one in found.absent] == [reason]


def test_a_tracefs_that_is_not_there(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be read is not compared: it is neither good nor bad, and why is told."""
    monkeypatch.setattr(tracefs, "ROOTS", (Path("/nowhere"),))
    found = here.compare(probe(write, "tracepoint:net:sent", "args.famly"))
    assert found == Comparison(unread=("tracefs is not mounted: mount -t tracefs tracefs /nowhere",))


def test_a_kernel_without_btf(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """What functions are given can't be known without BTF, so nothing that is said of it is wrong."""

    def fail() -> None:
        raise HookError("no BTF")

    monkeypatch.setattr(here, "_btf", fail)
    assert here.compare(probe(write, "kprobe:vfs_read", "args.nonsense")) == Comparison(unread=("no BTF",))


def test_one_alternative_that_holds(write: Write) -> None:
    """Where one alternative holds, what is wrong with others is nothing to be told of."""
    attach = "[tracepoint:net:absent, tracepoint:net:sent]"
    assert here.compare(probe(write, attach, "args.family")) == Comparison()


@HAS_BTF
def test_one_alternative_that_cannot_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may hold, as it can't be read, keeps the others from being an error."""
    monkeypatch.setattr(tracefs, "ROOTS", (Path("/nowhere"),))
    found = here.compare(probe(write, "[fexit:vfs_read, tracepoint:net:sent]", "args.family"))
    assert (found.problems, len(found.unread)) == ((), 1)


@HAS_BTF
def test_members_by_btf(write: Write) -> None:
    """What is wrong far down in the kernel's structures is an error too."""
    assert here.compare(probe(write, "fexit:vfs_read", "args.file.f_inode.i_mode")) == Comparison()
    [problem] = here.compare(probe(write, "fexit:vfs_read", "args.file.f_inode.i_mod")).problems
    assert problem.line == 7
    assert "i_mod: struct inode * has " in problem.message
    [problem] = here.compare(probe(write, "fexit:vfs_read", "args.count.nonsense")).problems
    assert "has no members" in problem.message


def test_what_no_single_expression_is_to_blame_for(write: Write, folder: Path) -> None:
    """That all labels together do not fit into a program is an error of the probe's."""
    one = probe(write, "tracepoint:net:sent", "args.path, m: 'str(args.path, 199)'")
    [problem] = here.compare(one).problems
    assert problem.path == folder / "config.yaml"
    assert "bytes of a program's stack" in problem.message


def test_the_source_of_expressions(write: Write) -> None:
    """The C is that for this host, with the event's own offsets."""
    text, remarks = here.source(probe(write, "tracepoint:net:sent", "args.family"))
    assert remarks == []
    assert "#define WITH_l 1" in text
    assert "int on_event(void *ctx)" in text
    assert "(u8 *)ctx + 8)" in text


def test_the_source_where_the_hook_is_not_here(write: Write) -> None:
    """It is shown all the same, without what only the hook can tell; and why is told."""
    text, [remark] = here.source(probe(write, "tracepoint:net:absent", "args.family"))
    assert "key->l = 0;" in text
    assert remark.startswith("this kernel has no tracepoint:net:absent")
    text, [remark] = here.source(probe(write, "[tracepoint:net:absent, tracepoint:net:sent]", "args.family"))
    assert "int on_event_2(void *ctx)" in text
    assert remark.startswith("without tracepoint: this kernel has no tracepoint:net:absent")


def test_the_source_of_c() -> None:
    """It is what is generated, then the C as it is written, with its own lines."""
    one = catalog.read(catalog.SHIPPED / "process_execs.yaml")
    text, remarks = here.source(one)
    assert one.source is not None
    assert remarks == []
    assert text.endswith(f'#line 1 "{one.source}"\n{one.source.read_text()}\n')
    assert here.compare(one) == Comparison()
