# SPDX-License-Identifier: Apache-2.0
"""catalog.py: probes from pairs of files, with the config's word applied, and every fault that both can have."""

import re
from pathlib import Path

import pytest

from exporter import catalog, config
from exporter.errors import ConfigError
from exporter.probe import Hook, Mechanism, Probe, Program, Selftest

from .conftest import Write

SHIPPED = sorted(path.stem for path in catalog.SHIPPED.glob("*.yaml"))

YAML = """\
purpose: Counts
  things.
attach:
  on_thing: tracepoint:a:b
metrics:
  ebpf_things_total:
    type: counter
    help: Things.
    labels:
      comm: comm
      result: errno
"""
C = "int on_thing(void *args) { return 0; }\n"


def load(write: Write, probes: str, folders: str = "[mine]") -> list[Probe]:
    """Loads a config beside which is the folder ``mine``; probes is YAML in one line."""
    return catalog.load(config.load(write("config.yaml", f"probe_folders: {folders}\nprobes: {probes}\n")))


def problems(write: Write, probes: str, folders: str = "[mine]") -> list[str]:
    """The problems of such a config, without the path of the test's folder."""
    with pytest.raises(ConfigError) as caught:
        load(write, probes, folders)
    folder = write("x", "").parent
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def read_problems(write: Write, yaml: str, c: str = C) -> list[str]:
    """The problems of a pair of files itself."""
    write("p.c", c)
    path = write("p.yaml", yaml)
    with pytest.raises(ConfigError) as caught:
        catalog.read(path)
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_probe_loads(write: Write, name: str) -> None:
    """Each pair in bpf/ is a probe, with a sentence for people, metrics of its own prefix, and its C beside it."""
    [probe] = load(write, f"{{{name}: {{}}}}", "[]")
    assert (probe.name, probe.source) == (name, catalog.SHIPPED / f"{name}.c")
    assert probe.purpose.endswith(".")
    assert [metric.name for metric in probe.metrics if not metric.name.startswith("ebpf_")] == []
    assert [metric.help for metric in probe.metrics if not metric.help.endswith(".")] == []


# prometheus.io/docs/practices/naming: base units; of these, what a kernel's numbers can be brought to
BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_celsius", "_meters", "_volts", "_amperes", "_joules", "_grams")
MULTIPLES = re.compile("_(nano|micro|milli|centi|kilo|kibi|mega|mebi|giga|gibi|minutes|hours|days|bits|[mun]s_|[km]b_)")


@pytest.mark.parametrize("name", SHIPPED)
def test_names_of_shipped_metrics_carry_units(name: str) -> None:
    """A counter ends in _total, a histogram in its base unit; no name has a multiple of a unit, nanoseconds are scaled
    to seconds, and nothing but those is scaled."""
    for metric in catalog.read(catalog.SHIPPED / f"{name}.yaml").metrics:
        assert metric.name.endswith("_total" if metric.type == "counter" else BASE_UNITS), metric.name
        assert not MULTIPLES.search(metric.name), metric.name
        unit = metric.name.removesuffix("_total").rpartition("_")[2]
        assert metric.scale == (1e-9 if unit == "seconds" else 1.0), metric.name


def test_all_shipped_probes_together(write: Write) -> None:
    """No metric of a shipped probe is another's too, and they come in the config's order."""
    names = list(reversed(SHIPPED))
    probes = load(write, "{" + ", ".join(f"{name}: {{}}" for name in names) + "}", "[]")
    assert [probe.name for probe in probes] == names


