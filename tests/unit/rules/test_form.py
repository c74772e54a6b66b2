# SPDX-License-Identifier: Apache-2.0
"""A config's rules: read with all that they may have, and every fault with its file and line."""

from pathlib import Path

import pytest

from exporter import catalog, config
from exporter.errors import ConfigError
from exporter.probe import Probe, numbered
from exporter.rules import form
from exporter.rules.rule import Networks, Rule
from tests.unit.conftest import Write

HEAD = "probes:\n  xdp:\n    rules:\n"


def read(path: Path) -> Probe:
    return catalog.load(config.load(path))[0]


def problems(write: Write, *rules: str) -> list[str]:
    """Returns what is wrong with rules, the first of which is in line 4."""
    path = write("config.yaml", HEAD + "".join(f"      - {rule}\n" for rule in rules))
    with pytest.raises(ConfigError) as caught:
        read(path)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


def test_all_that_a_rule_may_have(write: Write) -> None:
    """Words and lists become what packets are compared with; numbers follow the order."""
    write("lists/bad.txt", "# bad\n192.0.2.0/24 # one\n\n  2001:db8::/32\n10.0.0.1\n10.0.0.1\n")
    path = write(
        "config.yaml",
        HEAD
        + """      - {name: all, action: drop, source: [10.0.0.0/8, "::1"], source_file: lists/bad.txt}
      - {name: two, action: count, protocol: [tcp, 17], source_port: 53, destination_port: [80, 8000-8099]}
      - {name: three, action: pass, length: {min: 60, max: 64}, tcp_flags: [syn, not ack], destination: 10.0.0.1}
      - {name: four, action: drop, protocol: arp}
""",
    )
    found = read(path)
    assert found.rules == (
        Rule(
            "all",
            "drop",
            1,
            source=Networks(
                bytes([10, 0, 0, 0, 8, 10, 0, 0, 1, 32, 192, 0, 2, 0, 24]),
                bytes(15) + b"\x01\x80" + b"\x20\x01\x0d\xb8" + bytes(12) + b"\x20",
            ),
        ),
        Rule(
            "two",
            "count",
            2,
            protocols=frozenset([6, 17]),
            source_ports=((53, 53),),
            destination_ports=((80, 80), (8000, 8099)),
        ),
        Rule(
            "three",
            "pass",
            3,
            length=(60, 64),
            flags_set=2,
            flags_clear=16,
            destination=Networks(bytes([10, 0, 0, 1, 32])),
        ),
        Rule("four", "drop", 4, protocols=frozenset([256])),
    )
    assert found.rule_names == ("(other)", "all", "two", "three", "four")


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{action: drop}", "lacks 'name'"),
        ("{name: a}", "lacks 'action'"),
        ("drop", "expected a rule such as {name: scanners, action: drop, source: 192.0.2.0/24}, found 'drop'"),
        ("{name: a, action: dorp}", "action: 'dorp': did you mean 'drop'? allowed: drop, pass, count"),
        ("{name: a, action: drop, sorce: 1}", "sorce: unknown key; did you mean 'source'? allowed: name, action, "
         "source, source_file, destination, destination_file, protocol, source_port, destination_port, length, "
         "tcp_flags, direction, containers"),
        ("{name: a b, action: drop}", "name: expected a name of up to 63 letters, digits, _, . and -, found 'a b'"),
        ("{name: a, action: drop, source: []}", "source: is an empty list, which nothing meets; without it, "
                                                "everything does"),
        ("{name: a, action: drop, source: 10.0.0.1/8}", "source: 10.0.0.1/8: has bits beyond its prefix; 10.0.0.0/8 "
                                                        "is the network, 10.0.0.1 the address"),
        ("{name: a, action: drop, destination_port: [1, x]}", "destination_port.1: expected a port from 0 to 65535 or "
                                                              "a range such as 1000-2000, found 'x'"),
        ("{name: a, action: drop, tcp_flags: sym}", "tcp_flags: 'sym' is no flag such as syn or not ack; did you mean "
         "'syn'? allowed: fin, syn, rst, psh, ack, urg, ece, cwr"),
        ("{name: a, action: drop, source_file: 7}", "source_file: expected a file of networks, found 7"),
        ("{name: a, action: drop, protocol: icmp, source_port: 1}", "source_port: the protocol icmp has no ports; "
         "those that have: tcp, udp, dccp, sctp, udplite"),
        ("{name: a, action: drop, protocol: [tcp, 47], destination_port: 1}", "destination_port: the protocol gre has "
         "no ports; those that have: tcp, udp, dccp, sctp, udplite"),
        ("{name: a, action: drop, protocol: udp, tcp_flags: syn}", "tcp_flags: the protocol udp has none"),
        ("{name: a, action: drop, protocol: arp, source: 10.0.0.0/8}", "protocol: arp has no source that is looked at"),
        ("{name: a, action: drop, source: 10.0.0.0/8, destination: '::1'}", "name: source and destination have no IP "
                                                                            "version in common: no packet meets both"),
        ("{name: a, action: drop, direction: egress}", "direction: is for probes on containers' interfaces (tc)"),
        ("{name: a, action: drop, containers: x}", "containers: is for probes on containers' interfaces (tc)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_rule(write: Write, rule: str, problem: str) -> None:
    """A fault is told with line and place, what stands there, and what could."""
    separator = "" if problem.startswith(("lacks", "expected a rule")) else "."
    expected = f"4: probes.xdp.rules.0{separator or ': '}{problem}"
    assert problems(write, rule) == [expected]


def test_every_fault_is_told(write: Write) -> None:
    """All of a rule and of a list, and those of the rules after it."""
    told = problems(
        write,
        "{name: a, action: drop, source: [x, 10.0.0.0/8, y], protocol: z}",
        "{name: b, action: drop, length: 1}",
    )
    assert [problem.split(": ")[:2] for problem in told] == [
        ["4", "probes.xdp.rules.0.protocol"],
        ["4", "probes.xdp.rules.0.source.0"],
        ["4", "probes.xdp.rules.0.source.2"],
        ["5", "probes.xdp.rules.1.length"],
    ]


def test_names_are_used_once(write: Write) -> None:
    """Of two rules of a name the second is told, with the line of the first."""
    told = problems(write, "{name: a, action: drop}", "{name: b, action: drop}", "{name: a, action: pass}")
    assert told == ["6: probes.xdp.rules.2.name: 'a' is the name of the rule in line 4 as well"]


def test_bad_lines_of_a_file(write: Write) -> None:
    """Each bad line of a file of networks is told, by the file and its number."""
    file = write("bad.txt", "10.0.0.0/8\n10.0.0.1/8\n# no\n\nx # y\n\xff\n")
    path = write("config.yaml", HEAD + "      - {name: a, action: drop, source_file: bad.txt}\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert [(problem.path, problem.line) for problem in caught.value.problems] == [(file, 2), (file, 5), (file, 6)]


def test_files_that_are_none(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, is a folder, is too large or has no network in it is told where it is named."""
    monkeypatch.setattr(form, "MAX_FILE", 10)
    write("empty.txt", "# none\n")
    write("large.txt", "10.0.0.0/8\n")
    rules = [f"{{name: {name}, action: drop, source_file: {name}.txt}}" for name in ("gone", "empty", "large")]
    assert problems(write, *rules, "{name: x, action: drop, destination_file: .}") == [
        f"4: probes.xdp.rules.0.source_file: {tmp_path}/gone.txt cannot be read: No such file or directory",
        f"5: probes.xdp.rules.1.source_file: {tmp_path}/empty.txt has no network in it",
        f"6: probes.xdp.rules.2.source_file: {tmp_path}/large.txt is no file of at most 10 bytes",
        f"7: probes.xdp.rules.3.destination_file: {tmp_path} is no file of at most 10 bytes",
    ]


def test_too_many(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit to the networks of a rule, and one to rules."""
    monkeypatch.setattr(form, "MAX_NETWORKS", 1)
    told = problems(write, "{name: a, action: drop, source: [10.0.0.1, 10.0.0.2]}")
    assert told == ["4: probes.xdp.rules.0.source: 2 networks; a rule can have 1"]
    told = problems(write, *(f"{{name: r{number}, action: count}}" for number in range(10_001)))
    assert len(told) == 1
    assert told[0].startswith("3: probes.xdp.rules: expected a list of up to 10000 rules such as {name: scanners,")


def test_a_probe_that_takes_none(write: Write) -> None:
    """Rules are for probes whose YAML says which metric counts them."""
    path = write("config.yaml", "probes:\n  file_opens:\n    rules: [{name: a, action: drop}]\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value) == f"{path}:3: probes.file_opens.rules: file_opens takes no rules"


def test_without_rules_their_metric_is_not_counted(write: Write) -> None:
    """What counts rules is there only with rules, and only if the config does not leave it out."""
    rule = "rules: [{name: a, action: drop}]"
    for settings, chosen in (("{}", False), (f"{{{rule}}}", True), (f"{{{rule}, metrics: [{PACKETS}]}}", False)):
        found = read(write("config.yaml", f"probes:\n  xdp: {settings}\n"))
        assert {metric.name: metric.chosen for metric in found.metrics}["ebpf_xdp_rule_packets_total"] is chosen


PACKETS = "ebpf_xdp_packets_total"


def test_a_name_keeps_its_number(write: Write) -> None:
    """With the names so far, a rule has the number that its name had, and a new name one that none had."""
    before = read(write("config.yaml", HEAD + "      - {name: a, action: drop}\n      - {name: b, action: drop}\n"))
    after = read(write("config.yaml", HEAD + "      - {name: c, action: drop}\n      - {name: b, action: pass}\n"))
    found = numbered(after, before.rule_names)
    assert [(rule.name, rule.number) for rule in found.rules] == [("c", 3), ("b", 2)]
    assert found.rule_names == ("(other)", "a", "b", "c")
    last = numbered(before, found.rule_names)
    assert [(rule.name, rule.number) for rule in last.rules] == [("a", 1), ("b", 2)]
    kinds = {label.kind.values for metric in last.metrics for label in metric.labels if label.kind.name == "rule"}
    assert kinds == {("(other)", "a", "b", "c")}
    with pytest.raises(ValueError, match=r"^rules have had 65535 names since the exporter started: start it again$"):
        numbered(before, [f"old{number}" for number in range(65_535)])


YAML = """
attach: {on_packet: HOOK}
rules: NAMED
metrics:
  ebpf_mine_total: {type: counter, help: Help., labels: {interface: interface}}
  ebpf_mine_rules_total: {type: counter, help: Help., labels: {LABELS}}
"""


@pytest.mark.parametrize(
    ("named", "hook", "labels", "problem"),
    [
        ("ebpf_mine_rule_total", "xdp", "a: u32", "3: rules: 'ebpf_mine_rule_total': did you mean "
         "'ebpf_mine_rules_total'? allowed: ebpf_mine_total, ebpf_mine_rules_total"),
        ("ebpf_mine_rules_total", "xdp", "a: u32", "3: rules: ebpf_mine_rules_total is to be a counter with one label "
                                                   "of the kind rule"),
        ("ebpf_mine_rules_total", "xdp", "a: rule, b: rule", "3: rules: ebpf_mine_rules_total is to be a counter with "
                                                             "one label of the kind rule"),
        ("ebpf_mine_rules_total", "kprobe:f", "a: rule", "3: rules: is for probes whose hooks are tc or xdp alone"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_probe(write: Write, named: str, hook: str, labels: str, problem: str) -> None:
    """The metric that a probe names is there, is a counter, and has one label for the rule."""
    text = YAML.replace("NAMED", named).replace("HOOK", hook).replace("LABELS", labels)
    path = write("probes/mine.yaml", text)
    write("probes/mine.c", "int on_packet(struct xdp_md *ctx) { return 0; }\n")
    with pytest.raises(ConfigError) as caught:
        catalog.read(path)
    assert str(caught.value) == f"{path}:{problem}"


def test_the_kind_rule_is_for_one_metric(write: Write) -> None:
    """Another metric cannot have it: nothing would fill it in."""
    text = YAML.replace("NAMED", "ebpf_mine_rules_total").replace("HOOK", "xdp").replace("LABELS", "rule: rule")
    path = write("probes/mine.yaml", text.replace("{interface: interface}", "{rule: rule, interface: interface}"))
    write("probes/mine.c", "int on_packet(struct xdp_md *ctx) { return 0; }\n")
    with pytest.raises(ConfigError, match="the kind rule is for the one metric that `rules:` names"):
        catalog.read(path)
