# SPDX-License-Identifier: Apache-2.0
"""Probes in YAML at random, up to all that a program can hold: what check takes, the compiler and the kernel take."""

import os
import sys
import traceback
import warnings
from random import Random
from typing import Any

import pytest

from exporter.errors import CompileError, ConfigError
from exporter.libbpf import map_create
from exporter.loader import attach, codegen, context, headers, script
from exporter.loader.bytecode import relocate
from exporter.loader.compile import compile_source
from exporter.probe import map_entries
from tests.declared import declaration, probe

pytestmark = pytest.mark.anywhere

PROGRAMS = int(os.environ.get("EBPF_EXPORTER_TEST_PROGRAMS", "16"))

SCHED = ("args.prev_pid", "args.prev_prio", "args.prev_state", "args.next_pid", "pid", "tid", "uid", "cpu")


def _number(at: int) -> str:
    """An expression that is like no other."""
    return f"{SCHED[at % 8]} * {at + 3} / {SCHED[at % 7]} ^ {SCHED[at % 5]} - {at}"


def _counter(labels: dict[str, str]) -> dict[str, Any]:
    return {"ebpf_p_total": {"type": "counter", "help": "H.", "labels": labels}}


# what once was too much for the compiler or the verifier
HEAVY: dict[str, dict[str, Any]] = {
    "numbers": {"metrics": _counter({f"l{at}": _number(at) for at in range(30)})},
    "truths": {"metrics": _counter({f"l{at}": f"{SCHED[at % 8]} > {at}" for at in range(100)})},
    "a sum of truths": {
        "where": " + ".join(f"({SCHED[at % 8]} > {at})" for at in range(24)) + " > 7",
        "metrics": _counter({}),
    },
    "a chain of conditions": {
        "where": " and ".join(f"{SCHED[at % 8]} != {at + 7}" for at in range(24)),
        "metrics": _counter({}),
    },
    "texts": {
        "where": " or ".join(f"comm == 'a text of {at}' or args.prev_comm == '{at}'" for at in range(12)),
        "metrics": _counter({"a": "args.prev_comm", "b": "args.next_comm", "c": "comm"}),
    },
    "a long text": {
        "attach": "tracepoint:syscalls:sys_enter_openat",
        "where": f"str(args.filename, 256) == '{'x' * 255}'",
        "metrics": _counter({"path": "str(args.filename, 256)", "user": "user"}),
    },
    "quotients": {
        "where": "".join(f"({SCHED[at % 8]} / (" for at in range(20)) + "1" + "))" * 20,
        "metrics": _counter({}),
    },
    "bounds": {
        "metrics": {
            f"ebpf_h{one}": {
                "type": "histogram",
                "help": "H.",
                "value": _number(one),
                "bounds": [*range(one, one + 60)],
            }
            for one in range(8)
        }
    },
    "names of the kernel": {
        "metrics": {
            **{
                f"ebpf_{word}_total": {"type": "counter", "help": "H."} for word in ("futex", "flow", "ipv6", "bpf_map")
            },
            **{
                f"ebpf_x{word}": {"type": "gauge", "help": "H.", "value": "pid"} for word in ("", "_over", "_map", "_0")
            },
        }
    },
    "words for labels": {
        "metrics": _counter(
            dict.fromkeys(
                "key bytes current bool true u32 likely errno min value first half texts memory wanted v1 b1 n0 "
                "pt_regs task_struct size_t".split(),
                "pid",
            )
        )
    },
}


def loads(declared: dict[str, Any]) -> bool:
    """Whether a probe is one; then it is compiled, and its programs are loaded, in a process of their own: the compiler
    ends its process where a program is not to its liking."""
    try:
        resolved = script.resolve(probe("p", declared), context.here)
    except (ConfigError, CompileError):
        return False
    source = codegen.source(resolved.probe, resolved.c).replace(f", {map_entries(0)});", ", 64);")
    child = os.fork()
    if not child:
        code = 1
        warnings.simplefilter("ignore")  # BCC's own
        try:
            bytecode = compile_source("p", source, headers.prepare())
            maps = [
                map_create(one.type, one.name, one.key_size, one.value_size, one.entries, one.flags)
                for one in bytecode.maps
            ]
            for program in resolved.probe.mechanisms[0].programs:
                instructions = relocate(bytecode.programs[program.name], maps.__getitem__)
                attach.load_for(program.hooks[0], program.name, instructions)
            code = 0
        except BaseException:  # noqa: BLE001 - the parent is told by the code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, declared
    return True


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_programs(name: str) -> None:
    """What is much, but within the limits, is taken."""
    assert loads({"attach": "tracepoint:sched:sched_switch", **HEAVY[name]})


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_probes_at_random(size: int) -> None:
    """Labels and values of every sort, with conditions, of events and of spans."""
    chance = Random(size)
    taken = 0
    for _ in range(20 * PROGRAMS):
        taken += loads(declaration(chance, size))
        if taken == PROGRAMS // 4:
            return
    raise AssertionError(f"only {taken} were taken")
