# SPDX-License-Identifier: Apache-2.0
"""The schemas for editors: they take what `check` takes, and refuse what no editor should let pass."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from exporter import catalog, config
from exporter.document import fits, read
from exporter.errors import ConfigError
from exporter.rules import form
from generate import schemas
from tests.declared import declaration, probe
from tests.documents import DOCUMENTS, ROOT, configs, files
from tests.rulesets import rules, some_rules

from .conftest import Write
from .test_fuzz import spoiled

SCHEMAS = {name: json.loads(text) for name, text in schemas.texts().items()}
CONFIG, PROBE = SCHEMAS["deploy/editors/config.schema.json"], SCHEMAS["deploy/editors/probe.schema.json"]
SHIPPED = {path.stem: catalog.read(path) for path in sorted(catalog.SHIPPED.glob("*.yaml"))}


def faults(schema: dict[str, Any], value: Any) -> list[str]:
    """What an editor finds wrong, by its place."""
    found = Draft7Validator(schema).iter_errors(value)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def checked(path: Path) -> list[str]:
    """What the program finds wrong with a config."""
    try:
        catalog.load(config.load(path))
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_of_draft_07(name: str) -> None:
    """Each is a valid schema of the draft that it names, and what it refers to is in it."""
    schema = SCHEMAS[name]
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    Draft7Validator.check_schema(schema)
    referred = {one["$ref"] for one in forms(schema) if "$ref" in one}
    assert referred <= {f"#/definitions/{name}" for name in schema["definitions"]}
    assert not [one for one in forms(schema) if {"prefixItems", "$defs", "unevaluatedProperties"} & set(one)]


def forms(value: Any, but: str = "") -> Iterator[dict[str, Any]]:
    """Yields all that is in a schema, without what is below a key."""
    if isinstance(value, dict):
        yield value
        value = [inner for key, inner in value.items() if key != but]
    for inner in value if isinstance(value, list) else ():
        yield from forms(inner, but)


@pytest.mark.parametrize("name", SCHEMAS)
def test_patterns_mean_the_same_in_ecmascript(name: str) -> None:
    """None has what only Python knows, or what the two read differently: of \\s and \\w Python's are of all Unicode."""
    patterns = {one["pattern"] for one in forms(SCHEMAS[name]) if isinstance(one.get("pattern"), str)}
    assert len(patterns) > 4
    for pattern in patterns:
        assert pattern.startswith("^")
        assert pattern.endswith(r"$(?!\n)"), "to Python, $ is also ahead of a last newline"
        assert not re.search(r"\\[AZzGQEpPwWdDbB0-9]|\(\?[^:!=]|\(\?<|[*+?}]\+|&&", pattern), pattern
        # what \s is to one and not to the other stands beside it
        assert pattern.count(r"\s") == pattern.count(r"[^\s\x00-\x1f\x7f-\x9f\ufeff]"), pattern


def test_every_property_is_explained() -> None:
    """Whoever hovers over a setting of the config, of a probe, a metric or a rule learns what it means."""
    for schema in (CONFIG, PROBE):
        unexplained = [
            key
            for one in forms(schema, but="if")
            for key, of_it in one.get("properties", {}).items()
            if isinstance(of_it, dict) and of_it and not of_it.get("description")
        ]
        assert set(unexplained) <= {"optional", "default", "hooks", "for", "command"}


@pytest.mark.parametrize(
    "path", [ROOT / "config.yaml", *sorted((ROOT / "deploy" / "kubernetes").glob("*/config.yaml"))]
)
def test_shipped_configs_are_good(path: Path) -> None:
    """Those that are shipped."""
    assert faults(CONFIG, read(path).value) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_are_good(document: str) -> None:
    """Every config and every probe that a document shows."""
    for text in configs(document):
        assert faults(CONFIG, yaml.safe_load(text)) == [], text
    for name, text in files(document).items():
        if name.endswith(".yaml"):
            assert faults(PROBE, yaml.safe_load(text)) == [], name


@pytest.mark.parametrize("path", sorted((ROOT / "bpf").rglob("*.yaml")), ids=lambda path: path.stem)
def test_probes_are_good(path: Path) -> None:
    """Every probe that is shipped, and every example; in a config, these stand as they are."""
    value = read(path).value
    assert faults(PROBE, value) == []
    if not path.with_suffix(".c").exists():
        assert faults(CONFIG, {"probes": {path.stem: value}}) == []


