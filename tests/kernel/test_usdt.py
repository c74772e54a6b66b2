# SPDX-License-Identifier: Apache-2.0
"""USDT probes: each place of a probe, wherever its arguments are, with and without a semaphore; in YAML and in C."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import built, lacks
from tests.kernel.daemon import Daemon, Samples, count

pytestmark = pytest.mark.matrix

MISSED = "ebpf_exporter_events_missed_total"
PLACES = {("-3", "33", "register"): 101, ("-4", "44", "stack"): 103, ("-7", "77", "constant"): 109}
PLACES |= {("-2", str(2**64 - 20), "row"): 107}
ALL = sum(PLACES.values()) + 113 + 127 + 2 * 131  # what usdt.c says that it does

C = """
int on_small(struct pt_regs *ctx, struct usdt *args)
{
    struct in_c_small_key key = {};

    key.a = args->arg0;
    key.b = args->arg1;
    key.c = args->arg2;
    key.d = args->arg3;
    key.none = args->arg4;
    in_c_small_add(&key, 1);
    return 0;
}

int on_place(struct pt_regs *ctx, struct usdt *args)
{
    struct in_c_places_key key = {};

    key.number = args->arg0;
    bpf_probe_read_user_str(key.text, sizeof(key.text), (void *)args->arg2);
    in_c_places_add(&key, 1);
    return 0;
}
"""


def counter(**labels: str) -> dict[str, Any]:
    return {"type": "counter", "help": "A test.", "labels": labels}


def probes(binary: Path) -> dict[str, Any]:
    """The probes of a config, one for each that the program has, and some that it has not."""
    usdt = f"usdt:{binary}:made"
    place = counter(number="arg0", big="arg1", text="str(arg2, 16)", comm="comm")
    return {
        "places": {"attach": f"{usdt}:place", "metrics": {"ebpf_places_total": place}},
        "variable": {
            "attach": f"{usdt}:variable",
            "where": "arg0 < 0",
            "metrics": {"ebpf_variables_total": counter(at_rest="arg0", row="arg1")},
        },
        "small": {
            "attach": f"{usdt}:small",
            "metrics": {"ebpf_small_total": counter(a="arg0", b="arg1", c="arg2", d="arg3")},
        },
        "spans": {
            "attach": {"start": f"{usdt}:begin", "end": f"{usdt}:end"},
            "metrics": {
                "ebpf_spans_total": {**counter(odd="arg1"), "value": "0 - arg0"},
                "ebpf_span_calls_total": counter(odd="arg1"),
                "ebpf_span_seconds": {"type": "histogram", "help": "A test.", "value": "elapsed"},
            },
        },
        "misnamed": {"attach": f"{usdt}:palce", "metrics": {"ebpf_misnamed_total": counter()}},
        "without": {"attach": "usdt:/bin/true:made:place", "metrics": {"ebpf_without_total": counter()}},
        "too_many": {"attach": f"{usdt}:small", "metrics": {"ebpf_too_many_total": counter(a="arg4")}},
        "in_c": {},
    }


def in_c(folder: Path, binary: Path) -> Path:
    small = "ebpf_in_c_small_total: {type: counter, help: A test., labels: {a: s64, b: s64, c: s64, d: s64, none: s64}}"
    places = "ebpf_in_c_places_total: {type: counter, help: A test., labels: {number: s64, text: string(16)}}"
    attach = f"{{on_small: 'usdt:{binary}:made:small', on_place: 'usdt:{binary}:made:place'}}"
    folder.mkdir()
    (folder / "in_c.yaml").write_text(f"purpose: A test.\nattach: {attach}\nmetrics:\n  {small}\n  {places}\n")
    (folder / "in_c.c").write_text(C)
    return folder


@pytest.fixture(scope="module", params=["", "-DGUARDED"], ids=["plain", "semaphores"])
def binary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if subprocess.run(["gcc", "-E", "-"], input=b"#include <sys/sdt.h>", capture_output=True).returncode:
        lacks("usdt", "there is no sys/sdt.h: install systemtap-sdt-dev")
    return built("usdt.c", tmp_path_factory.mktemp("usdt"), "-O2", *filter(None, [request.param]))


@pytest.fixture(scope="module")
def seen(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Samples]]:
    """The page after two runs of the program, of which one began before the daemon; and the daemon."""
    folder = in_c(tmp_path_factory.mktemp("probes") / "probes", binary)
    early = subprocess.Popen([str(binary), "early", "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    alone = subprocess.run([str(binary), "alone"], capture_output=True, text=True, check=True).stdout
    assert alone == ("wanted=0\n" if guarded(binary) else f"wanted={ALL}\n")
    with Daemon(probes(binary), folder=folder) as daemon:
        late = subprocess.run([str(binary), "late"], capture_output=True, text=True, check=True).stdout
        told, _ = early.communicate("\n")
        assert (late, told) == (f"wanted={ALL}\n", f"wanted={ALL}\n")
        yield daemon, daemon.samples()
    # nobody looks any more
    assert subprocess.run([str(binary), "alone"], capture_output=True, text=True, check=True).stdout == alone


def guarded(binary: Path) -> bool:
    return b"made_place_semaphore" in binary.read_bytes()


def test_each_place_gives_its_own_arguments(seen: tuple[Daemon, Samples]) -> None:
    """In registers, in memory, in an array, as constants: of two processes, each exactly, and nothing besides."""
    _, samples = seen
    expected = {(*place, comm): number for place, number in PLACES.items() for comm in ("early", "late")}
    names = ("number", "big", "text", "comm")
    found = {
        tuple(dict(labels)[name] for name in names): value
        for (metric, labels), value in samples.items()
        if metric == "ebpf_places_total"
    }
    assert found == expected


def test_a_variable_is_read_where_it_is(seen: tuple[Daemon, Samples]) -> None:
    """A global variable, and a member in a static array, by their distance from the instruction."""
    _, samples = seen
    assert count(samples, "ebpf_variables_total", at_rest="-5", row="3") == 2 * 113
    assert count(samples, "ebpf_variables_total") == 2 * 113


def test_numbers_have_their_size_and_sign(seen: tuple[Daemon, Samples]) -> None:
    """Of 8 and 16 bits, signed or not, by expressions and in C, where what there is not is 0."""
    _, samples = seen
    assert count(samples, "ebpf_small_total", a="-1", b="255", c="-300", d="65535") == 2 * 127
    assert count(samples, "ebpf_in_c_small_total", a="-1", b="255", c="-300", d="65535", none="0") == 2 * 127
    assert count(samples, "ebpf_small_total") == count(samples, "ebpf_in_c_small_total") == 2 * 127


def test_a_c_function_has_the_arguments_of_each_place(seen: tuple[Daemon, Samples]) -> None:
    """One function in C, with a program for each way in which the places give arguments."""
    _, samples = seen
    for (number, _, text), events in PLACES.items():
        assert count(samples, "ebpf_in_c_places_total", number=number, text=text) == 2 * events
    assert count(samples, "ebpf_in_c_places_total") == 2 * sum(PLACES.values())


def test_a_span_begins_and_ends_in_several_places(seen: tuple[Daemon, Samples]) -> None:
    """Whichever start with whichever end, and no start is missed."""
    _, samples = seen
    odd, even = 131 // 2, 131 - 131 // 2
    assert count(samples, "ebpf_span_calls_total", odd="1") == 2 * odd
    assert count(samples, "ebpf_span_calls_total", odd="0") == 2 * even
    assert count(samples, "ebpf_spans_total", odd="1") == 2 * odd * 1000
    assert count(samples, "ebpf_spans_total", odd="0") == 2 * even * 2000
    assert count(samples, "ebpf_span_seconds_count") == 2 * 131


def test_what_is_not_there_is_told(seen: tuple[Daemon, Samples], binary: Path) -> None:
    """A probe that the file does not have, a file that has none, an argument that there is not."""
    daemon, _ = seen
    reasons = {name: daemon.status(name)["reason"] for name in ("misnamed", "without", "too_many")}
    assert reasons["misnamed"] == f"{binary} has no USDT probe made:palce; did you mean made:place?"
    assert reasons["without"] == "/bin/true has no USDT probes"
    assert re.search(
        r"arg4: no such word at usdt:\S+:made:small; .*arg0, arg1, arg2, arg3\b(?!, arg)", reasons["too_many"]
    )