def test_a_users_probe(write: Write, tmp_path: Path) -> None:
    """A pair in a folder that the config names is a probe like those shipped."""
    write("mine/things.yaml", YAML)
    write("mine/things.c", C)
    [probe] = load(write, "{things: {}}")
    assert probe.name == "things"
    assert probe.purpose == "Counts things."
    assert (probe.declaration, probe.source) == (tmp_path / "mine/things.yaml", tmp_path / "mine/things.c")
    assert probe.mechanisms == (Mechanism((Program("on_thing", (Hook("tracepoint", "a:b"),)),)),)
    [metric] = probe.metrics
    assert (metric.name, metric.type, metric.help, metric.chosen) == ("ebpf_things_total", "counter", "Things.", True)
    assert [(label.name, label.kind.name, label.chosen) for label in metric.labels] == [
        ("comm", "comm", True),
        ("result", "errno", True),
    ]
    assert (probe.max_series, probe.interfaces, probe.mode) == (1000, (), "auto")


ATTACH = """\
purpose: Counts.
attach:
  - one: {hooks: [kprobe:a, {hook: kretprobe:b, optional: true}], for: [comm]}
    two: [fentry:c]
  - three: xdp
options:
  all: {default: true, help: All.}
  most: {default: 3, help: Most.}
metrics:
  ebpf_p_total: {type: counter, help: Help., labels: {comm: {kind: comm, default: false}, op: [read, write]}}
  ebpf_p_seconds: {type: histogram, help: Help., default: false, scale: 1.0e-9, exponents: [3, 5]}
"""


def test_a_probe_has_its_c(write: Write) -> None:
    """What is in the C is a part of the probe, so that two readings of a config tell whether it is the same; bytes that
    are no UTF-8, in a comment say, are no fault."""
    write("mine/p.yaml", YAML)
    c = write("mine/p.c", C)
    [before] = load(write, "{p: {}}")
    assert load(write, "{p: {}}") == [before]
    c.write_bytes(b"/* caf\xe9 */\n" + C.encode())
    [after] = load(write, "{p: {}}")
    assert after.c == f"/* caf\N{REPLACEMENT CHARACTER} */\n{C}"
    assert after != before


def test_a_probe_on_other_lines_is_the_same(write: Write) -> None:
    """Of a probe in the config, where it stands is not what it is: lines above it come and go."""
    probe = """{attach: tracepoint:a:b, metrics: {ebpf_a_total: {type: counter, help: A., labels: {c: args.c}}}}"""
    text = f"probes:\n  p: {probe}\n"
    one, other = (catalog.load(config.load(write("config.yaml", part + text))) for part in ("", "# a comment\n"))
    assert one == other


def test_every_form_of_a_declaration(write: Write) -> None:
    """Hooks, lists of them, optional ones, several mechanisms, options, defaults and histograms arrive as written."""
    write("p.c", "int one(void *x) {} int two(void *x) {} int three(void *x) {}")
    probe = catalog.read(write("p.yaml", ATTACH))
    assert probe.mechanisms == (
        Mechanism(
            (
                Program("one", (Hook("kprobe", "a"), Hook("kretprobe", "b", optional=True)), ("comm",)),
                Program("two", (Hook("fentry", "c"),)),
            )
        ),
        Mechanism((Program("three", (Hook("xdp", ""),)),)),
    )
    assert probe.options == (("all", 1), ("most", 3))
    counts, seconds = probe.metrics
    assert [(label.name, label.kind.values, label.chosen) for label in counts.labels] == [
        ("comm", (), False),
        ("op", ("read", "write"), True),
    ]
    assert (seconds.type, seconds.chosen, seconds.scale, seconds.bounds) == ("histogram", False, 1e-9, (8, 16, 32))


def test_labels_of_the_config(write: Write) -> None:
    """The labels that the config names are chosen, and no others, whatever the probe's defaults are."""
    [probe] = load(write, "{file_opens: {labels: [file, result]}}", "[]")
    assert [(label.name, label.chosen) for label in probe.metrics[0].labels] == [
        ("comm", False),
        ("file", True),
        ("result", True),
    ]


def test_no_labels(write: Write) -> None:
    """An empty list leaves out every label."""
    [probe] = load(write, "{file_io: {labels: []}}", "[]")
    assert probe.chosen_names == {metric.name for metric in probe.metrics if metric.chosen}


