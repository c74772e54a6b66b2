# SPDX-License-Identifier: Apache-2.0
"""Finds probes and applies the config: a config and pairs of files in, frozen ``Probe``s out."""

import dataclasses
from pathlib import Path

from exporter import declared, document
from exporter.bpftrace import declaration
from exporter.config import Config, Settings
from exporter.document import Document, Where
from exporter.errors import ConfigError, Problem, one_of
from exporter.probe import Probe, numbered
from exporter.rules import form
from exporter.rules.rule import Rule

_HERE = Path(__file__).resolve().parent
# beside this package in a clone; within it in a wheel, which may put nothing elsewhere
SHIPPED = next(folder for folder in (_HERE / "bpf", _HERE.parent / "bpf") if folder.is_dir())


def load(config: Config) -> list[Probe]:
    """Returns the config's probes, in its order.

    Raises ConfigError with all problems: of the config against the probes, and of the probes' own files.
    """
    probes: list[Probe] = []
    problems = [*config.problems, *_folder_problems(config)]
    found = available(config)
    for name, settings in config.probes.items():
        if name in config.declared or settings.bpftrace is not None:
            try:
                if settings.bpftrace is not None:
                    probes.append(declaration.of_config(name, settings, config.document))
                else:
                    probes.append(declared.read(name, config.declared[name]))
            except ConfigError as error:
                problems.extend(error.problems)
            continue
        if name not in found:
            message = f"unknown probe; {one_of(name, sorted(found))}"
            problems.append(config.document.problem(("probes", name), message))
            continue
        problems.extend(_twice(config, name))
        try:
            probe = read(found[name])
            apply = declaration.apply if probe.script else _apply
            probes.append(apply(probe, settings, config.document, ("probes", name)))
        except ConfigError as error:
            problems.extend(error.problems)
    problems.extend(_family_clashes(probes))
    if problems:
        raise ConfigError(sorted(set(problems)))
    return probes


def available(config: Config) -> dict[str, Path]:
    """Returns the YAML file of every probe by name: the shipped ones, unless a folder of the config's has the name."""
    folders = [SHIPPED, *config.probe_folders]
    return {path.stem: path for folder in folders if _is_folder(folder) for path in sorted(folder.glob("*.yaml"))}


def _is_folder(folder: Path) -> bool:
    try:
        return any(True for _ in folder.iterdir()) or folder.is_dir()
    except OSError:  # not there, no folder, not to be read, or no name that can be
        return False


def _twice(config: Config, name: str) -> list[Problem]:
    """A probe of the config's folders takes the place of a shipped one; of two in such folders, none is the one."""
    found = [str(folder) for folder in config.probe_folders if (folder / f"{name}.yaml").exists()]
    if len(found) < 2:
        return []
    return [config.document.problem(("probes", name), f"is in more than one folder: {', '.join(found)}")]


def _family_clashes(probes: list[Probe]) -> list[Problem]:
    """Metrics whose lines would be taken for another's: by OpenMetrics ``ebpf_a_total`` is a line of the family
    ``ebpf_a``, and ``ebpf_a_count`` one of the histogram ``ebpf_a``."""
    problems: list[Problem] = []
    taken: dict[str, str] = {}
    for probe in probes:
        for metric in probe.metrics:
            family = metric.name.removesuffix("_total")
            distribution = metric.type in ("histogram", "summary")
            suffixes = ("_bucket", "_sum", "_count") if distribution else ("_total",)
            names = [family, family + "_created", *(family + suffix for suffix in suffixes)]
            other = next((taken[name] for name in names if name in taken), None)
            if other:
                problems.append(Problem(probe.declaration, 0, f"{metric.name} cannot be told from {other}: rename it"))
            elif metric.name.startswith("ebpf_exporter_"):
                problems.append(Problem(probe.declaration, 0, f"{metric.name}: ebpf_exporter_ is the exporter's own"))
            taken |= dict.fromkeys(names, f"{metric.name} of the probe {probe.name}")
    return problems


def _folder_problems(config: Config) -> list[Problem]:
    return [
        config.document.problem(("probe_folders", index), f"{folder} is not a folder that can be read"[:300])
        for index, folder in enumerate(config.probe_folders)
        if not _is_folder(folder)
    ]


def read(path: Path) -> Probe:
    """Reads a probe's YAML, and its C if it has one, without a config's word. Raises ConfigError with every problem."""
    found = document.read(path)
    if isinstance(found.value, dict) and "bpftrace" in found.value:
        return declaration.of_file(found)
    return declared.read(path.stem, found, path.with_suffix(".c"))


def _apply(probe: Probe, settings: Settings, config: Document, where: Where) -> Probe:
    """Returns a probe as the config wants it. Raises ConfigError for what the config names and the probe lacks."""
    problems: list[Problem] = []

    def check(key: str, wanted: tuple[str, ...], allowed: list[str]) -> None:
        for index, name in enumerate(wanted):
            if name not in allowed:
                place = (*where, key, name if key == "options" else index)
                problems.append(config.problem(place, f"{name!r} is not of {probe.name}; {one_of(name, allowed)}"))

    metrics = probe.metrics
    labels = list(dict.fromkeys(label.name for metric in metrics for label in metric.labels))
    if settings.labels is not None:
        check("labels", settings.labels, labels)
        metrics = tuple(
            dataclasses.replace(
                metric,
                labels=tuple(
                    dataclasses.replace(label, chosen=label.name in settings.labels) for label in metric.labels
                ),
            )
            for metric in metrics
        )
    if settings.metrics is not None:
        check("metrics", settings.metrics, [metric.name for metric in metrics])
        metrics = tuple(dataclasses.replace(metric, chosen=metric.name in settings.metrics) for metric in metrics)
    options = dict(probe.options)
    check("options", tuple(name for name, _ in settings.options), list(options))
    for name, number in settings.options:
        boolean = isinstance(options.get(name), bool)
        if name in options and (isinstance(number, bool) != boolean or not -(2**31) <= number < 2**31):
            expected = "true or false" if boolean else "a whole number of 32 bits"
            problems.append(config.problem((*where, "options", name), f"expected {expected}, found {number!r}"[:200]))
    options.update(settings.options)
    said = [key for key in ("interfaces", "mode") if getattr(settings, key) is not None]
    problems.extend(declared.interface_problems(probe, said, config, where))
    for key in ("label_names", "types"):
        if getattr(settings, key):
            problems.append(config.problem((*where, key), f"{probe.name} is no bpftrace script"))
    rules: tuple[Rule, ...] = ()
    if settings.rules and not probe.rule_metric:
        problems.append(config.problem((*where, "rules"), f"{probe.name} takes no rules"))
    elif settings.rules:
        try:
            rules = form.read(settings.rules, config, (*where, "rules"), "tc" in declared.families(probe.mechanisms))
        except ConfigError as error:
            problems.extend(error.problems)
    if not rules:  # what counts rules costs nothing then
        metrics = tuple(
            dataclasses.replace(metric, chosen=metric.chosen and metric.name != probe.rule_metric) for metric in metrics
        )
    if problems:
        raise ConfigError(problems)
    applied = dataclasses.replace(
        probe,
        metrics=metrics,
        options=tuple((name, int(number)) for name, number in options.items()),
        max_series=settings.max_series or probe.max_series,
        max_cpu_percent=probe.max_cpu_percent if settings.max_cpu_percent is None else settings.max_cpu_percent,
        interfaces=settings.interfaces or probe.interfaces,
        mode=settings.mode or probe.mode,
        rules=rules,
    )
    return numbered(applied)
