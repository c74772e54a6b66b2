# SPDX-License-Identifier: Apache-2.0
"""From a probe in YAML to the C of its programs: what counts, and what a start keeps for its end."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from exporter.errors import CompileError, ProbeError, Problem
from exporter.expression import Binary, Expression, ExpressionError, Node, Word, nodes
from exporter.kinds import Kind
from exporter.loader import codegen
from exporter.loader.body import HELPERS, Body
from exporter.loader.context import ELAPSED, Context, Value
from exporter.loader.usdt import PLACE
from exporter.probe import Hook, Label, Mechanism, Metric, Probe, Program, Table

STACK = 512  # bytes that a BPF program has
_SPILLED = 128  # bytes of it that are left for the compiler
_SHARED = 6  # numbers that are kept for all expressions
_MOST = 2**63 - 1

STARTS = """
struct start {{ u64 began; u64 kept[{count}]; }};
BPF_TABLE("lru_hash", u64, struct start, starts, 10240);
BPF_ARRAY(missed, u64, 1);
"""


@dataclass(frozen=True)
class Resolved:
    """A probe whose labels have their kinds, and the C of its programs; refused has the mechanisms that can't be."""

    probe: Probe
    c: str
    refused: tuple[tuple[Mechanism, str], ...]


def resolve(
    probe: Probe,
    context: Callable[[Mechanism], tuple[Context, Context | None]],
    ways: Callable[[Hook], Sequence[Hook]] = lambda hook: (hook,),
) -> Resolved:
    """Gives every expression its meaning. context tells what a mechanism's hook gives, and its start's; ways, in what
    ways a hook gives it, with a program for each.

    Raises CompileError where no mechanism can do what the expressions say.
    """
    result: Probe | None = None
    parts: list[str] = []
    good: list[Mechanism] = []
    refused: list[tuple[Mechanism, str]] = []
    kept = 1
    for mechanism in probe.mechanisms:
        try:
            made, count, functions, placed = _placed(probe, mechanism, context, ways)
            if result and _kinds(made) != _kinds(result):
                raise CompileError("its labels are of other kinds than with what is tried before")
        except ProbeError as error:
            refused.append((mechanism, error.reason))
            continue
        result, kept = result or made, max(kept, count)
        good.append(placed)
        parts += functions
    if result is None:
        raise CompileError("; ".join(dict.fromkeys(reason for _, reason in refused)))
    spans = any(len(mechanism.programs) > 1 for mechanism in good)
    c = HELPERS + (STARTS.format(count=kept) if spans else "") + "\n".join(parts)
    return Resolved(dataclasses.replace(result, mechanisms=tuple(good)), c, tuple(refused))


def _placed(
    probe: Probe,
    mechanism: Mechanism,
    context: Callable[[Mechanism], tuple[Context, Context | None]],
    ways: Callable[[Hook], Sequence[Hook]],
) -> tuple[Probe, int, list[str], Mechanism]:
    """Returns what ``_programs`` does, and the mechanism with a program for each way in which its hooks give things."""
    *starts, ends = [
        [
            Program(f"{program.name}{PLACE}{number}" if number > 1 else program.name, (hook,), program.needed_for)
            for number, hook in enumerate(ways(program.hooks[0]), 1)
        ]
        for program in mechanism.programs
    ]
    result: tuple[Probe, int] | None = None
    functions: dict[str, str] = {}
    # what a start keeps is what its end asks for, each place of the one as of the other
    for programs in [(*(start[0] for start in starts), end) for end in ends] + [
        (start, ends[0]) for start in (starts[0][1:] if starts else [])
    ]:
        one = Mechanism(programs)
        made, count, parts = _programs(probe, one, *context(one))
        if result and (_kinds(made), count) != (_kinds(result[0]), result[1]):
            raise CompileError(f"{programs[-1].hooks[0]}: its places give arguments of other kinds")
        result = result or (made, count)
        functions |= zip((program.name for program in programs), parts, strict=True)
    assert result is not None
    whole = Mechanism(tuple(program for group in (*starts, ends) for program in group))
    return *result, list(functions.values()), whole


