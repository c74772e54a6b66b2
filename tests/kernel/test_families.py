# SPDX-License-Identifier: Apache-2.0
"""A probe in YAML alone for each family of hooks: how many events, with which labels, compared with what was done."""

import json
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.hooks.btf import Btf
from tests.kernel.conftest import built, lacks
from tests.kernel.daemon import Daemon, Samples, by, count

MISSED = "ebpf_exporter_events_missed_total"
ESRCH, EBADF, EINVAL = "-3", "-9", "-22"
GETPGID = {"x86_64": 121, "aarch64": 155}
OURS = 'comm == "families"'
LEVELS = (40, -5, 2, 1, 3, 100, 101, -100, 0, 7, -6)  # as families.c has them


def counter(**labels: str) -> dict[str, Any]:
    return {"type": "counter", "help": "A test.", "labels": labels}


def found(samples: Samples, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Returns the values of all series of a name by the values of labels, which must be all that they have."""
    result = {}
    for (metric, has), value in samples.items():
        if metric == name:
            own = dict(has)
            assert set(own) == set(labels)
            result[tuple(own[label] for label in labels)] = value
    return result


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("families.c", tmp_path_factory.mktemp("families"), "-rdynamic")


@pytest.fixture(scope="module")
def go(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same program with the section by which a Go program is known."""
    folder = tmp_path_factory.mktemp("go")
    (folder / "buildinfo").write_bytes(b"\xff Go buildinf:")
    made = folder / "go"
    add = f".go.buildinfo={folder / 'buildinfo'}"
    subprocess.run(["objcopy", "--add-section", add, str(binary), str(made)], check=True)
    return made


def of_programs(binary: Path) -> dict[str, Any]:
    """Probes on a program's own functions."""
    uprobe, uretprobe = f"uprobe:{binary}", f"uretprobe:{binary}"
    level = f"{uprobe}:level"
    gauge = {"type": "gauge", "help": "A test.", "value": "s64(arg0)"}
    return {
        "calls": {
            "attach": f"{uprobe}:typed",
            "metrics": {"ebpf_calls_total": counter(a="s32(arg0)", b="s64(arg1)", c="u8(arg2)", text="str(arg3, 16)")},
        },
        "returns": {"attach": f"{uretprobe}:typed", "metrics": {"ebpf_returns_total": counter(result="retval")}},
        "ints": {"attach": f"{uretprobe}:negative", "metrics": {"ebpf_ints_total": counter(result="s32(retval)")}},
        "spans": {
            "attach": {"start": f"{uprobe}:typed", "end": f"{uretprobe}:typed"},
            "where": "s32(arg0) < 0",
            "metrics": {
                "ebpf_spans_total": counter(a="s32(arg0)", result="retval", comm="comm"),
                "ebpf_span_seconds": {"type": "histogram", "help": "A test.", "value": "elapsed"},
            },
        },
        "nested": {
            "attach": {"start": f"{uprobe}:nested", "end": f"{uretprobe}:nested"},
            "metrics": {"ebpf_nested_total": counter(depth="s32(arg0)", result="s32(retval)")},
        },
        "pairs": {
            "attach": {"start": f"{uprobe}:begin", "end": f"{uprobe}:end"},
            "metrics": {"ebpf_pairs_total": counter(end="s32(arg0)", comm="comm")},
        },
        "levels": {
            "attach": level,
            "metrics": {
                "ebpf_level_last": gauge,
                "ebpf_level_max": {**gauge, "keep": "max"},
                "ebpf_level_by_sign": {**gauge, "keep": "max", "labels": {"negative": "s64(arg0) < 0"}},
                "ebpf_level_sum_total": {**counter(), "value": "s64(arg0)"},
                "ebpf_level_sizes": {
                    "type": "histogram",
                    "help": "A test.",
                    "value": "s64(arg0)",
                    "bounds": [1, 2.5, 7, 100],
                },
            },
        },
        "next": {
            "attach": ["tracepoint:syscalls:sys_enter_no_such_call", f"{uprobe}:negative"],
            "metrics": {"ebpf_next_total": counter(comm="comm")},
        },
    }


def of_processors() -> dict[str, Any]:
    """Probes of what is counted on a processor."""
    return {
        "faults": {
            "attach": "software:page-faults:1",
            "where": 'comm == "toucher"',
            "metrics": {"ebpf_faults_total": counter(comm="comm")},
        },
        "minor": {
            "attach": "software:minor-faults:10",
            "where": 'comm == "toucher"',
            "metrics": {"ebpf_minor_total": counter()},
        },
        "profile": {
            "attach": "profile:hz:99",
            "where": 'comm == "busy"',
            "metrics": {"ebpf_profile_total": counter(comm="comm", cpu="cpu")},
        },
        "every": {
            "attach": "profile:ms:5",
            "where": 'comm == "busy"',
            "metrics": {"ebpf_every_total": counter(comm="comm")},
        },
        "switches": {"attach": "software:context-switches:1", "metrics": {"ebpf_switches_total": counter(comm="comm")}},
        "cycles": {"attach": "hardware:cpu-cycles", "metrics": {"ebpf_cycles_total": counter()}},
    }


FAULTS_C = """
int on_fault(struct bpf_perf_event_data *ctx)
{
    struct in_c_faults_key key = {};
    char comm[16];

    bpf_get_current_comm(comm, sizeof(comm));
    if (__builtin_memcmp(comm, "toucher", 8))
        return 0;
    key.period = ctx->sample_period;
    key.inside = ctx->addr % 4096; /* each page is touched where it begins */
    in_c_faults_add(&key, 1);
    return 0;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Probes with C of their own."""
    made = tmp_path_factory.mktemp("probes")
    metric = {"type": "counter", "help": "A test.", "labels": {"period": "u64", "inside": "u64"}}
    declared = {
        "purpose": "A test.",
        "attach": {
            "on_fault": ["software:page-faults:1", {"hook": "hardware:stalled-cycles-frontend", "optional": True}]
        },
        "metrics": {"ebpf_in_c_faults_total": metric},
    }
    (made / "in_c.yaml").write_text(json.dumps(declared))
    (made / "in_c.c").write_text(FAULTS_C)
    return made


def of_calls() -> dict[str, Any]:
    """Probes on a system call, by tracepoints of both sorts."""
    entry, back = "tracepoint:syscalls:sys_enter_getpgid", "tracepoint:syscalls:sys_exit_getpgid"
    return {
        "enter": {"attach": entry, "where": OURS, "metrics": {"ebpf_enter_total": counter(pid="args.pid")}},
        "exit": {"attach": back, "where": OURS, "metrics": {"ebpf_exit_total": counter(ret="args.ret")}},
        "both": {
            "attach": {"start": entry, "end": back},
            "where": f"{OURS} and args.pid < -1000",
            "metrics": {"ebpf_both_total": counter(pid="args.pid", ret="args.ret")},
        },
        "raw_enter": {
            "attach": "rawtracepoint:sys_enter",
            "where": f"arg1 == {GETPGID[platform.machine()]} and {OURS}",
            "metrics": {"ebpf_raw_enter_total": counter(number="arg1")},
        },
        "raw_exit": {
            "attach": "rawtracepoint:sys_exit",
            "where": f"{OURS} and arg1 == {ESRCH}",
            "metrics": {"ebpf_raw_exit_total": counter(ret="arg1")},
        },
    }


Seen = tuple[Daemon, Samples]  # and the page after all that the program did


@pytest.fixture(scope="module")
def programs(binary: Path) -> Iterator[Seen]:
    with Daemon(of_programs(binary)) as daemon:
        for comm in ("families", "again"):
            subprocess.run([str(binary), comm, "calls"], check=True)
        yield daemon, daemon.samples()


@pytest.fixture(scope="module")
def processors(binary: Path, folder: Path) -> Iterator[Seen]:
    with Daemon({**of_processors(), "in_c": {}}, folder=folder) as daemon:
        subprocess.run([str(binary), "toucher", "faults"], check=True)
        yield daemon, daemon.samples()


@pytest.fixture(scope="module")
def system_calls(binary: Path) -> Iterator[Seen]:
    with Daemon(of_calls()) as daemon:
        subprocess.run([str(binary), "families", "kernel"], check=True)
        yield daemon, daemon.samples()


@pytest.mark.anywhere
def test_calls_with_their_arguments(programs: Seen) -> None:
    """uprobe: numbers as the C type that they are said to have, negative ones too; a text."""
    assert found(programs[1], "ebpf_calls_total", "a", "b", "c", "text") == {
        ("-3", str(2**40), "200", "first"): 2 * 101,
        ("7", "-11", "255", "second"): 2 * 103,
    }


@pytest.mark.anywhere
def test_what_functions_returned(programs: Seen) -> None:
    """uretprobe: a long as it is, an int by a cast."""
    assert found(programs[1], "ebpf_returns_total", "result") == {(str(-(2**40)),): 2 * 101, ("7",): 2 * 103}
    assert found(programs[1], "ebpf_ints_total", "result") == {("-9",): 2 * 107}


@pytest.mark.anywhere
def test_calls_with_what_they_returned(programs: Seen) -> None:
    """uprobe to uretprobe: arguments kept from the start; those for which the condition holds; each call's time."""
    _, samples = programs
    assert found(samples, "ebpf_spans_total", "a", "result", "comm") == {
        ("-3", str(-(2**40)), "families"): 101,
        ("-3", str(-(2**40)), "again"): 101,
    }
    assert count(samples, "ebpf_span_seconds_count") == 2 * 101
    assert 0 < count(samples, "ebpf_span_seconds_sum") < 60
    assert count(samples, MISSED, probe="spans") == 0


@pytest.mark.anywhere
def test_a_call_within_a_call_takes_the_place_of_the_outer(programs: Seen) -> None:
    """A thread has one start: the innermost call's. The ends of the others are counted as missed."""
    _, samples = programs
    assert found(samples, "ebpf_nested_total", "depth", "result") == {("0", "0"): 2 * 109}
    assert by(samples, "program", MISSED, probe="nested") == {"on_start": 0, "on_end": 2 * 109 * 3}


@pytest.mark.anywhere
def test_an_end_without_its_start_is_missed(programs: Seen) -> None:
    """And a start without its end gives way to the next."""
    _, samples = programs
    assert found(samples, "ebpf_pairs_total", "end", "comm") == {("-3", "families"): 113, ("-3", "again"): 113}
    assert by(samples, "program", MISSED, probe="pairs") == {"on_start": 0, "on_end": 2 * 13}


@pytest.mark.anywhere
def test_gauges_keep_the_last_or_the_most(programs: Seen) -> None:
    """Of numbers below 0 too."""
    _, samples = programs
    assert found(samples, "ebpf_level_last") == {(): LEVELS[-1]}
    assert found(samples, "ebpf_level_max") == {(): max(LEVELS)}
    assert found(samples, "ebpf_level_by_sign", "negative") == {
        ("true",): max(level for level in LEVELS if level < 0),
        ("false",): max(LEVELS),
    }


@pytest.mark.anywhere
def test_sums_and_bounds(programs: Seen) -> None:
    """Each bound is within its bucket; what is below 0 is nothing that a counter or a histogram could take."""
    _, samples = programs
    positive = [level for level in LEVELS if level >= 0]
    assert found(samples, "ebpf_level_sum_total") == {(): 2 * sum(positive)}
    assert found(samples, "ebpf_level_sizes_bucket", "le") == {
        (le,): 2 * sum(level <= float(le) for level in positive) for le in ("1.0", "2.5", "7.0", "100.0", "+Inf")
    }
    assert found(samples, "ebpf_level_sizes_sum") == {(): 2 * sum(positive)}


@pytest.mark.anywhere
def test_the_next_hook_where_one_is_not_here(programs: Seen) -> None:
    """What was tried is told, with the reason."""
    daemon, samples = programs
    assert found(samples, "ebpf_next_total", "comm") == {("families",): 107, ("again",): 107}
    status = daemon.status("next")
    assert (status["state"], status["mechanism"]) == ("running", "uprobe")
    assert "this kernel has no tracepoint:syscalls:sys_enter_no_such_call" in status["tried"][0]["reason"]


@pytest.mark.matrix
def test_tracepoints(system_calls: Seen) -> None:
    """Arguments of a system call have the sign of their C type, whatever is above their 32 bits."""
    _, samples = system_calls
    assert found(samples, "ebpf_enter_total", "pid") == {("-7",): 101, ("-2147483647",): 103}
    assert found(samples, "ebpf_exit_total", "ret") == {(ESRCH,): 204}
    assert found(samples, "ebpf_both_total", "pid", "ret") == {("-2147483647", ESRCH): 103}


@pytest.mark.matrix
def test_raw_tracepoints(system_calls: Seen) -> None:
    """Their arguments by number, in the types that the kernel's BTF has."""
    _, samples = system_calls
    assert found(samples, "ebpf_raw_enter_total", "number") == {(str(GETPGID[platform.machine()]),): 204}
    assert found(samples, "ebpf_raw_exit_total", "ret") == {(ESRCH,): 204}


@pytest.mark.anywhere
def test_software_events_are_counted_to_the_last(processors: Seen) -> None:
    """4,099 pages are touched under the name that is asked for; with a period of 10, a tenth of them is seen."""
    daemon, samples = processors
    assert found(samples, "ebpf_faults_total", "comm") == {("toucher",): 4099}
    # counters of 10 are each processor's, and all processes': of 4,099 faults they see 409, but for what others add
    assert 1 <= count(samples, "ebpf_minor_total") <= 4099 / 2
    assert count(samples, "ebpf_switches_total") > 0
    assert daemon.status("faults")["misses_unknown"] == ["on_event"]


@pytest.mark.anywhere
def test_software_events_in_c(processors: Seen) -> None:
    """The function has what perf gives: the period, and where the fault was."""
    daemon, samples = processors
    assert found(samples, "ebpf_in_c_faults_total", "period", "inside") == {("1", "0"): 4099}
    assert daemon.status("in_c")["attachments"][0] == ["on_fault", "software:page-faults:1"]


@pytest.mark.anywhere
def test_a_busy_process_is_seen_by_the_clock(processors: Seen, binary: Path) -> None:
    """By its name, on whichever processor it is; both by a rate and by an interval."""
    daemon, samples = processors
    assert count(samples, "ebpf_profile_total", comm="busy") == 0
    busy = subprocess.Popen([str(binary), "busy", "busy"], stdin=subprocess.PIPE)
    daemon.wait_for(lambda: count(daemon.samples(), "ebpf_profile_total", comm="busy") >= 3, "samples of a rate")
    daemon.wait_for(lambda: count(daemon.samples(), "ebpf_every_total", comm="busy") >= 3, "samples of an interval")
    busy.communicate()


@pytest.mark.anywhere
def test_hardware_events_or_why_not(processors: Seen) -> None:
    """Where there is a PMU it counts; where there is none, the probe says so."""
    daemon, _ = processors
    status = daemon.status("cycles")
    if status["state"] == "running":
        daemon.wait_for(lambda: count(daemon.samples(), "ebpf_cycles_total") > 0, "a million cycles")
    else:
        assert status["reason"] == (
            "cannot attach to hardware:cpu-cycles: no PMU of this machine counts that; virtual machines often have none"
        )


@pytest.mark.matrix
def test_what_cannot_be_attached_is_told(binary: Path, go: Path) -> None:
    """Each with its reason and the names that are near; and a return probe on a Go program, for it would crash."""
    none = {"ebpf_{}_total": counter()}
    attach: dict[str, Any] = {
        "symbol": f"uprobe:{binary}:nestde",
        "library": "uprobe:libnosuchthing:nested",
        "raw": "rawtracepoint:sys_entre",
        "point": "tracepoint:sched:sched_swtich",
        "kernel": "kprobe:find_task_by_vpdi",
        "traced": "fentry:find_task_by_vpdi",
        "go_return": f"uretprobe:{go}:nested",
        "go_span": {"start": f"uprobe:{go}:nested", "end": f"uretprobe:{go}:nested"},
        "go_entry": f"uprobe:{go}:nested",
        "too_often": "profile:hz:999999999",
    }
    probes = {
        name: {"attach": hook, "metrics": {key.format(name): value for key, value in none.items()}}
        for name, hook in attach.items()
    }
    with Daemon(probes) as daemon:
        states = {name: daemon.status(name)["state"] for name in attach}
        reasons = {name: daemon.status(name)["reason"] for name in attach}
    assert states == dict.fromkeys(attach, "failed") | {"go_entry": "running"}
    assert f"there is no symbol nestde in {binary}; did you mean nested" in reasons["symbol"]
    assert "there is no library and no program libnosuchthing here" in reasons["library"]
    assert re.search(
        r"rawtracepoint:sys_entre: this kernel has no such event; did you mean .*sys_enter", reasons["raw"]
    )
    assert "no tracepoint:sched:sched_swtich; did you mean sched_switch" in reasons["point"]
    assert re.search(
        r"this kernel has no kprobes|no function find_task_by_vpdi that can be probed; did you mean find_task_by_vpid",
        reasons["kernel"],
    )
    assert "no BTF of a function find_task_by_vpdi; did you mean find_task_by_vpid" in reasons["traced"]
    assert "moves its stacks" in reasons["go_return"]
    assert f"use uprobe:{go}:nested" in reasons["go_return"]
    assert "moves its stacks" in reasons["go_span"]
    assert re.search(r"at most \d+ Hz are allowed", reasons["too_often"])


# functions of the kernel


def first(function: str) -> str:
    """Returns what the kernel calls a function's first parameter."""
    known = Btf.load().function(function)
    assert known is not None
    return known.parameters[0][0]


def of_kernel() -> dict[str, Any]:
    """Probes on functions that system calls reach: of a task by its number, of locks on files, of listening."""
    pid = first("find_task_by_vpid")
    flags, shared = "args.filp.f_flags & 1027", "args.sock.sk.__sk_common"
    reuse = {"reuse": f"{shared}.skc_reuse", "port": f"{shared}.skc_reuseport"}
    result: dict[str, Any] = {}
    for entry, back in (("kprobe", "kretprobe"), ("fentry", "fexit")):
        locking = {"start": f"{entry}:fcntl_setlk", "end": f"{back}:fcntl_setlk"}
        result |= {
            f"{entry}_pid": {
                "attach": f"{entry}:find_task_by_vpid",
                "where": f"{OURS} and args.{pid} < 0",
                "metrics": {
                    f"ebpf_{entry}_pid_total": counter(
                        by_name=f"args.{pid}", by_number="s32(arg0)" if entry == "kprobe" else "arg0"
                    )
                },
            },
            f"{entry}_lock": {
                "attach": f"{entry}:fcntl_setlk",
                "where": OURS,
                "metrics": {
                    f"ebpf_{entry}_lock_total": counter(
                        flags=flags,
                        name="str(args.filp.f_path.dentry.d_name.name, 24)",
                        cmd="args.cmd",
                        fs="args.filp.f_inode.i_sb.s_id",
                    )
                },
            },
            f"{entry}_listen": {
                "attach": f"{entry}:inet_listen",
                "where": OURS,
                "metrics": {f"ebpf_{entry}_listen_total": counter(**reuse, backlog="args.backlog")},
            },
            f"{back}_listen": {
                "attach": f"{back}:inet_listen",
                "where": OURS,
                "metrics": {f"ebpf_{back}_listen_total": counter(error="retval")},
            },
            f"{entry}_span": {
                "attach": locking,
                "where": OURS,
                "metrics": {f"ebpf_{entry}_span_total": counter(flags=flags, result="retval")},
            },
        }
    # what was returned, with arguments that are still there
    result["fexit_lock"] = {
        "attach": "fexit:fcntl_setlk",
        "where": OURS,
        "metrics": {"ebpf_fexit_lock_total": counter(flags=flags, result="retval")},
    }
    return result


@pytest.fixture(scope="module")
def of_functions(binary: Path) -> Iterator[Seen]:
    with Daemon(of_kernel()) as daemon:
        subprocess.run([str(binary), "families", "kernel"], check=True)
        yield daemon, daemon.samples()


@pytest.fixture(params=["kprobe", "fentry"])
def family(request: pytest.FixtureRequest, of_functions: Seen) -> str:
    name = str(request.param)
    status = of_functions[0].status(f"{name}_pid")
    if status["state"] != "running":
        lacks({"kprobe": "kprobe+kretprobe", "fentry": "fexit"}[name], status["reason"])
    return name


def test_arguments_of_kernel_functions(of_functions: Seen, family: str) -> None:
    """An int below 0 is that by its name as well as by its number."""
    assert found(of_functions[1], f"ebpf_{family}_pid_total", "by_name", "by_number") == {
        ("-7", "-7"): 101,
        ("-2147483647", "-2147483647"): 103,
    }


def test_members_of_the_kernels_structures(of_functions: Seen, family: str) -> None:
    """Through pointers: a number, a text that is pointed to, and one in an array."""
    samples = of_functions[1]
    assert by(samples, "flags", f"ebpf_{family}_lock_total", cmd="6") == {"0": 107, "1026": 109}
    [name] = by(samples, "name", f"ebpf_{family}_lock_total")
    assert re.fullmatch(r"families-\w{6}", name)
    [filesystem] = by(samples, "fs", f"ebpf_{family}_lock_total")
    assert re.fullmatch(r"\w[\w-]*", filesystem)


def test_bit_fields_of_the_kernels_structures(of_functions: Seen, family: str) -> None:
    """Bits that share a byte, each by itself."""
    assert found(of_functions[1], f"ebpf_{family}_listen_total", "reuse", "port", "backlog") == {
        ("1", "0", "7"): 113,
        ("0", "1", "7"): 127,
        ("0", "0", "5"): 131,
    }


def test_what_kernel_functions_returned(of_functions: Seen, family: str) -> None:
    """An int by its type: an error is below 0. With what the call was given, kept from its start or still there."""
    samples = of_functions[1]
    back = {"kprobe": "kretprobe", "fentry": "fexit"}[family]
    assert found(samples, f"ebpf_{back}_listen_total", "error") == {("0",): 240, (EINVAL,): 131}
    assert found(samples, f"ebpf_{family}_span_total", "flags", "result") == {("0", EBADF): 107, ("1026", "0"): 109}
    if family == "fentry":
        assert found(samples, "ebpf_fexit_lock_total", "flags", "result") == {("0", EBADF): 107, ("1026", "0"): 109}


def test_a_program_cannot_have_the_kernels_memory_read() -> None:
    """An address of the kernel's, passed to a system call, reads as nothing; one of the program's own as its text."""
    probes = {
        "opened": {
            "attach": "tracepoint:syscalls:sys_enter_openat",
            "where": "comm == 'spy'",
            "metrics": {
                "ebpf_opened_total": {"type": "counter", "help": "A test.", "labels": {"file": "str(args.filename)"}}
            },
        }
    }
    with Daemon(probes) as daemon:
        script = (
            "import ctypes, os, platform\nlibc = ctypes.CDLL(None)\n"
            "openat = {'x86_64': 257, 'aarch64': 56}[platform.machine()]\n"
            "addresses = [int(line.split()[0], 16) for line in open('/proc/kallsyms') if ' linux_banner' in line]\n"
            "addresses += [0xffffffff82000000 + 4096 * page for page in range(50)]\n"
            "own = ctypes.create_string_buffer(b'/own')\nopen('/proc/self/comm', 'w').write('spy')\n"
            "for one in [*addresses, ctypes.addressof(own)]: libc.syscall(openat, -100, ctypes.c_void_p(one), 0)\n"
            "os._exit(0)"
        )
        subprocess.run(["/usr/bin/python3", "-c", script], check=True)
        files = by(daemon.samples(), "file", "ebpf_opened_total")
    assert files["/own"] == 1
    assert set(files) == {"/own", ""}
    assert files[""] >= 50
