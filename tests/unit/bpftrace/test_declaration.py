# SPDX-License-Identifier: Apache-2.0
"""Scripts in a config and in a probe's YAML: which metrics they make, and what is said of mistakes."""

import json
import os
from pathlib import Path

import pytest

from exporter import catalog, config
from exporter.errors import ConfigError
from exporter.probe import Probe

SCRIPT = """kprobe:f { @opens[comm, args->ret] = count(); @us = hist(1); @bytes += 7; @t[tid] = nsecs; }
kprobe:g { delete(@t[tid]); @all = stats(1); @read_total = sum(1); @ = min(1); }
"""


def load(tmp_path: Path, settings: object, **top: object) -> Probe:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"probes": {"io": settings}, **top}))
    [probe] = catalog.load(config.load(path))
    return probe


def refused(tmp_path: Path, settings: object, **top: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, settings, **top)
    return [problem.message for problem in caught.value.problems]


def test_the_metrics_of_a_script(tmp_path: Path) -> None:
    """Their names, types and labels; what a script keeps for itself makes none."""
    probe = load(tmp_path, {"bpftrace": SCRIPT, "label_names": {"opens": ["comm", "result"]}})
    found = {metric.name: (metric.type, [label.name for label in metric.labels]) for metric in probe.metrics}
    assert found == {
        "ebpf_bpftrace_io_opens_total": ("counter", ["comm", "result"]),
        "ebpf_bpftrace_io_us": ("histogram", []),
        "ebpf_bpftrace_io_bytes": ("gauge", []),
        "ebpf_bpftrace_io_all": ("summary", []),
        "ebpf_bpftrace_io_read_total": ("counter", []),
        "ebpf_bpftrace_io": ("gauge", []),
    }
    assert probe.metrics[0].help == "@opens of the bpftrace script io.bt: count()."


def test_types_labels_and_metrics_by_the_config(tmp_path: Path) -> None:
    """A plain number may be a counter, a map of the script's own may be shown, and what is not wanted is not."""
    types = {"bytes": "counter", "t": "gauge", "us": "none", "@all": "none"}
    wanted = ["ebpf_bpftrace_io_bytes_total", "ebpf_bpftrace_io_t"]
    probe = load(tmp_path, {"bpftrace": SCRIPT, "types": types, "metrics": wanted, "max_series": 7})
    assert [metric.name for metric in probe.metrics] == wanted
    assert [label.name for label in probe.metrics[1].labels] == ["key"]
    assert probe.script is not None
    assert [map_.name for map_ in probe.script.maps] == ["@bytes", "@t"]
    assert probe.max_series == 7


def test_a_file_beside_the_config_and_one_beside_a_probes_yaml(tmp_path: Path) -> None:
    """Relative to the folder of what names it."""
    (tmp_path / "a.bt").write_text(SCRIPT)
    assert load(tmp_path, {"bpftrace": "a.bt"}).script == load(tmp_path, {"bpftrace": str(tmp_path / "a.bt")}).script
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "b.bt").write_text(SCRIPT)
    declared = {"purpose": "A  test.", "bpftrace": "b.bt", "label_names": {"opens": ["comm", "result"]}}
    (folder / "io.yaml").write_text(json.dumps(declared))
    probe = load(tmp_path, {}, probe_folders=["mine"])
    assert probe.purpose == "A test."
    assert probe.script is not None
    assert probe.script.file == "b.bt"
    assert [label.name for label in probe.metrics[0].labels] == ["comm", "result"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bpftrace": "no.bt"}, "no.bt cannot be read: No such file or directory"),
        ({"bpftrace": "BEGIN { }"}, "io.bt has no map to show, such as @opens = count()"),
        ({"bpftrace": "BEGIN { @ebpf_exporter = 1; }"}, "is the exporter's own: rename it"),
        ({"bpftrace": SCRIPT, "label_names": {"open": ["a", "b"]}}, "has no such map; did you mean 'opens'?"),
        ({"bpftrace": SCRIPT, "label_names": {"opens": ["a"]}}, "has a key of 2 parts, and here are 1 names"),
        ({"bpftrace": SCRIPT, "label_names": {"opens": ["a", "le"]}}, "can't have a label le"),
        ({"bpftrace": SCRIPT, "types": {"us": "gauge"}}, "@us is a histogram by hist()"),
        ({"bpftrace": SCRIPT, "labels": ["comm"]}, "is a bpftrace script: this is not for it"),
        ({"bpftrace": SCRIPT, "metrics": ["ebpf_bpftrace_io_usx"]}, "did you mean 'ebpf_bpftrace_io_us'?"),
        ({"bpftrace": "BEGIN { @a = count(); @a_total = count(); }"}, "cannot be told from"),
        ({"bpftrace": "BEGIN { @a = stats(1); @a_sum = 3; }"}, "cannot be told from"),
    ],
)
def test_mistakes_are_said(tmp_path: Path, settings: object, message: str) -> None:
    """Each with what would be right."""
    assert any(message in found for found in refused(tmp_path, settings)), refused(tmp_path, settings)


def test_what_is_no_file(tmp_path: Path) -> None:
    """A FIFO nobody writes to, a device without an end and a folder are not read; a file is, up to a limit."""
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "/dev/zero", "."):
        [message] = refused(tmp_path, {"bpftrace": name})
        assert message == f"probes.io.bpftrace: {tmp_path / name} is no regular file"
    with (tmp_path / "large.bt").open("wb") as file:
        file.write(SCRIPT.encode())
        file.truncate(1 << 36)
    [message] = refused(tmp_path, {"bpftrace": "large.bt"})
    assert message == f"probes.io.bpftrace: {tmp_path}/large.bt is no bpftrace script"


def test_settings_of_scripts_are_not_for_others(tmp_path: Path) -> None:
    """A probe in C has its labels in its YAML."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"probes": {"file_opens": {"label_names": {"a": ["b"]}}}}))
    with pytest.raises(ConfigError, match="file_opens is no bpftrace script"):
        catalog.load(config.load(path))


def test_the_example_is_good(tmp_path: Path) -> None:
    """bpf/examples/opensnoop.bt, as its head says to use it."""
    example = Path(__file__).resolve().parents[3] / "bpf" / "examples" / "opensnoop.bt"
    probe = load(tmp_path, {"bpftrace": str(example), "label_names": {"opens": ["comm", "result"]}})
    assert [metric.name for metric in probe.metrics] == ["ebpf_bpftrace_io_opens_total", "ebpf_bpftrace_io_latency_us"]