def problems(probe: Probe, end: Context, start: Context | None) -> list[Problem]:
    """Returns what is wrong with each expression by itself."""
    found: list[Problem] = []

    def tried(expression: Expression | None, how: Callable[[Body, Expression], object]) -> None:
        if expression:
            if start:
                end.start_with(Body(start))
            try:
                how(Body(end), expression)
            except ExpressionError as error:
                found.append(expression.problem(str(error)))

    tried(probe.where, lambda body, expression: body.truth(expression.tree))
    for metric in probe.metrics:
        tried(metric.value, lambda body, expression: body.number(expression.tree))
        for label in metric.labels:
            tried(label.value, lambda body, expression: body.label(expression))
    return found


def _kinds(probe: Probe) -> list[Kind]:
    return [label.kind for metric in probe.metrics for label in metric.labels]


def _expressions(probe: Probe) -> Iterator[Expression]:
    """Yields those that are computed."""
    if probe.where:
        yield probe.where
    for metric in probe.metrics:
        if metric.chosen:
            yield from ([metric.value] if metric.value else [])
            yield from (label.value for label in metric.labels if label.value and label.chosen)


def _conjuncts(node: Node) -> Iterator[Node]:
    if isinstance(node, Binary) and node.operator == "and":
        yield from _conjuncts(node.left)
        yield from _conjuncts(node.right)
    else:
        yield node


def _shared(probe: Probe) -> list[Word]:
    """Returns the words that are computed once for all expressions: the time, which does not stand still, and of those
    that say whether an event counts, some that are asked for again."""
    uses = Counter(word for one in _expressions(probe) for word in {*nodes(one.tree)} if isinstance(word, Word))
    first = [one for one in nodes(probe.where.tree) if isinstance(one, Word)] if probe.where else []
    again = [word for word in dict.fromkeys(first) if uses[word] > 1 and word != ELAPSED]
    return [word for word in (ELAPSED,) if uses[word]] + again[:_SHARED]


def _typed(probe: Probe, end: Context, start: Context | None) -> Probe:
    """Returns a probe whose labels have their kinds. What is wrong with its expressions is told with its place."""
    if start:
        end.start_with(Body(start))
    metrics: list[Metric] = []
    for metric in probe.metrics:
        labels: list[Label] = []
        for label in metric.labels:
            kind = label.kind
            if label.value:
                with _at(label.value):
                    kind, _ = Body(end).label(label.value)
            labels.append(dataclasses.replace(label, kind=kind))
        if metric.value:
            with _at(metric.value):
                Body(end).number(metric.value.tree)
        metrics.append(dataclasses.replace(metric, labels=tuple(labels)))
    return dataclasses.replace(probe, metrics=tuple(metrics))


def _programs(probe: Probe, mechanism: Mechanism, end: Context, start: Context | None) -> tuple[Probe, int, list[str]]:
    """Returns the probe with its kinds, how many numbers a start keeps, and the functions of a mechanism."""
    made = _typed(probe, end, start)
    body = Body(end)
    begin: Body | None = None
    if start:
        begin = Body(start)
        end.start_with(begin)
    for word in _shared(made):
        body.value(word)
        body.takes(8)
    lines = body.lines
    if probe.where:
        lines.append("u64 wanted;")
        for part in _conjuncts(probe.where.tree):  # what comes after one that is not true is not computed
            with _at(probe.where), body.block():
                lines.append(f"wanted = {body.truth(part)};")
                lines.append("if (!wanted) return 0;")
    before, body.most_words = body.most_words, 0
    lines.append("texts = memory.counted.texts;")
    for table in made.tables:
        if table.chosen:
            with body.block():
                _counted(table, body)
    if begin:
        body.peak += 8 + 8 * len(end.kept)
        begin.takes(8 + 16 * len(end.kept))
        body.peak = max(body.peak, begin.peak)
    tables = [table for table in made.tables if table.chosen]
    keys = max((table.fields[-1].offset + table.fields[-1].size for table in tables), default=0)
    taken = body.peak + max(8 * before, 8 * body.most_words + keys)
    if taken > STACK - _SPILLED:
        words = f"labels, values and texts take {taken} bytes of a program's stack"
        wanted = f"{STACK - _SPILLED} are free: ask for shorter texts, str(…, 32), or fewer"
        raise CompileError(f"{words}, of which {wanted}")
    union = " ".join(f"struct {table.name}_key {table.name};" for table in tables)
    counted = f"struct {{ union {{ {union} }} keys; text_word texts[{body.most_words}]; }} counted;"
    lines[:0] = [f"union {{ text_word texts[{before}]; {counted} }} memory;", "text_word *texts = memory.texts;"]
    final, *first = reversed(mechanism.programs)
    functions = []
    if begin:
        functions.append(_start(first[0].name, start.argument if start else "", begin, end.kept))
        lines[:0] = [
            "u64 thread = bpf_get_current_pid_tgid() ?: ~(u64)bpf_get_smp_processor_id();",
            "struct start *found = starts.lookup(&thread), call;",
            "if (!found) {",
            "    int first = 0;",
            "    u64 *count = missed.lookup(&first);",
            "    if (count)",
            "        lock_xadd(count, 1);",
            "    return 0;",
            "}",
            "call = *found;",
            "starts.delete(&thread);",
        ]
    functions.append(_function(final.name, end.argument, lines))
    return made, len(end.kept), functions