@pytest.mark.parametrize(
    "settings",
    [
        "{bpftrace: opensnoop.bt, label_names: {opens: [path, result]}}",
        "{attach: 'kprobe:f', where: pid > 1, metrics: {ebpf_a_total: {type: counter, help: A., labels: {a: pid}}}}",
    ],
)
def test_a_name_that_is_shipped_may_be_declared_anew(write: Write, settings: str) -> None:
    """A probe of the config's own has the form of such, whatever its name."""
    text = f"probes: {{file_opens: {settings}}}"
    write("opensnoop.bt", (ROOT / "bpf" / "examples" / "opensnoop.bt").read_text())
    assert checked(write("config.yaml", text)) == faults(CONFIG, yaml.safe_load(text)) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("lisen: [':1']\nprobes: {xdp: {}}", ""),
        ("interval: 5s", ""),
        ("probes: {}", "probes"),
        ("listen: [localhost]\nprobes: {xdp: {}}", "listen.0"),
        ("interval: 1h\nprobes: {xdp: {}}", "interval"),
        ("web_config: 7\nprobes: {xdp: {}}", "web_config"),
        ("probes: {A: {attach: 'kprobe:f', metrics: {ebpf_a_total: {type: counter, help: A.}}}}", "probes"),
        ("probes: {xdp: true}", "probes.xdp"),
        ("probes: {file_io: {lables: [comm]}}", "probes.file_io"),
        ("probes: {file_io: {labels: [command]}}", "probes.file_io.labels.0"),
        ("probes: {file_io: {labels: [comm, comm]}}", "probes.file_io.labels"),
        ("probes: {file_io: {metrics: [ebpf_file_opens_total]}}", "probes.file_io.metrics.0"),
        ("probes: {file_io: {metrics: []}}", "probes.file_io.metrics"),
        ("probes: {file_io: {max_series: many}}", "probes.file_io.max_series"),
        ("probes: {file_io: {max_cpu_percent: -1}}", "probes.file_io.max_cpu_percent"),
        ("probes: {file_io: {options: {all_files: 1}}}", "probes.file_io.options.all_files"),
        ("probes: {file_io: {options: {all: true}}}", "probes.file_io.options"),
        ("probes: {file_io: {interfaces: [eth0]}}", "probes.file_io"),
        ("probes: {file_io: {rules: [{name: a, action: drop}]}}", "probes.file_io"),
        ("probes: {container_net: {mode: native}}", "probes.container_net"),
        ("probes: {xdp: {mode: fast}}", "probes.xdp.mode"),
        ("probes: {xdp: {rules: [{name: a, action: dorp}]}}", "probes.xdp.rules.0.action"),
        ("probes: {xdp: {rules: [{name: a}]}}", "probes.xdp.rules.0"),
        ("probes: {xdp: {rules: [{name: a b, action: drop}]}}", "probes.xdp.rules.0.name"),
        ("probes: {xdp: {rules: [{name: a, action: drop, sorce: 10.0.0.1}]}}", "probes.xdp.rules.0"),
        ("probes: {xdp: {rules: [{name: a, action: drop, source: host}]}}", "probes.xdp.rules.0.source"),
        ("probes: {xdp: {rules: [{name: a, action: drop, source: []}]}}", "probes.xdp.rules.0.source"),
        ("probes: {xdp: {rules: [{name: a, action: drop, protocol: tpc}]}}", "probes.xdp.rules.0.protocol"),
        ("probes: {xdp: {rules: [{name: a, action: drop, protocol: 256}]}}", "probes.xdp.rules.0.protocol"),
        ("probes: {xdp: {rules: [{name: a, action: drop, source_port: 65536}]}}", "probes.xdp.rules.0.source_port"),
        ("probes: {xdp: {rules: [{name: a, action: drop, length: {}}]}}", "probes.xdp.rules.0.length"),
        ("probes: {xdp: {rules: [{name: a, action: drop, tcp_flags: [sin]}]}}", "probes.xdp.rules.0.tcp_flags"),
        ("probes: {xdp: {rules: [{name: a, action: drop, direction: egress}]}}", "probes.xdp.rules.0"),
        ("probes: {container_net: {rules: [{name: a, action: drop, direction: out}]}}",
         "probes.container_net.rules.0.direction"),
        ("probes: {a: {attach: 'kprobe:f'}}", "probes.a"),
        ("probes: {a: {attach: 'vfs_read', metrics: {ebpf_a_total: {type: counter, help: A.}}}}", "probes.a.attach"),
        ("probes: {a: {attach: 'kprobe:f', metrics: {a_total: {type: counter, help: A.}}}}", "probes.a.metrics"),
        ("probes: {a: {attach: 'kprobe:f', metrics: {ebpf_a_total: {type: count, help: A.}}}}",
         "probes.a.metrics.ebpf_a_total.type"),
        ("probes: {a: {attach: {f: 'kprobe:f'}, metrics: {ebpf_a_total: {type: counter, help: A.}}}}",
         "probes.a.attach"),
        ("probes: {a: {attach: 'kprobe:f', selftest: [], metrics: {ebpf_a_total: {type: counter, help: A.}}}}",
         "probes.a.selftest"),
        ("probes: {file_io: {attach: 'kprobe:f', labels: [comm], metrics: {ebpf_a_total: {type: counter, help: A.}}}}",
         "probes.file_io"),
        ("probes: {a: {bpftrace: a.bt, types: {a: count}}}", "probes.a.types.a"),
    ],
)  # fmt: skip
def test_wrong_configs_are_refused(write: Write, text: str, place: str) -> None:
    """By the schema, at the place that is wrong, and by `check`."""
    assert [fault.partition(": ")[0] for fault in faults(CONFIG, yaml.safe_load(text))] == [place]
    assert checked(write("config.yaml", text))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("attach: {f: 'kprobe:f'}\nmetrics: {ebpf_a_total: {type: counter, help: A., labels: {a: words}}}",
         "metrics.ebpf_a_total.labels.a"),
        ("attach: 'kprobe:f'\noptions: {}\nmetrics: {ebpf_a_total: {type: counter, help: A.}}", ""),
        ("attach: {f: []}\nmetrics: {ebpf_a_total: {type: counter, help: A.}}", "attach"),
        ("attach: {start: 'kprobe:f'}\nmetrics: {ebpf_a_total: {type: counter, help: A.}}", "attach"),
        ("bpftrace: a.bt", ""),
        ("bpftrace: a.bt\npurpose: A.\nattach: 'kprobe:f'", ""),
        ("purpose: A.", ""),
        ("- attach", ""),
    ],
)  # fmt: skip
def test_wrong_probes_are_refused(write: Write, text: str, place: str) -> None:
    """By the schema, at the place that is wrong, and by the program."""
    assert {fault.partition(": ")[0] for fault in faults(PROBE, yaml.safe_load(text))} == {place}
    with pytest.raises(ConfigError):
        catalog.read(write("a.yaml", text))


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(0, 2))
def test_declared_probes_that_are_good_are_taken(seed: int, size: int, changes: int) -> None:
    """A probe of expressions, as it is or with something changed, that passes `check`: in the config, and in a file."""
    chance = Random(seed)
    declared = declaration(chance, size)
    for _ in range(changes):
        declared = spoiled(chance, declared)
    try:
        probe("p", declared)
    except ConfigError:
        assert changes
    else:
        assert faults(CONFIG, {"probes": {"p": declared}}) == faults(PROBE, declared) == []


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(0, 2))
def test_rules_that_are_good_are_taken(seed: int, count: int, changes: int) -> None:
    """Rules on packets, as they are or with something changed."""
    chance = Random(seed)
    written = some_rules(chance, count)
    for _ in range(changes):
        written = spoiled(chance, written)
    try:
        good = fits(written, form.SCHEMA) and bool(rules(written, on_containers=True))
    except ConfigError:
        good = False
    if good:
        assert faults(CONFIG, {"probes": {"container_net": {"rules": written}}}) == []
    assert good or changes
    with contextlib.suppress(ConfigError):
        if good and rules(written):
            assert faults(CONFIG, {"probes": {"xdp": {"rules": written}}}) == []


