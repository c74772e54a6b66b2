# SPDX-License-Identifier: Apache-2.0
"""From a probe's metrics to C: keys, maps and a counting function for each, put ahead of the probe's own C.

For the metrics ``ebpf_file_io_bytes_total`` and ``ebpf_file_io_operations_total`` by op, comm and file the C gets

    struct file_io_bytes_key { u8 op; …; char comm[16]; char file[64]; };
    enum { FILE_IO_OP_READ, FILE_IO_OP_WRITE };
    #define WITH_file 1                                  // 0: the config left this label out
    void file_io_bytes_add(struct file_io_bytes_key *key, u64 n_file_io_bytes, u64 n_file_io_operations);

and for a histogram ``NAME_observe(key, value)``. Labels that the running task gives (comm, user, …) are filled in by
these functions. Where a table is full, the event is counted under its bounded labels alone, and where that fails too,
in a last cell: nothing is lost.
"""

from pathlib import Path

from exporter.kinds import Kind
from exporter.loader import births
from exporter.probe import Field, Probe, Table, map_entries
from exporter.rules import tables

LIBRARY = Path(__file__).resolve().parents[2] / "bpf" / "lib"

PRELUDE = r"""
/* what is in vmlinux.h, where there is no BTF and so no vmlinux.h */
#ifndef __VMLINUX_H__
#include <uapi/linux/ptrace.h>
#include <linux/sched.h>
#include <linux/fs.h>
#include <linux/fdtable.h>
#endif

#ifndef S_IFMT
#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_ISREG(m) (((m) & S_IFMT) == S_IFREG)
#endif

/* what a TC program returns; macros are not in BTF */
#ifndef TC_ACT_UNSPEC
#define TC_ACT_UNSPEC (-1)
#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#endif

/* Of an addition of nothing clang makes another atomic instruction, which kernels before 5.12 do not have. */
static __always_inline void EBPF_add_to(u64 *at, u64 amount)
{
    if (amount)
        lock_xadd(at, amount);
}

/* the smallest n with value <= 2**n */
static __always_inline u32 ceil_log2(u64 value)
{
    u32 n = 0;
    if (value <= 1)
        return 0;
    value--;
    if (value >> 32) { n += 32; value >>= 32; }
    if (value >> 16) { n += 16; value >>= 16; }
    if (value >> 8) { n += 8; value >>= 8; }
    if (value >> 4) { n += 4; value >>= 4; }
    if (value >> 2) { n += 2; value >>= 2; }
    if (value >> 1) n += 1;
    return n + 1;
}

BPF_ARRAY(writing, u32, 1);
"""

# atomic instructions that give back what was there: kernel 5.12
KEEP_MAX = r"""
static __always_inline void keep_max(u64 *at, s64 value)
{
    s64 seen = *(volatile s64 *)at, found;

#pragma unroll
    for (int tries = 0; tries < 32; tries++) {
        if (seen >= value)
            return;
        found = __sync_val_compare_and_swap(at, seen, value);
        if (found == seen)
            return;
        seen = found;
    }
}
"""


def source(probe: Probe, programs: str = "", ahead: str = "") -> str:
    """Returns the whole C of a probe: prelude, generated part, its own file with its own line numbers, programs.

    ahead comes before the file.
    """
    parts = [
        f'#line 1 "{_escaped(str(probe.declaration))} (generated)"',
        "/* generated from " + probe.declaration.name + " */",
        _switches(probe),
        PRELUDE,
        _enums(probe),
    ]
    if any(table.keep == "max" for table in probe.tables):
        parts.append(KEEP_MAX)
    parts += [_table(table, map_entries(probe.max_series)) for table in probe.tables]
    if births.wanted(probe):
        parts.append(births.SOURCE)
    if probe.rule_metric:
        parts += [_rules(probe), *map(_library, ("packet.h", "rules.h"))]
    if probe.source:
        parts += [ahead, f'#line 1 "{_escaped(str(probe.source))}"', probe.c]
    return "\n".join([*parts, *([programs] if programs else [])]) + "\n"


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace('"', '\\"')