def test_metrics_of_the_config(write: Write) -> None:
    """The metrics that the config names are chosen, and programs that only others need are left out."""
    [probe] = load(write, "{file_io: {metrics: [ebpf_file_io_bytes_total]}}", "[]")
    assert [metric.name for metric in probe.metrics if metric.chosen] == ["ebpf_file_io_bytes_total"]
    assert [program.name for program in probe.programs(probe.mechanisms[0])] == [
        "read_done",
        "write_done",
        "readv_done",
        "writev_done",
    ]


def test_the_rest_of_the_config(write: Write) -> None:
    """Options, the budget, interfaces and the mode are the config's where it has them, else the probe's."""
    file_io, xdp = load(
        write, "{file_io: {options: {all_files: true}, max_series: 7}, xdp: {interfaces: [eth0], mode: native}}", "[]"
    )
    assert (file_io.options, file_io.max_series, file_io.interfaces) == ((("all_files", 1),), 7, ())
    assert (xdp.interfaces, xdp.mode, xdp.max_series) == (("eth0",), "native", 1000)


def test_interfaces_by_default(write: Write) -> None:
    """A probe of XDP is on the default route's interface."""
    [probe] = load(write, "{xdp: {}}", "[]")
    assert (probe.interfaces, probe.mode) == (("auto",), "auto")


ALL = ", ".join(SHIPPED)


@pytest.mark.parametrize(
    ("probes", "problem"),
    [
        ("{file_opns: {}}", f"probes.file_opns: unknown probe; did you mean 'file_opens'? allowed: {ALL}"),
        ("{zzzzz: {}}", f"probes.zzzzz: unknown probe; allowed: {ALL}"),
        (
            "{file_opens: {labels: [comm, reslt]}}",
            "probes.file_opens.labels.1: 'reslt' is not of file_opens; "
            "did you mean 'result'? allowed: comm, file, result",
        ),
        (
            "{file_opens: {metrics: [ebpf_file_io_bytes_total]}}",
            "probes.file_opens.metrics.0: 'ebpf_file_io_bytes_total' is not of file_opens; "
            "did you mean 'ebpf_file_opens_total'? allowed: ebpf_file_opens_total",
        ),
        (
            "{file_io: {options: {all: true}}}",
            "probes.file_io.options.all: 'all' is not of file_io; allowed: all_files",
        ),
        ("{file_opens: {options: {x: 1}}}", "probes.file_opens.options.x: 'x' is not of file_opens; allowed: none"),
        (
            "{file_opens: {interfaces: [eth0]}}",
            "probes.file_opens.interfaces: file_opens is not attached to interfaces",
        ),
        ("{file_opens: {mode: native}}", "probes.file_opens.mode: file_opens is not attached by XDP"),
    ],
)  # fmt: skip
def test_what_the_probe_lacks(write: Write, probes: str, problem: str) -> None:
    """What the config names and a probe does not have is told with what it has."""
    assert problems(write, probes, "[]") == [f"config.yaml:2: {problem}"]


def test_all_problems_at_once(write: Write) -> None:
    """A fault of one probe hides none of another's, nor a fault of the same."""
    found = problems(write, "{absent: {}, file_opens: {labels: [x, y], mode: auto}, xdp: {labels: [z]}}", "[nowhere]")
    assert [problem.split(": ")[1] for problem in found] == [
        "probe_folders.0",
        "probes.absent",
        "probes.file_opens.labels.0",
        "probes.file_opens.labels.1",
        "probes.file_opens.mode",
        "probes.xdp.labels.0",
    ]


def test_a_fault_of_the_form_hides_none_of_the_matter(write: Write) -> None:
    """An unknown setting and an unknown probe are told together, each with its line."""
    found = problems(write, "{absent: {}, xdp: {foo: 1}, file_opens: {labels: [x], max_series: many}}", "3")
    assert [problem.split(": ")[1] for problem in found] == [
        "probe_folders",
        "probes.absent",
        "probes.file_opens.labels.0",
        "probes.file_opens.max_series",
        "probes.xdp.foo",
    ]


