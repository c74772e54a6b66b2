# SPDX-License-Identifier: Apache-2.0
"""config.py: defaults, every setting's form, and the shipped config."""

from pathlib import Path

import pytest

from exporter import config
from exporter.config import Settings
from exporter.errors import ConfigError

from .conftest import Write

ROOT = Path(__file__).resolve().parents[2]


def problems(path: Path) -> str:
    """All that is told of a config: in what was read of it, or instead of it."""
    try:
        return str(ConfigError(list(config.load(path).problems)))
    except ConfigError as error:
        return str(error)


def test_defaults(write: Write) -> None:
    """A config that only names a probe listens on localhost:9435 and reads every five seconds."""
    found = config.load(write("config.yaml", "probes: {file_opens: {}}\n"))
    assert (found.listen, found.interval, found.probe_folders) == ((("localhost", 9435),), 5.0, ())
    assert found.probes == {"file_opens": Settings()}


def test_shipped_config() -> None:
    """The config that is shipped is good and has all that its comments say."""
    found = config.load(ROOT / "config.yaml")
    assert (found.listen, found.interval, found.probe_folders) == ((("localhost", 9435),), 5.0, ())
    assert found.probes == {
        "file_io": Settings(labels=("op", "comm", "file"), max_series=1000),
        "file_opens": Settings(),
        "shell_commands": Settings(),
        "process_execs": Settings(),
        "xdp": Settings(interfaces=("auto",)),
    }


def test_every_setting_of_a_probe(write: Write) -> None:
    """Each setting arrives; a probe that has none, by {} or by nothing, has its defaults."""
    found = config.load(
        write(
            "config.yaml",
            "probes:\n"
            "  a: {labels: [], metrics: [ebpf_a_total], max_series: 7, options: {all: true, n: 3}}\n"
            "  b: {interfaces: [eth*, auto], mode: native}\n"
            "  c:\n",
        )
    )
    assert found.probes == {
        "a": Settings(labels=(), metrics=("ebpf_a_total",), max_series=7, options=(("all", 1), ("n", 3))),
        "b": Settings(interfaces=("eth*", "auto"), mode="native"),
        "c": Settings(),
    }


