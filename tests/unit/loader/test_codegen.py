# SPDX-License-Identifier: Apache-2.0
"""loader/codegen.py: the C that is put ahead of a probe's own, read as text and by a C compiler."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from exporter import catalog
from exporter.loader import births, codegen
from exporter.probe import MAP_ENTRIES, OVERFLOW_ENTRIES, Label, Metric

from ..conftest import Write
from ..support import counter, gauge, histogram, label, probe

OP = ["read", "write"]
C = "int on_event(void *args)\n{\n    return 0;\n}\n"

# BCC's macros, as far as the type checks of a C compiler need them
BCC = """
#define __VMLINUX_H__
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef long long s64;
#define __always_inline inline __attribute__((always_inline))
#define BPF_TABLE(kind, key_type, value_type, name, entries) static struct { \\
    value_type *(*lookup)(key_type *); \\
    value_type *(*lookup_or_try_init)(key_type *, value_type *); \\
    int (*update)(key_type *, value_type *); \\
    int (*delete)(key_type *); \\
} name
#define BPF_ARRAY(name, value_type, entries) BPF_TABLE("array", int, value_type, name, entries)
#define BPF_HASH(name, key_type, value_type) BPF_TABLE("hash", key_type, value_type, name, 1)
#define lock_xadd(at, amount) ((void)__sync_fetch_and_add(at, amount))
long bpf_get_current_comm(void *, u32);
long bpf_probe_read_user_str(void *, u32, const void *);
long bpf_probe_read_kernel(void *, u32, const void *);
struct pt_regs { unsigned long di, si, ax; };
#define PT_REGS_PARM1(ctx) ((ctx)->di)
#define PT_REGS_PARM2(ctx) ((ctx)->si)
#define PT_REGS_RC(ctx) ((ctx)->ax)
u64 bpf_get_current_pid_tgid(void);
u64 bpf_get_current_uid_gid(void);
u32 bpf_get_smp_processor_id(void);
"""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def compiled(text: str) -> str:
    """What a C compiler says of it: nothing, if it is good."""
    flags = [
        "-fsyntax-only",
        "-Wall",
        "-Werror",
        "-Wno-unused-function",
        "-Wno-unused-variable",
        "-Wno-unknown-pragmas",
    ]
    return subprocess.run(
        ["gcc", *flags, "-x", "c", "-"], input=BCC + text, capture_output=True, text=True, check=False
    ).stderr


@pytest.fixture
def source(write: Write) -> Path:
    return write("mine/things.c", C)


def test_own_c_keeps_its_lines(source: Path) -> None:
    """The probe's own C stands at the end, with its name and its line numbers for the compiler's messages."""
    text = codegen.source(probe(counter("ebpf_things_total"), source=source))
    assert text.endswith(f'#line 1 "{source}"\n{C}\n')


def test_a_path_with_quotes(write: Write) -> None:
    """A path that C would take for the end of a string is escaped."""
    path = write('a "b" \\c/things.c', C)
    text = codegen.source(probe(counter("ebpf_things_total"), source=path))
    assert f'#line 1 "{path.parents[1]}/a \\"b\\" \\\\c/things.c"\n' in text


@needs_gcc
def test_an_error_has_the_line_of_the_probes_own_c(write: Write) -> None:
    """What the compiler complains of is found in the file that the user wrote."""
    path = write("things.c", "\n\nint on_event(void *args) { return nothing; }\n")
    assert f"{path}:3:" in compiled(codegen.source(probe(counter("ebpf_things_total"), source=path)))


def test_switches(source: Path) -> None:
    """Each label and metric has a switch, on where it is chosen; each option has its value."""
    one = probe(
        counter("ebpf_things_total", label("op", OP), label("comm", "comm", chosen=False)),
        counter("ebpf_others_total", label("pid", "pid"), chosen=False),
        source=source,
    )
    text = codegen.source(dataclasses.replace(one, options=(("all_files", True), ("most", 300))))
    switches = [line for line in text.splitlines() if line.startswith(("#define WITH_", "#define OPTION_"))]
    assert switches == [
        "#define WITH_comm 0",
        "#define WITH_ebpf_others_total 0",
        "#define WITH_ebpf_things_total 1",
        "#define WITH_op 1",
        "#define WITH_pid 0",
        "#define OPTION_all_files 1",
        "#define OPTION_most 300",
    ]


def test_enums(source: Path) -> None:
    """The values of an enumeration have names, once for all metrics that have the label."""
    text = codegen.source(
        probe(
            counter("ebpf_a_total", label("op", OP), label("comm", "comm")),
            counter("ebpf_b_total", label("op", OP)),
            source=source,
        )
    )
    assert text.count("enum { THINGS_OP_READ, THINGS_OP_WRITE };") == 1


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        (
            counter("ebpf_a_total", label("op", OP), label("comm", "comm")),
            ["a_0", "a_1", "a_rest", "a_0_over", "a_1_over"],
        ),
        (counter("ebpf_a_total", label("comm", "comm")), ["a_0", "a_1", "a_rest"]),
        (counter("ebpf_a_total"), ["a_0", "a_1", "a_rest"]),
        (histogram("ebpf_a_seconds", (1, 3)), [f"a_seconds_{part}" for part in ("0", "1", "rest", "0_over", "1_over")]),
    ],
)
def test_maps_have_the_names_that_the_reader_looks_for(source: Path, metric: Metric, names: list[str]) -> None:
    """What map_names lists is declared; a table without bounded labels has no overflow maps."""
    one = probe(metric, source=source)
    text = codegen.source(one)
    assert codegen.map_names(one.tables[0]) == names
    assert [f", {name}, {MAP_ENTRIES});" in text for name in names[:2]] == [True, True]
    assert f"BPF_ARRAY({names[2]}, " in text
    assert text.count(f"{OVERFLOW_ENTRIES});") == len(names[3:])
    assert [name for name in names[3:] if f", {name}, {OVERFLOW_ENTRIES});" not in text] == []
    assert "BPF_ARRAY(writing, u32, 1);" in text


def test_a_table_that_is_left_out_has_no_maps(source: Path) -> None:
    """The C may go on to count what the config left out: it does nothing and takes no memory."""
    text = codegen.source(probe(counter("ebpf_a_total", label("op", OP), chosen=False), source=source))
    assert "BPF_TABLE" not in text
    assert "void a_add(struct a_key *key, u64 n_a) { }" in text


SHAPES: list[tuple[Label, ...]] = [
    (),
    (label("op", OP),),
    (label("comm", "comm"),),
    tuple(
        label(f"l{index}", kind)
        for index, kind in enumerate(["u64", "comm", OP, "user", "errno", "cpu", "string(7)", "pid", "interface"])
    ),
    (label("op", OP, False), label("inode", "u64", False), label("comm", "comm", False), label("user", "user")),
]


@needs_gcc
@pytest.mark.parametrize("labels", SHAPES)
def test_generated_c_compiles(write: Write, labels: tuple[Label, ...]) -> None:
    """For any labels the generated C is good C: the offsets that Python has are those that the compiler has."""
    path = write(
        "things.c",
        "int on_event(void *args)\n{\n"
        "    struct a_key key = {};\n    struct h_seconds_key other = {};\n    struct off_key third = {};\n"
        "    a_add(&key, 1, 2);\n    h_seconds_observe(&other, 3);\n    off_add(&third, 4);\n    return 0;\n}\n",
    )
    one = probe(
        counter("ebpf_a_total", *labels),
        counter("ebpf_b_total", *labels),
        histogram("ebpf_h_seconds", (3, 30), *labels),
        counter("ebpf_off_total", *labels, label("more", "u32"), chosen=False),
        source=path,
    )
    assert compiled(codegen.source(one)) == ""


@needs_gcc
@pytest.mark.parametrize("name", ["process_execs", "file_opens"])
@pytest.mark.parametrize("everything", [True, False])
def test_shipped_probes_without_kernel_types_compile(name: str, everything: bool) -> None:
    """The C of these probes is good with all labels chosen and with none."""
    found = catalog.read(catalog.SHIPPED / f"{name}.yaml")
    metrics = tuple(
        dataclasses.replace(
            metric, labels=tuple(dataclasses.replace(item, chosen=everything) for item in metric.labels)
        )
        for metric in found.metrics
    )
    assert compiled(codegen.source(dataclasses.replace(found, metrics=metrics))) == ""


@needs_gcc
def test_ceil_log2(write: Write, tmp_path: Path) -> None:
    """The bucket of a value is that of the smallest power of two which is not below it: bounds are inclusive."""
    values = [0, 1, 2, 3, 4, 5, 1023, 1024, 1025, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**63 + 1, 2**64 - 1]
    main = "int main(void) {" + "".join(f'printf("%u\\n", ceil_log2({value}ULL));' for value in values) + "}"
    path = write("main.c", f"#include <stdio.h>\n{BCC}{codegen.PRELUDE}{main}")
    subprocess.run(["gcc", "-o", tmp_path / "main", path], check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, check=True, text=True).stdout
    assert [int(line) for line in printed.split()] == [max(value - 1, 0).bit_length() for value in values]


@needs_gcc
@pytest.mark.parametrize(
    "bounds",
    [(0,), (7,), (0, 1, 2), (3, 10, 30, 31), tuple(range(0, 600, 10)), (1, 4, 16), (2**63, 2**64 - 1), (0, 0, 5)],
)
def test_bucket_of_bounds(write: Write, tmp_path: Path, bounds: tuple[int, ...]) -> None:
    """The bucket of a value is that of the first bound which is not below it; above the last there is one more."""
    values = sorted(
        {0, 1, 2**64 - 1} | {bound + off for bound in bounds for off in (-1, 0, 1) if 0 <= bound + off < 2**64}
    )
    search = codegen._search(bounds, 0, len(bounds))
    lines = "".join(f'value = {value}ULL; printf("%d\\n", {search});' for value in values)
    path = write("main.c", f"#include <stdio.h>\nint main(void) {{ unsigned long long value; {lines} }}")
    subprocess.run(["gcc", "-w", "-o", tmp_path / "main", path], check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, check=True, text=True).stdout
    assert [int(line) for line in printed.split()] == [sum(value > bound for bound in bounds) for value in values]


@needs_gcc
@pytest.mark.parametrize("keep", ["last", "max"])
def test_generated_c_of_gauges_compiles(write: Write, keep: str) -> None:
    """A gauge is set, or raised."""
    function = {"last": "level_set", "max": "level_raise"}[keep]
    path = write(
        "things.c", f"int on_event(void *x) {{ struct level_key key = {{}}; {function}(&key, 5); return 0; }}\n"
    )
    one = probe(gauge("ebpf_level", label("op", OP), label("comm", "comm"), keep=keep), source=path)
    assert compiled(codegen.source(one)) == ""


@needs_gcc
def test_names_that_the_kernel_has(write: Write) -> None:
    """Metrics called as types of the kernel's, or as one another's maps, are told apart."""
    path = write("things.c", "int on_event(void *args) { return 0; }\n")
    one = probe(
        *(counter(f"ebpf_{name}_total", label("op", OP)) for name in ("a", "a_over", "a_map", "a_0")), source=path
    )
    text = codegen.source(one)
    assert compiled(text) == ""
    maps = [name for table in one.tables for name in codegen.map_names(table)]
    assert len(maps) == len(set(maps))
    futex = codegen.source(
        probe(counter("ebpf_futex_total"), source=write("none.c", "int on_event(void *x) { return 0; }"))
    )
    assert compiled("union futex_key { int kernels; };\n" + futex) == ""


@pytest.mark.parametrize(
    ("kind", "chosen", "watched"),
    [("cgroup", True, True), ("unit", True, True), ("container", True, True), ("unit", False, False),
     ("comm", True, False), ("ksym", True, False)],
)  # fmt: skip
def test_births_of_cgroups(source: Path, kind: str, chosen: bool, watched: bool) -> None:
    """Who has a label of cgroups on the page has the program that knows those that end early; nobody else pays."""
    text = codegen.source(probe(counter("ebpf_things_total", label("where", kind, chosen)), source=source))
    assert (births.PROGRAM in text) == watched