@st.composite
def settings_of(draw: st.DrawFn, name: str) -> dict[str, Any] | None:
    """What a config may say of a probe that is shipped."""
    found = SHIPPED[name]
    metrics = [metric.name for metric in found.metrics]
    labels = list(dict.fromkeys(label.name for metric in found.metrics for label in metric.labels))
    of_interfaces = {
        "interfaces": st.lists(st.sampled_from(["auto", "containers", "lo", "eth*", "veth-é"]), min_size=1),
        "rules": st.integers(0, 2**32).map(lambda seed: some_rules(Random(seed), 3)),
    }
    return draw(
        st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "labels": st.lists(st.sampled_from(labels), unique=True),
                "metrics": st.lists(st.sampled_from(metrics), unique=True, min_size=1),
                "max_series": st.integers(1, 10_000_000),
                "max_cpu_percent": st.integers(0, 100_000) | st.floats(0, 100_000),
                **({"options": options(dict(found.options))} if found.options else {}),
                **(of_interfaces if found.interfaces else {}),
                **({"mode": st.sampled_from(["auto", "native", "generic"])} if name == "xdp" else {}),
            },
        )
    )


def options(those: dict[str, int]) -> st.SearchStrategy[dict[str, int]]:
    values = {
        name: st.booleans() if isinstance(default, bool) else st.integers(-(2**31), 2**31 - 1)
        for name, default in those.items()
    }
    return st.fixed_dictionaries({}, optional=values)


@given(
    st.fixed_dictionaries({}, optional={name: settings_of(name) for name in SHIPPED}).filter(bool),
    st.fixed_dictionaries(
        {},
        optional={
            "listen": st.lists(
                st.sampled_from([":1", "localhost:9435", "[::1]:80", "[fe80::1%eth0.5]:1", "a-b.example:65535"]),
                min_size=1,
            ),
            "interval": st.builds("{}{}".format, st.integers(1, 999_999), st.sampled_from(["ms", "s", "m"])),
            "web_config": st.none() | st.just("web.yml"),
            "probe_folders": st.just([]) | st.just(["."]),
        },
    ),
)
def test_configs_that_are_good_are_taken(
    tmp_path_factory: pytest.TempPathFactory, probes: dict[str, Any], top: dict[str, Any]
) -> None:
    """Whatever a config may say of the probes that are shipped, and of the exporter."""
    value = {**top, "probes": probes}
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(yaml.safe_dump(value))
    assert checked(path) == faults(CONFIG, value) == []