def test_folders_are_relative_to_the_config(write: Write, tmp_path: Path) -> None:
    """A relative folder is one beside the config; an absolute one is itself."""
    found = config.load(write("config.yaml", "probe_folders: [mine, /srv/probes]\nprobes: {a: {}}\n"))
    assert found.probe_folders == (tmp_path / "mine", Path("/srv/probes"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:9435", ("localhost", 9435)),
        (":9435", ("", 9435)),
        ("[::1]:9435", ("::1", 9435)),
        ("[::]:80", ("::", 80)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("[fe80::1%eth0.5]:1", ("fe80::1%eth0.5", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("metrics.example.org:8080", ("metrics.example.org", 8080)),
    ],
)
def test_address(write: Write, text: str, address: tuple[str, int]) -> None:
    """HOST:PORT is split at the last colon, brackets are taken off."""
    assert config.load(write("config.yaml", f"listen: ['{text}']\nprobes: {{a: {{}}}}\n")).listen == (address,)


@pytest.mark.parametrize(
    ("text", "found"),
    [("localhost", "'localhost'"), ("::1:9435", "'::1:9435'"), ("localhost:x", "'localhost:x'"), ("[::1]", "'[::1]'"),
     ("http://localhost:9435", "'http://localhost:9435'"), ("localhost:123456", "'localhost:123456'"), ("", "''")],
)  # fmt: skip
def test_what_is_no_address(write: Write, text: str, found: str) -> None:
    """What is not HOST:PORT is refused with examples of what is."""
    path = write("config.yaml", f"probes: {{a: {{}}}}\nlisten:\n- '{text}'\n")
    told = problems(path)
    expected = "HOST:PORT, such as localhost:9435, [::1]:9435 or :9435 for all addresses"
    assert told == f"{path}:3: listen.0: expected {expected}, found {found}"


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_port_out_of_range(write: Write, port: int) -> None:
    """A port that does not exist is refused, with its line."""
    path = write("config.yaml", f"probes: {{a: {{}}}}\nlisten:\n- ':1'\n- ':{port}'\n")
    told = problems(path)
    assert told == f"{path}:4: listen.1: expected a port from 1 to 65535, found {port}"


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("5s", 5.0), ("1m", 60.0), ("999999ms", 999.999)])
def test_interval(write: Write, text: str, seconds: float) -> None:
    """An interval has its unit, and is kept in seconds."""
    assert config.load(write("config.yaml", f"interval: {text}\nprobes: {{a: {{}}}}\n")).interval == seconds


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("interval: 5", "1: interval: expected a duration such as 500ms, 5s or 1m, found 5"),
        ("interval: 0s", "1: interval: expected a duration such as 500ms, 5s or 1m, found '0s'"),
        ("interval: -1s", "1: interval: expected a duration such as 500ms, 5s or 1m, found '-1s'"),
        ("interval: 1h", "1: interval: expected a duration such as 500ms, 5s or 1m, found '1h'"),
        ("interval: 1.5s", "1: interval: expected a duration such as 500ms, 5s or 1m, found '1.5s'"),
        ('interval: "5s\\n"', "1: interval: expected a duration such as 500ms, 5s or 1m, found '5s\\n'"),
        ("listen: :80", "1: listen: expected a list of addresses, such as [localhost:9435], found ':80'"),
        ("listen: []", "1: listen: expected a list of addresses, such as [localhost:9435], found []"),
        ("probe_folders: mine", "1: probe_folders: expected a list of folders, found 'mine'"),
        ("probe_folders: [3]", "1: probe_folders.0: expected a folder, found 3"),
        ("lisen: [':1']", "1: lisen: unknown key; did you mean 'listen'? "
                           "allowed: listen, interval, probe_folders, web_config, probes"),
    ],
)  # fmt: skip
def test_setting_of_a_wrong_form(write: Write, text: str, problem: str) -> None:
    """A setting of a wrong form is told with file, line, what is expected and what was found."""
    path = write("config.yaml", f"{text}\nprobes: {{a: {{}}}}\n")
    told = problems(path)
    assert told == f"{path}:{problem}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("labels: comm", "labels: expected a list of label names, found 'comm'"),
        ("labels: [3]", "labels.0: expected a name of small letters, digits and _, found 3"),
        ("metrics: []", "metrics: expected a list of metric names, found []"),
        ("max_series: 0", "max_series: expected a number of series from 1 to 10000000, found 0"),
        ("max_series: 10000001", "max_series: expected a number of series from 1 to 10000000, found 10000001"),
        ("max_series: many", "max_series: expected a number of series from 1 to 10000000, found 'many'"),
        ("max_series: true", "max_series: expected a number of series from 1 to 10000000, found True"),
        ("options: [all]", "options: expected the probe's options, such as {all_files: true}, found ['all']"),
        ("options: {all: maybe}", "options.all: expected true, false or a number, found 'maybe'"),
        ("interfaces: eth0", "interfaces: expected a list, each an interface, a glob, auto or containers, "
                             "found 'eth0'"),
        ("interfaces: [name_of_16_chars]", "interfaces.0: expected an interface, a glob, auto or containers, "
                                           "found 'name_of_16_chars'"),
        ("mode: fast", "mode: expected one of auto, native, generic, found 'fast'"),
        ("lables: [comm]", "lables: unknown key; did you mean 'labels'? "
                           "allowed: labels, metrics, max_series, max_cpu_percent, options, interfaces, "
                           "mode, rules, bpftrace, label_names, types"),
    ],
)  # fmt: skip
def test_probe_setting_of_a_wrong_form(write: Write, text: str, problem: str) -> None:
    """A probe's setting of a wrong form is told with file and line."""
    path = write("config.yaml", f"probes:\n  a:\n    {text}\n")
    told = problems(path)
    assert told == f"{path}:3: probes.a.{problem}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("interval: 5s", "1: lacks 'probes'"),
        ("probes: {}", "1: probes: expected the probes to run, such as {file_opens: {}}, found {}"),
        ("probes: [xdp]", "1: probes: expected the probes to run, such as {file_opens: {}}, found ['xdp']"),
        ("probes:\n  xdp: true", "2: probes.xdp: expected the probe's settings, or {} for its defaults, found True"),
        ("probes:\n  a: {}\n  A-B: {}", "3: probes.A-B: not a valid name; "
                                      "expected a name of small letters, digits and _"),
        ("just text", "1: expected settings, such as probes:, found 'just text'"),
        ("", "1: expected settings, such as probes:, found nothing"),
    ],
)  # fmt: skip
def test_probes_of_a_wrong_form(write: Write, text: str, problem: str) -> None:
    """A config that names no probes, or names them wrongly, is told so."""
    path = write("config.yaml", text)
    told = problems(path)
    assert told == f"{path}:{problem}"
