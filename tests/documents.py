# SPDX-License-Identifier: Apache-2.0
"""What the documents show: configs, probes and commands, for tests of whether they are good."""

import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
PROBES = DOCUMENTS["docs/probes.md"]

# Blocks that are no config and no probe in a file: how they begin -> the tests that run them, or why none does, and the
# tests of what they do. A block is of the one whose beginning is longest.
SHOWN = {
    "README.md": {
        "sudo apt-get install debhelper": "test_the_same_tree_gives_the_same_package, test_an_installed_package_counts",
        "sudo deploy/run": "not run: it would install packages, and serve on this host's own port",
        "ebpf-exporter  file_io": "test_what_the_readme_says_in_passing, test_a_running_exporter",
        "# ebpf-exporter reload": "test_the_readmes_reload",
        "# ebpf-exporter list": "test_what_the_readme_lists",
        "cd /etc/ebpf-exporter": "test_the_readmes_way_to_the_network",
        "sudo cp -r /usr/share": "not run: there is no Grafana; test_it_has_dashboards_rules_and_schemas",
        "INFO probe running": "test_the_readmes_log",
        "# ebpf-exporter doctor": "test_the_readmes_doctor",
    },
    "CONTRIBUTING.md": {
        "config.yaml + bpf/NAME.yaml": "not run: a drawing",
        "sudo tests/run ": "not run: this is how this test is run",
    },
    "docs/examples.md": {
        "purpose: ": "test_each_example_is_documented, test_example",
        "ebpf_": "test_example",
    },
    "docs/grafana.md": {
        "rule_files:": "test_the_documented_config_is_good",
        "promtool check config": "not run: it is of an installed Prometheus; test_the_documented_config_is_good",
        "sudo cp -r /usr/share": "not run: there is no Grafana; test_it_has_dashboards_rules_and_schemas",
        "/var/cache/ebpf-exporter-tests/venv": "test_what_is_kept_is_what_the_source_makes",
    },
    "docs/installing.md": {
        "sudo apt-get install debhelper": "test_the_same_tree_gives_the_same_package, test_an_installed_package_counts",
        "deploy/debian/build\nansible-playbook": "not run: there is one host; test_the_role_is_what_ansible_takes",
        "scp dist/": "not run: there is one host",
        "# yaml-language-server": "test_it_has_dashboards_rules_and_schemas",
        "source FOLDER/deploy/completion": "not run: lines for one's own shell; test_shells_find_its_completion",
        "pipx install": "test_its_command_works_with_the_distributions_libraries",
        "sudo env PIPX_HOME=": "not run: it would be a service of this host's",
    },
    "docs/kubernetes.md": {
        "deploy/debian/build\npodman": "not run: there is no registry; the document says what was tried by hand",
        "kubectl apply -k": "not run: there is no cluster; test_manifests_are_what_kubernetes_takes",
        "openssl req -x509": "not run: there is no cluster; test_manifests_are_what_kubernetes_takes",
    },
    "docs/network.md": {
        '{"name": "xdp"': "test_why_xdp_is_not_native",
        "ebpf_container_network_": "test_packets_of_a_container",
        "sudo ebpf-exporter check": "test_the_steps_to_ones_own",
        "ebpf_xdp_rule_packets_total": "test_condition",
    },
    "docs/probes.md": {
        "sudo ebpf-exporter list": "test_the_steps_to_ones_own",
        "ebpf_signals_total": "test_the_readmes_probe_of_ones_own",
        "# ebpf-exporter doctor": "test_what_doctor_says_of_two_probes",
        "#if WITH_file": "not run: a part of a function; test_the_label_file_names_the_path has one like it",
    },
    "docs/runbook.md": {"curl -s localhost:9435/probes": "test_where_the_runbook_looks"},
    "docs/scale.md": {
        "- targets:": "test_what_the_document_shows_is_good",
        "scrape_configs:": "test_what_the_document_shows_is_good",
        "remote_write:": "test_what_the_document_shows_is_good",
        "relabel_configs:": "test_what_the_document_shows_is_good",
    },
    "docs/security.md": {"systemd-analyze security": "test_its_exposure_is_low"},
    "docs/status.md": {'{"time": ': "test_probe"},
    "docs/tour.md": {"$ ": "test_the_tour", "sudo tee -a": "test_the_tour"},
    "docs/web.md": {
        "tls_server_config:": "test_the_config_is_good",
        "/usr/bin/python3 -c 'import bcrypt": "test_the_hash_of_a_password",
        "scrape_configs:": "test_the_config_for_prometheus",
        "sudo systemctl stop": "test_socket_activation_of_the_service",
    },
}