def _counted(table: Table, body: Body) -> None:
    """Appends what counts in a table. Each number is put where it belongs as soon as it is there."""
    lines, size = body.lines, len(table.values)
    body.takes(24 * size + 16)
    lines += [
        f"struct {table.name}_key *key = &memory.counted.keys.{table.name};",
        "__builtin_memset(key, 0, sizeof(*key));",
    ]
    for label in table.labels:
        if label.value:
            with _at(label.value), body.block():
                if fill := body.label(label.value)[1]("key->" + label.name):
                    lines.append(fill)
    numbers: list[str] = []
    scale = ""
    for at, metric in enumerate(table.metrics):
        if metric.value is None or not metric.chosen:
            numbers.append("1")
            continue
        lines.append(f"u64 n{at};")
        with _at(metric.value), body.block():
            value = body.whole(metric.value.tree)
            # what only goes up can't be given what is below 0
            lines.append(f"n{at} = {_bounded(value, metric)};")
            if value.signed and table.histogram:  # what is below 0 has no place on its scale
                scale = f"if ((s64)n{at} >= 0) "
        numbers.append(f"n{at}")
    lines.append(f"{scale}{codegen.function(table)}(key, {', '.join(numbers)});")


def _bounded(value: Value, metric: Metric) -> str:
    """Returns a value as its metric can have it: what only goes up nothing below 0, a gauge 64 bits with a sign."""
    if metric.type == "counter" and value.signed:
        return f"{value.c} < 0 ? 0 : {value.c}"
    if metric.type == "gauge":  # -2**63 is a gauge that has no value yet
        return (
            f"{value.c} < -{_MOST}LL ? -{_MOST}LL : {value.c}"
            if value.signed
            else f"{value.c} > {_MOST}ULL ? {_MOST}ULL : {value.c}"
        )
    return value.c


def _start(name: str, argument: str, begin: Body, kept: list[str]) -> str:
    lines = [
        *begin.lines,
        "u64 thread = bpf_get_current_pid_tgid() ?: ~(u64)bpf_get_smp_processor_id();",
        "struct start call = {};",
        *(f"call.kept[{at}] = {c};" for at, c in enumerate(kept)),
        "call.began = bpf_ktime_get_ns();",
        "starts.update(&thread, &call);",
    ]
    return _function(name, argument, lines)


def _function(name: str, argument: str, lines: list[str]) -> str:
    statements = "\n".join(f"    {line}" for line in [*lines, "return 0;"])
    return f"\nint {name}({argument} *ctx)\n{{\n{statements}\n}}\n"


class _at:  # noqa: N801 - reads as a word
    """What is wrong with an expression is told with its place."""

    def __init__(self, expression: Expression | None) -> None:
        self._expression = expression

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ExpressionError) and self._expression:
            raise CompileError(str(self._expression.problem(str(error)))) from error