def test_a_folder_that_is_none(write: Write, tmp_path: Path) -> None:
    """A probe folder that does not exist is told, with its line."""
    assert problems(write, "{xdp: {}}", "[nowhere]") == [
        "config.yaml:1: probe_folders.0: nowhere is not a folder that can be read",
    ]
    assert not (tmp_path / "nowhere").exists()


def test_a_metric_of_two_probes(write: Write) -> None:
    """A metric's name is one probe's."""
    for name in ("one", "two"):
        write(f"mine/{name}.yaml", YAML)
        write(f"mine/{name}.c", C)
    assert problems(write, "{one: {}, two: {}}") == [
        "mine/two.yaml: ebpf_things_total cannot be told from ebpf_things_total of the probe one: rename it"
    ]


def test_a_probe_of_ones_own_takes_a_shipped_ones_place(write: Write) -> None:
    """A probe in a folder of the config's that has a shipped one's name is the one that runs."""
    mine = write("mine/file_opens.yaml", YAML)
    write("mine/file_opens.c", C)
    assert [probe.declaration for probe in load(write, "{file_opens: {}}")] == [mine]


def test_a_name_of_two_folders(write: Write) -> None:
    """A probe that is in two of the config's folders is a problem: nobody can see which of them runs."""
    for folder in ("mine", "yours"):
        write(f"{folder}/thing.yaml", YAML)
        write(f"{folder}/thing.c", C)
    [problem] = problems(write, "{thing: {}}", folders="[mine, yours]")
    assert "thing: is in more than one folder: " in problem


def test_a_probe_that_is_not_in_the_config_is_not_read(write: Write) -> None:
    """A broken pair of files in a folder is no problem of a config that does not name it."""
    write("mine/broken.yaml", "purpose: [")
    assert [probe.name for probe in load(write, "{xdp: {}}")] == ["xdp"]


def test_yaml_without_its_c(write: Write, tmp_path: Path) -> None:
    """A YAML whose C is missing is told, with the C's path."""
    path = write("p.yaml", YAML)
    with pytest.raises(ConfigError) as caught:
        catalog.read(path)
    expected = f"{tmp_path}/p.c: cannot be read: No such file or directory; it is the C of {path}"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("on_thing:", "on_thin:", "p.yaml:4: attach.on_thin: p.c has no function of this name"),
        (
            "on_thing: tracepoint:a:b",
            "on_thing: {hooks: [xdp], for: [commm]}",
            "p.yaml:4: attach.on_thing.for: 'commm': did you mean 'comm'? allowed: comm, ebpf_things_total, result",
        ),
        ("ebpf_things_total", "ebpf_things", "p.yaml:6: metrics.ebpf_things: the name of a counter, and of nothing"),
        (
            "type: counter",
            "type: summary",
            "p.yaml:7: metrics.ebpf_things_total.type: expected one of counter, gauge, histogram",
        ),
        (
            "ebpf_things_total:\n    type: counter",
            "ebpf_things:\n    type: histogram",
            "p.yaml:6: metrics.ebpf_things: a histogram needs exponents: [first, last]",
        ),
        (
            "type: counter",
            "type: counter\n    exponents: [1, 2]",
            "p.yaml:6: metrics.ebpf_things_total: exponents and bounds are for histograms",
        ),
        (
            "ebpf_things_total:\n    type: counter",
            "ebpf_things:\n    type: histogram\n    exponents: [5, 4]",
            "p.yaml:8: metrics.ebpf_things.exponents: the first is above the last",
        ),
        (
            "ebpf_things_total:\n    type: counter",
            "ebpf_things:\n    type: histogram\n    exponents: [5.0, 6.0]",
            "p.yaml:8: metrics.ebpf_things.exponents.0: expected",
        ),
        (
            "comm: comm",
            "comm: com",
            "p.yaml:10: metrics.ebpf_things_total.labels.comm: 'com' is no kind of label; allowed:",
        ),
        ("comm: comm", "comm: 3", "p.yaml:10: metrics.ebpf_things_total.labels.comm: expected a kind of label"),
        (
            "comm: comm",
            "le: comm",
            "p.yaml:10: metrics.ebpf_things_total.labels.le: is the name of a histogram's own label",
        ),
        (
            "ebpf_things_total:\n    type: counter",
            "ebpf_things:\n    type: histogram\n    exponents: [5, 6]\n    scale: .nan",
            "p.yaml:9: metrics.ebpf_things.scale: expected a factor",
        ),
        ("purpose:", "purpos:", "p.yaml:1: purpos: unknown key; did you mean 'purpose'?"),
        ("ebpf_things_total", "things_total", "p.yaml:6: metrics.things_total: "),
    ],
)  # fmt: skip
def test_faults_of_a_pair(write: Write, before: str, after: str, problem: str) -> None:
    """Each fault of a declaration is told with its line before anything is compiled."""
    assert before in YAML
    assert problem in [found[: len(problem)] for found in read_problems(write, YAML.replace(before, after))]