def _switches(probe: Probe) -> str:
    """``WITH_…`` for each label and metric, 1 where it is chosen, and ``OPTION_…`` for each option."""
    chosen = probe.chosen_names
    names = sorted({metric.name for metric in probe.metrics} | {
        label.name for metric in probe.metrics for label in metric.labels
    })  # fmt: skip
    lines = [f"#define WITH_{name} {int(name in chosen)}" for name in names]
    lines += [f"#define OPTION_{name} {int(value)}" for name, value in probe.options]
    return "\n".join(lines)


def _library(name: str) -> str:
    """A file of bpf/lib. It is put in, as BCC knows maps in the main file only."""
    path = LIBRARY / name
    return f'#line 1 "{_escaped(str(path))}"\n{path.read_text()}'


def _rules(probe: Probe) -> str:
    """What bpf/lib/rules.h is told: what the rules ask for, and what counts them."""
    table = next(table for table in probe.tables if table.metrics[0].name == probe.rule_metric)
    label = next(label.name for label in table.metrics[0].labels if label.kind.name == "rule")
    told = {"RULES_KEY": f"{table.name}_key", "RULES_ADD": function(table), "RULES_LABEL": label}
    return "\n".join(f"#define {name} {value}" for name, value in {**tables.defines(probe.rules), **told}.items())


def _enums(probe: Probe) -> str:
    lines = {
        f"enum {{ {', '.join(f'{probe.name}_{label.name}_{value}'.upper() for value in label.kind.values)} }};": None
        for metric in probe.metrics
        for label in metric.labels
        if label.kind.values and label.kind.name != "rule"
    }
    return "\n".join(lines)


def map_names(table: Table) -> list[str]:
    """Returns the names of a table's maps, as generated: two halves, the rest, and two halves for what overflows."""
    names = [f"{table.name}_0", f"{table.name}_1", f"{table.name}_rest"]
    return names + ([f"{table.name}_0_over", f"{table.name}_1_over"] if table.bounded_size else [])


def _own_names(table: Table) -> str:
    """A metric may be called as something of the kernel's: of ``ebpf_futex_total`` futex_key is not its union of that
    name. What is generated has names with capitals, and those that are meant here lead to them."""
    names = [f"{table.name}_{word}" for word in ("key", "value", "over", "mapped", "bounded")] + [function(table)]
    return "\n".join(f"#define {name} EBPF_{name}" for name in names)


def function(table: Table) -> str:
    """Returns the name of the function that the C calls to count in a table."""
    verb = {"": "observe" if table.histogram else "add", "last": "set", "max": "raise"}[table.keep]
    return f"{table.name}_{verb}"


def _member(field: Field, kind: Kind | None) -> str:
    if kind is None:
        return f"    u8 {field.name}[{field.size}];"
    c_type, bracket, count = kind.c_type.partition("[")
    return f"    {c_type} {field.name}{bracket}{count};"


def _parameter(value: str) -> str:
    """The parameter of a counting function, whatever a metric is called: ``n_file_io_bytes``."""
    return f"n_{value}"


def _table(table: Table, entries: int) -> str:
    name = table.name
    members = "\n".join(_member(field, field.kind) for field in table.fields)
    described = ", ".join(metric.name for metric in table.metrics)
    parameters = "u64 value" if table.histogram else ", ".join(f"u64 {_parameter(value)}" for value in table.values)
    head = f"static __always_inline void {function(table)}(struct {name}_key *key, {parameters})"
    offsets = "\n".join(
        f'_Static_assert(__builtin_offsetof(struct {name}_key, {field.name}) == {field.offset}, "layout");'
        for field in table.fields
    )
    declaration = f"\n/* {described} */\n{_own_names(table)}\nstruct {name}_key {{\n{members}\n}};\n{offsets}"
    if not table.chosen:
        return f"{declaration}\n{head} {{ }}\n"
    values = len(table.values)
    structs = f"struct {name}_value {{ u64 v[{values}]; }};\nstruct {name}_over {{ u64 v[{values}]; u64 events; }};"
    maps = [
        f"struct {name}_mapped {{ u8 bytes[{table.key_size}]; }};",
        *(f'BPF_TABLE("hash", struct {name}_mapped, struct {name}_value, {name}_{half}, {entries});' for half in "01"),
        f"BPF_ARRAY({name}_rest, struct {name}_over, 2);",
    ]
    if table.bounded_size:
        maps.append(f"struct {name}_bounded {{ u8 bytes[{table.bounded_size}]; }};")
        maps += [
            f'BPF_TABLE("hash", struct {name}_bounded, struct {name}_over, {name}_{half}_over, {table.combinations});'
            for half in "01"
        ]
    return "\n".join([declaration, structs, *maps, head, _body(table)])