SHOWN |= {  # the pages of the probes that are shipped: their questions, in PromQL
    f"docs/probes/{path.stem}.md": dict.fromkeys(
        (query.strip() for query in yaml.safe_load(path.read_text())["questions"].values()), "test_question"
    )
    for path in (ROOT / "bpf").glob("*.yaml")
}

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w/]+\.(?:yaml|c))`")
_PROMPT = re.compile(r"(?:[#$] )?(?:sudo )?(ebpf-exporter .*)")


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields language, content and the name of the file that the text ahead of a block names last, if it does."""
    end = 0
    for match in _BLOCK.finditer(text):
        named = _FILE.findall(text, end, match.start())
        yield match[2], textwrap.dedent(match[3]), named[-1] if named else ""
        end = match.end()


def shown(document: str, beginning: str) -> str:
    """Returns the block of a document that begins so."""
    [found] = [content for _, content, _ in blocks(DOCUMENTS[document]) if content.startswith(beginning)]
    return found


def files(document: str) -> dict[str, str]:
    """Returns the probes of a document, by their files."""
    found: dict[str, str] = {}
    for language, content, name in blocks(DOCUMENTS[document]):
        if _is_file(language, name):
            assert name not in found, f"{document} has {name} twice"
            found[name] = content
    return found


def write(document: str, folder: Path) -> None:
    """Writes the probes of a document, and the scripts that it names, beside where its configs are to be."""
    for name, content in files(document).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    for script in (ROOT / "bpf" / "examples").glob("*.bt"):
        shutil.copy(script, folder)


def configs(document: str) -> list[str]:
    """Returns the configs of a document, and one for each file of a probe."""
    found = [content for language, content, name in blocks(DOCUMENTS[document]) if _is_config(language, content, name)]
    own = [Path(name).stem for name in files(document) if name.endswith(".yaml")]
    return found + [f"probe_folders: [probes]\nprobes: {{{name}: {{}}}}\n" for name in own]


def others(document: str) -> list[str]:
    """Returns the blocks that are no config, and no probe in a file: what SHOWN accounts for."""
    return [
        content
        for language, content, name in blocks(DOCUMENTS[document])
        if not _is_file(language, name) and not _is_config(language, content, name)
    ]


def _is_file(language: str, name: str) -> bool:
    return language in ("yaml", "c") and name.startswith("probes/")


def _is_config(language: str, content: str, name: str) -> bool:
    if language != "yaml" or _is_file(language, name):
        return False
    found = yaml.safe_load(content)
    return isinstance(found, dict) and "probes" in found


def commands(text: str) -> Iterator[str]:
    """Yields the lines that run the exporter: in blocks, and in words such as `ebpf-exporter list`."""
    for language, content, _ in blocks(text):
        for line in content.splitlines() if language in ("sh", "console") else ():
            if match := _PROMPT.fullmatch(line):
                yield match[1]
    for words in re.findall(r"`(?:sudo )?(ebpf-exporter [^`]+)`", _BLOCK.sub("", text)):
        yield " ".join(words.split())


def transcript(content: str) -> list[tuple[str, str]]:
    """``"$ a\\nb\\n# c\\n"`` -> [("a", "b\\n"), ("c", "")]: commands and what they print."""
    parts = re.split(r"^[#$] (.*)\n", content, flags=re.MULTILINE)
    assert parts[0] == "", f"printed by no command: {parts[0]}"
    return list(zip(parts[1::2], parts[2::2], strict=True))