@pytest.mark.parametrize("hook", ["tracepint:a:b", "'tracepoint:'", "[]", "3"])
def test_what_is_no_hook(write: Write, hook: str) -> None:
    """A hook of a wrong form is told with the line and the place that it stands at, not those of what is around it."""
    [problem] = read_problems(write, YAML.replace("tracepoint:a:b", hook))
    assert problem.startswith("p.yaml:4: attach.on_thing: expected a hook such as ")


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        ("software:page-fault:1", "software:page-fault:1: did you mean 'page-faults'? allowed: cpu-clock, "),
        ("hardware:page-faults", "hardware:page-faults: allowed: cpu-cycles, "),
        ("software:page-faults:0", "software:page-faults:0: expected software:EVENT:PERIOD"),
        ("profile:99", "profile:99: expected profile:hz:99"),
        ("profile:us:9", "profile:us:9: expected profile:hz:99, or s:N, ms:N, us:N from 10"),
        ("usdt:libc:setjmp", "usdt:libc:setjmp: expected usdt:FILE:PROVIDER:NAME"),
    ],
)
def test_what_cannot_be_counted_anywhere(write: Write, hook: str, problem: str) -> None:
    """Events and units are known without a kernel."""
    [found] = read_problems(write, YAML.replace("tracepoint:a:b", hook))
    assert found.partition("attach: ")[2].startswith(problem)


@pytest.mark.parametrize(
    "metrics",
    [
        "{ebpf_a_total: {type: counter, help: H.}, ebpf_a: {type: histogram, help: H., exponents: [1, 2]}}",
        "{ebpf_a: {type: histogram, help: H., exponents: [1, 2], labels: {bucket: u32}}}",
        "{ebpf_a_total: {type: counter, help: H., labels: {int: u32}}}",
        "{ebpf_a_total: {type: counter, help: H., labels: {op: [r]}}, "
        "ebpf_b_total: {type: counter, help: H., labels: {op: [r, w]}}}",
    ],
)
def test_names_that_clash_in_c(write: Write, metrics: str) -> None:
    """What would only be a compiler's error in C that nobody wrote is a problem of the YAML."""
    yaml = f"purpose: Counts.\nattach: {{on_thing: xdp}}\nmetrics: {metrics}\n"
    assert [problem.split(":")[0] for problem in read_problems(write, yaml)] == ["p.yaml"]


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("[/bin/true]", Selftest(("/bin/true",))),
        ('[/bin/sh, "", two words]', Selftest(("/bin/sh", "", "two words"))),
        ('{command: [/bin/bash, -i], terminal: "exit\\n"}', Selftest(("/bin/bash", "-i"), "exit\n")),
    ],
)
def test_selftests(write: Write, yaml: str, expected: Selftest) -> None:
    """A selftest is a command as a list of words, or one with what is typed to it."""
    write("p.c", C)
    assert catalog.read(write("p.yaml", f"{YAML}selftest: {yaml}\n")).selftest == expected


