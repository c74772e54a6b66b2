# SPDX-License-Identifier: Apache-2.0
"""A page for each probe that is shipped, from its YAML: docs/probes/NAME.md."""

from collections.abc import Iterator, Mapping
from typing import Any

from exporter import catalog, document
from exporter.probe import Mechanism, Metric, Probe

# kind of label -> what it shows, where a probe's YAML does not say
MEANINGS = {
    "comm": "the name of the running task, which is the program's unless it gave itself another",
    "user": "the user's name by /etc/passwd, else the uid",
    "errno": "`ok`, or the error's name: `ENOENT`",
    "interface": "the name of the network interface",
    "veth": "the name of the network interface",
    "protocol": "`tcp`, `udp`, `icmp`, …; `arp`, `non-ip`, or `truncated` where it is not found",
    "rule": "the name of a rule of the config's",
}

_FROM_ITS_BEGIN = (
    "`(… unless last_over_time(…)) or increase(…)` counts a series that began in that time from its first event on;"
    " increase() alone leaves out what it had counted when it was first scraped."
)


def texts() -> dict[str, str]:
    """Returns the pages by their paths."""
    found = {}
    for path in sorted(catalog.SHIPPED.glob("*.yaml")):
        declared: dict[str, Any] = document.read(path).value
        found[f"docs/probes/{path.stem}.md"] = "\n".join(_page(catalog.read(path), declared)) + "\n"
    return found


def _page(probe: Probe, declared: Mapping[str, Any]) -> Iterator[str]:
    chosen = {label.name: label.chosen for metric in probe.metrics for label in metric.labels}
    yield "<!-- SPDX-License-Identifier: Apache-2.0 -->"
    yield f"<!-- Made from bpf/{probe.name}.yaml by python3 -m generate. -->"
    yield f"# {probe.name}\n\n{probe.purpose}\n"
    yield "## Questions it answers\n"
    for question, query in declared["questions"].items():
        yield f"{question}\n\n```promql\n{query.strip()}\n```\n"
        for metric in probe.metrics:
            if metric.name in query and not metric.chosen:
                names = ", ".join(one.name for one in probe.metrics if one.name != probe.rule_metric)
                yield f"`{metric.name}` is counted where the config asks for it: `metrics: [{names}]`.\n"
    if any("unless last_over_time" in query for query in declared["questions"].values()):
        yield f"{_FROM_ITS_BEGIN}\n"
    yield "## Metrics\n"
    yield "| metric | type | | labels |\n|---|---|---|---|"
    for metric in probe.metrics:
        names = ", ".join(f"`{label.name}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.type} | {_help(probe, metric)} | {names} |"
    yield "\n| label | what it shows |\n|---|---|"
    for name, meaning in labels(declared).items():
        yield f"| `{name}` | {meaning}{'' if chosen[name] else '; where `labels` names it'} |"
    if probe.options:
        yield "\n| option | default | |\n|---|---|---|"
        for name, default in probe.options:
            yield f"| `{name}` | `{str(default).lower()}` | {declared['options'][name]['help']} |"
    yield "\n## How it is attached\n"
    yield _attached(probe)
    yield f"\n## What it costs\n\n{_paragraph(declared['cost'])}\n"
    yield "Nanoseconds for each event: [benchmarks.md](../benchmarks.md); on a host of yours: `ebpf-exporter top`.\n"
    yield f"## What it does not see\n\n{_paragraph(declared['limits'])}\n"
    yield "## In the config\n"
    yield f"```yaml\nprobes:\n  {probe.name}:\n{_settings(probe)}```\n"
    yield "These are its defaults. [config.yaml](../../config.yaml) tells what each setting means" + (
        "; rules on packets: [network.md](../network.md#rules-on-packets)." if probe.rule_metric else "."
    )


def labels(declared: Mapping[str, Any]) -> dict[str, str]:
    """Returns what each label of a probe shows, by its name, as it is told where it comes first."""
    found: dict[str, Any] = {}
    for metric in declared["metrics"].values():
        found = metric.get("labels", {}) | found
    return {name: _meaning(label) for name, label in found.items()}


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _help(probe: Probe, metric: Metric) -> str:
    if metric.name == probe.rule_metric:
        return f"{metric.help} Where there are `rules`."
    return metric.help if metric.chosen else f"{metric.help} Where `metrics` names it."


def _meaning(declared: Any) -> str:
    """What a label shows: as its YAML says, or by its kind; the texts that it may have."""
    kind, said = (declared["kind"], declared.get("help")) if isinstance(declared, dict) else (declared, None)
    if isinstance(kind, list):
        values = ", ".join(f"`{value}`" for value in kind)
        return f"{values}: {said}" if said else values
    return str(said or MEANINGS[kind])


def _attached(probe: Probe) -> str:
    """The mechanisms in the order in which they are tried."""
    hooks = ["; ".join(_hooks(mechanism)) for mechanism in probe.mechanisms]
    hooks = list(dict.fromkeys(hooks))
    if len(hooks) == 1:
        return f"To {hooks[0]}."
    listed = "\n".join(f"{number}. {names}" for number, names in enumerate(hooks, 1))
    told = "By the first of these that the kernel has; `/probes` and `ebpf-exporter doctor` tell which, and why."
    return f"{told}\n\n{listed}"


def _hooks(mechanism: Mechanism) -> Iterator[str]:
    """The hooks that are always attached to, and those that some label or metric wants besides."""
    wants: dict[tuple[str, ...], dict[str, None]] = {(): {}}
    for program in mechanism.programs:
        wants.setdefault(program.needed_for, {}).update(dict.fromkeys(f"`{hook}`" for hook in program.hooks))
    for names, hooks in wants.items():
        yield (f"for {', '.join(f'`{name}`' for name in names)} also " if names else "") + ", ".join(hooks)


def _settings(probe: Probe) -> str:
    labels = dict.fromkeys(label.name for metric in probe.metrics for label in metric.labels if label.chosen)
    metrics = [metric.name for metric in probe.metrics if metric.chosen]
    settings = [f"labels: [{', '.join(labels)}]"]
    # with rules, the metric that counts them is one more
    settings += [] if probe.rule_metric else [f"metrics: [{', '.join(metrics)}]"]
    settings.append(f"max_series: {probe.max_series}")
    settings += [f"options: {{{name}: {str(default).lower()}}}" for name, default in probe.options]
    settings += [f"interfaces: [{', '.join(probe.interfaces)}]"] if probe.interfaces else []
    return "".join(f"    {setting}\n" for setting in settings)