def _bucket(bounds: tuple[int, ...]) -> list[str]:
    """Finds the first bound that is not below the value."""
    low, high = bounds[0].bit_length() - 1, bounds[-1].bit_length() - 1
    if bounds == tuple(2**exponent for exponent in range(low, high + 1)):
        return [
            "    u32 bucket = ceil_log2(value);",
            f"    key->bucket = bucket <= {low} ? 0 : bucket > {high} ? {high - low + 1} : bucket - {low};",
        ]
    return [f"    key->bucket = {_search(bounds, 0, len(bounds))};"]


def _search(bounds: tuple[int, ...], low: int, high: int) -> str:
    """Halves the bounds until one is left: of a comparison with each, the stack would hold all results."""
    if low == high:
        return str(low)
    middle = (low + high) // 2
    return f"value <= {bounds[middle]}ULL ? ({_search(bounds, low, middle)}) : {_search(bounds, middle + 1, high)}"


def _body(table: Table) -> str:
    name = table.name
    amounts = ", ".join(map(_parameter, table.values))
    start = f"first_value = {{{{{amounts}}}}}" if table.keep else "first_value = {}"
    lines = [
        "{",
        "    int first = 0;",
        f"    struct {name}_value {start}, *value_at;",
        f"    struct {name}_over *over_at;",
        "    u32 *which = writing.lookup(&first);",
        "    if (!which)",
        "        return;",
        "    int half = *which;",
    ]
    lines += ["    " + label.kind.fill.format(field=f"key->{label.name}") for label in table.labels if label.kind.fill]
    if table.histogram:
        lines += _bucket(table.metrics[0].bounds)
        added = ["1", "value"]
    else:
        added = [_parameter(value) for value in table.values]
    how = {"": "EBPF_add_to(&{at}->v[%d], %s);", "last": "{at}->v[%d] = %s;", "max": "keep_max(&{at}->v[%d], %s);"}
    adds = [how[table.keep] % (index, amount) for index, amount in enumerate(added)]

    def choose(map_name: str, suffix: str, key_type: str, target: str, start: str) -> list[str]:
        call = f"lookup_or_try_init((struct {key_type} *)key, &{start})"
        return [
            "    if (half)",
            f"        {target} = {map_name}_1{suffix}.{call};",
            "    else",
            f"        {target} = {map_name}_0{suffix}.{call};",
        ]

    def count(at: str, indent: str, *more: str) -> list[str]:
        return [indent + add.format(at=at) for add in adds] + [indent + line for line in more]

    lines += choose(name, "", f"{name}_mapped", "value_at", "first_value")
    lines += ["    if (value_at) {", *count("value_at", " " * 8, "return;"), "    }"]
    if table.bounded_size:
        lines.append(f"    struct {name}_over {start.replace('first_value', 'first_over')};")
        lines += choose(name, "_over", f"{name}_bounded", "over_at", "first_over")
        lines += ["    if (!over_at)", f"        over_at = {name}_rest.lookup(&half);"]
    else:
        lines.append(f"    over_at = {name}_rest.lookup(&half);")
    if table.keep == "max":  # the last cell begins with 0, which is more than some
        lines += [
            f"    if (over_at && !over_at->events) over_at->v[{at}] = {amount};" for at, amount in enumerate(added)
        ]
    lines += ["    if (over_at) {", *count("over_at", " " * 8, "lock_xadd(&over_at->events, 1);"), "    }", "}"]
    return "\n".join(lines) + "\n"
