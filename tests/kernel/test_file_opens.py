# SPDX-License-Identifier: Apache-2.0
"""The probe file_opens against known numbers of opens: both its mechanisms have to say the same."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kernel.conftest import Workload, lacks
from tests.kernel.daemon import ROOT, Daemon, by, count

TOTAL = "ebpf_file_opens_total"
MECHANISMS = ("tracepoint", "kprobe+kretprobe")  # as in the YAML


def only(mechanism: str, folder: Path) -> Path:
    """Returns a folder with file_opens as shipped, but for its other mechanism."""
    declared: dict[str, Any] = yaml.safe_load((ROOT / "bpf" / "file_opens.yaml").read_text())
    declared["attach"] = [declared["attach"][MECHANISMS.index(mechanism)]]
    folder.mkdir()
    (folder / "file_opens.yaml").write_text(yaml.safe_dump(declared))
    shutil.copy(ROOT / "bpf" / "file_opens.c", folder)
    return folder


def require(daemon: Daemon, mechanism: str) -> None:
    status = daemon.status("file_opens")
    if status["state"] == "failed":
        lacks(mechanism, status["reason"])
    assert set(status["mechanism"].split("+")) <= set(mechanism.split("+"))


@pytest.mark.matrix
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_opens_are_counted_by_result(mechanism: str, tmp_path: Path, workload: Workload) -> None:
    """23 opens by four system calls, of which 7 fail, read as 16 ok and the errors by name."""
    (tmp_path / "file").touch()
    with Daemon({"file_opens": {}}, folder=only(mechanism, tmp_path / "probes")) as daemon:
        require(daemon, mechanism)
        before = by(daemon.samples(), "result", TOTAL, comm="opener-a")
        truth = workload("opener-a", "opens", tmp_path, 16, 7)
        after = by(daemon.samples(), "result", TOTAL, comm="opener-a")
    assert before == {}
    assert truth == {"ok": 16, "ENOENT": 5, "EISDIR": 2}
    assert after == {"ok": 16, "ENOENT": 5, "EISDIR": 2}


@pytest.mark.matrix
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_label_file_names_the_path(mechanism: str, tmp_path: Path, workload: Workload) -> None:
    """With the label file, each path that was asked for has its count, in the words of the program."""
    settings = {"labels": ["file", "result"]}
    with Daemon({"file_opens": settings}, folder=only(mechanism, tmp_path / "probes")) as daemon:
        require(daemon, mechanism)
        workload("opener-b", "opens", "../mine", 16, 7, cwd=_named(tmp_path, "mine"))
        samples = daemon.samples()
    assert by(samples, "result", TOTAL, file="../mine/file") == {"ok": 16}
    assert by(samples, "result", TOTAL, file="../mine/missing/file") == {"ENOENT": 5}
    assert by(samples, "result", TOTAL, file="../mine") == {"EISDIR": 2}


def _named(folder: Path, name: str) -> Path:
    named = folder / name
    named.mkdir()
    (named / "file").touch()
    return named


@pytest.mark.anywhere
def test_labels_left_out_are_not_on_the_page_and_sums_hold(tmp_path: Path, workload: Workload) -> None:
    """With the label result alone there is no comm, and failures that nobody else has are counted to the last one."""
    (tmp_path / "file").touch()
    with Daemon({"file_opens": {"labels": ["result"]}}) as daemon:
        before = daemon.samples()
        workload("opener-c", "opens", tmp_path, 16, 7)
        after = daemon.samples()
    assert {frozenset(dict(labels)) for name, labels in after if name == TOTAL} == {frozenset({"result"})}
    assert count(after, TOTAL, result="EISDIR") - count(before, TOTAL, result="EISDIR") == 2


@pytest.mark.anywhere
def test_more_names_than_the_kernel_map_holds_are_counted_to_the_last_one(tmp_path: Path, workload: Workload) -> None:
    """20,011 process names against maps of 10,240 and a budget of 100 series: no event is lost."""
    file = tmp_path / "file"
    file.touch()
    with Daemon({"file_opens": {"max_series": 100}}, interval="60s") as daemon:
        samples = daemon.samples()
        before = count(samples, TOTAL, result="ok")
        # opens of this host's other processes in the meantime have other names: those are told apart at the end
        workload("renamer", "renames", file, 20_011)
        samples = daemon.samples()
        other = count(samples, TOTAL, result="ok", comm="(other)")
        own = sum(value for name, value in by(samples, "comm", TOTAL, result="ok").items() if _renamed(name))
        overflowed = count(samples, "ebpf_exporter_events_overflowed_total", metric=TOTAL)
        series = count(samples, "ebpf_exporter_series", metric=TOTAL)
        folded = count(samples, "ebpf_exporter_series_folded_total", metric=TOTAL)
        total = count(samples, TOTAL, result="ok")
    # other processes open files too: what is above the truth is theirs, and never more than all that was added
    assert 20_011 <= own + other <= total
    assert total - before >= 20_011
    assert own <= 100
    assert overflowed >= 20_011 - 10_240
    assert folded >= 10_240 - 200
    assert series <= 100 + len(by(samples, "result", TOTAL))


def _renamed(name: str) -> bool:
    return name.startswith("r") and name[1:].isdigit()