@pytest.mark.parametrize(
    ("yaml", "where"),
    [
        ("/bin/true", "selftest"),
        ("[]", "selftest"),
        ('[""]', "selftest.0"),
        ('[/bin/true, "a\\0b"]', "selftest.1"),
        ("[/bin/true, 3]", "selftest.1"),
        ("{command: [/bin/true]}", "selftest"),
        ("{command: [/bin/true], terminal: x, shell: true}", "selftest"),
    ],
)
def test_what_is_no_selftest(write: Write, yaml: str, where: str) -> None:
    """A selftest that execve(2) could not take is told with its place; a text for a shell to read is none either."""
    [problem] = read_problems(write, f"{YAML}selftest: {yaml}\n")
    assert problem.startswith(f"p.yaml:12: {where}: "), problem


def test_shipped_probes_have_selftests() -> None:
    """What makes a shipped probe count is known, but for packets, which others send."""
    without = [name for name in SHIPPED if not catalog.read(catalog.SHIPPED / f"{name}.yaml").selftest]
    assert without == ["container_net", "xdp"]


IN_CONFIG = """\
probes:
  things:
    attach: {on_thing: tracepoint:a:b}
    source: SOURCE
    metrics:
      ebpf_things_total: {type: counter, help: Things., labels: {comm: comm}}
"""


def in_config(write: Write, source: str) -> Probe:
    """The probe that a config declares, in a folder of its own, with its C in the file that source names."""
    [found] = catalog.load(config.load(write("etc/config.yaml", IN_CONFIG.replace("SOURCE", source))))
    return found


def test_the_c_of_a_probe_in_the_config(write: Write, tmp_path: Path) -> None:
    """source is relative to the config's folder, or a whole path; the probe is like those with a YAML of their own."""
    for name, source in (("etc/c/things.c", "c/things.c"), ("things.c", "../things.c"), ("etc/x.c", "x.c")):
        write(name, C)
        assert in_config(write, source).source == tmp_path / "etc" / source
    found = in_config(write, str(tmp_path / "things.c"))
    assert (found.source, found.declaration) == (tmp_path / "things.c", tmp_path / "etc" / "config.yaml")
    assert found.mechanisms == (Mechanism((Program("on_thing", (Hook("tracepoint", "a:b"),)),)),)


def test_what_is_said_of_c_functions_without_a_purpose(write: Write) -> None:
    """Two functions in C are no beginning and end."""
    attach = "{on_in: tracepoint:a:b, on_out: tracepoint:a:c}"
    write("c.c", "int on_in(void *args) { return 0; }\nint on_out(void *args) { return 0; }\n")
    text = IN_CONFIG.replace("{on_thing: tracepoint:a:b}", attach).replace("SOURCE", "c.c")
    [found] = catalog.load(config.load(write("config.yaml", text)))
    assert found.purpose == "Events of tracepoint:a:b, tracepoint:a:c."


ON_INTERFACES = """\
probes:
  things:
    attach: {on_thing: "HOOK"}
    source: c.c
    metrics:
      ebpf_things_total: {type: counter, help: Things.}
"""


@pytest.mark.parametrize(
    ("hook", "said", "interfaces", "mode"),
    [
        ("tc:ingress", "", ("auto",), "auto"),
        ("tc:egress", "interfaces: [containers, eth*]", ("containers", "eth*"), "auto"),
        ("xdp", "interfaces: [eth0]\n    mode: generic", ("eth0",), "generic"),
        ("tracepoint:a:b", "", (), "auto"),
    ],
)
def test_interfaces_of_a_probe_of_ones_own(
    write: Write, hook: str, said: str, interfaces: tuple[str, ...], mode: str
) -> None:
    """A probe's declaration says which interfaces it is for where the config does not; auto, where nobody does."""
    write("c.c", C)
    text = ON_INTERFACES.replace("HOOK", hook) + f"    {said}\n"
    [found] = catalog.load(config.load(write("config.yaml", text)))
    assert (found.interfaces, found.mode) == (interfaces, mode)


@pytest.mark.parametrize(
    ("hook", "said", "problem"),
    [
        ("tracepoint:a:b", "interfaces: [eth0]", "things.interfaces: things is not attached to interfaces"),
        ("tracepoint:a:b", "mode: native", "things.mode: things is not attached by XDP"),
        ("tc:ingress", "mode: native", "things.mode: things is not attached by XDP"),
        ("tc:out", "", "things.attach: tc:out: expected tc:ingress or tc:egress; a probe names its hooks one by one"),
    ],
)
def test_faults_of_probes_on_interfaces(write: Write, hook: str, said: str, problem: str) -> None:
    """What does not go with a probe's hooks is told where it stands."""
    write("c.c", C)
    text = ON_INTERFACES.replace("HOOK", hook) + f"    {said}\n"
    with pytest.raises(ConfigError) as caught:
        catalog.load(config.load(write("config.yaml", text)))
    assert [found.message for found in caught.value.problems] == [f"probes.{problem}"]


def test_expressions_have_no_packets(write: Write) -> None:
    """On interfaces there is C alone."""
    text = ON_INTERFACES.replace('{on_thing: "HOOK"}', "tc:egress").replace("    source: c.c\n", "")
    with pytest.raises(ConfigError, match="attach: tc:egress needs C: an expression has no packets"):
        catalog.load(config.load(write("config.yaml", text)))


def test_the_c_of_a_yaml_under_another_name(write: Write, tmp_path: Path) -> None:
    """Several declarations may share a C file."""
    write("shared.c", C)
    assert catalog.read(write("p.yaml", f"{YAML}source: shared.c\n")).source == tmp_path / "shared.c"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("absent.c", "etc/absent.c: cannot be read: No such file or directory; it is the C of etc/config.yaml"),
        (".", "etc: is no file of at most 4194304 bytes; it is the C of etc/config.yaml"),
        ("/dev/zero", "/dev/zero: is no file of at most 4194304 bytes; it is the C of etc/config.yaml"),
        ("empty.c", "etc/config.yaml:3: probes.things.attach.on_thing: etc/empty.c has no function of this name"),
        ("3", "etc/config.yaml:4: probes.things.source: expected a C file, found 3"),
        ('""', "etc/config.yaml:4: probes.things.source: expected a C file, found ''"),
        (r'"a\0b"', r"etc/config.yaml:4: probes.things.source: expected a C file, found 'a\x00b'"),
        (
            "null",
            "etc/config.yaml:4: probes.things.source: expected a C file, found nothing",
        ),
    ],
)
def test_c_that_is_none(write: Write, tmp_path: Path, source: str, problem: str) -> None:
    """A source that is no C with the functions that are attached is told with its place."""
    write("etc/empty.c", "")
    with pytest.raises(ConfigError) as caught:
        in_config(write, source)
    assert [str(one).replace(f"{tmp_path}/", "") for one in caught.value.problems] == [problem]


def test_a_probe_in_the_config_without_its_c(write: Write, tmp_path: Path) -> None:
    """C functions in the config need a source; what else may be meant is told too."""
    text = "\n".join(line for line in IN_CONFIG.splitlines() if "source" not in line)
    with pytest.raises(ConfigError) as caught:
        catalog.load(config.load(write("config.yaml", text + "\n")))
    expected = "names C functions; source: FILE says where they are, and a hook alone needs none"
    assert str(caught.value) == f"{tmp_path}/config.yaml:3: probes.things.attach: {expected}"
