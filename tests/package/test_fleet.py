# SPDX-License-Identifier: Apache-2.0
"""What puts the exporter on many hosts: it agrees with the service's unit, and is what those take who read it."""

import json
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.web import site
from tests.kernel.test_privileges import unit_capabilities
from tests.package.conftest import ROOT
from tests.unit.test_cli import run

MANIFESTS = ROOT / "deploy" / "kubernetes"
PROCESSES, WHOLE_NODE = (MANIFESTS / name for name in ("processes", "whole-node"))
KUBERNETES = ("1.25", "1.32", "1.37")  # the schemas of these
# with tracepoints alone nothing is attached to interfaces, or to programs in closed folders
FOR_MORE_THAN_PROCESSES = {"net_admin", "dac_read_search"}
WIDE = {"comm", "file", "command", "user", "container"}  # labels

Manifest = dict[str, Any]


def read(path: Path) -> Manifest:
    return dict(yaml.safe_load(path.read_text()))


def container(daemonset: Manifest) -> Manifest:
    [found] = daemonset["spec"]["template"]["spec"]["containers"]
    return dict(found)


def capabilities(folder: Path) -> set[str]:
    return {
        name.lower() for name in container(read(folder / "daemonset.yaml"))["securityContext"]["capabilities"]["add"]
    }


def rendered(folder: Path) -> list[Manifest]:
    """Returns all that ``kubectl apply -k`` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here that could put the manifests together")
    out = subprocess.run([kubectl, "kustomize", str(folder)], check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(out))


def test_capabilities_are_those_of_the_unit() -> None:
    """All of them for all that it can do; for processes alone two less. What is not named is dropped."""
    assert capabilities(WHOLE_NODE) == unit_capabilities()
    assert capabilities(PROCESSES) == unit_capabilities() - FOR_MORE_THAN_PROCESSES
    context = container(read(PROCESSES / "daemonset.yaml"))["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["readOnlyRootFilesystem"] is True
    assert "privileged" not in context


@pytest.mark.parametrize("folder", [PROCESSES, WHOLE_NODE], ids=lambda folder: folder.name)
def test_the_host_is_mounted_to_be_read(folder: Path) -> None:
    """But for the cache, as in the unit; each mount has its volume."""
    daemonset = read(folder / "daemonset.yaml")
    volumes = {volume["name"]: volume for volume in daemonset["spec"]["template"]["spec"]["volumes"]}
    mounts = {mount["name"]: mount for mount in container(daemonset)["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    written = {mount["mountPath"] for mount in mounts.values() if not mount.get("readOnly")}
    assert written == ({"/var/cache/ebpf-exporter", "/run"} if folder == PROCESSES else set())
    for name, mount in mounts.items():
        if "hostPath" in volumes[name]:
            assert volumes[name]["hostPath"]["path"] == mount["mountPath"]


def test_what_asks_finds_it() -> None:
    """Kubelet's probes ask for pages that there are; Prometheus' pods, and they alone, come to the port that it has."""
    daemonset, policy, monitor = (
        read(PROCESSES / f"{name}.yaml") for name in ("daemonset", "networkpolicy", "podmonitor")
    )
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    for selector in (daemonset["spec"]["selector"], policy["spec"]["podSelector"], monitor["spec"]["selector"]):
        assert selector == {"matchLabels": labels}
    assert monitor["spec"]["jobLabel"] in labels
    [port] = container(daemonset)["ports"]
    assert f":{port['containerPort']}" in read(PROCESSES / "config.yaml")["listen"]
    probes = [container(daemonset)[name]["httpGet"] for name in ("readinessProbe", "livenessProbe")]
    assert [probe["path"] for probe in probes] == ["/-/ready", "/-/healthy"]
    assert all(f'"{probe["path"]}"' in Path(site.__file__).read_text() for probe in probes)
    [rule], [endpoint] = policy["spec"]["ingress"], monitor["spec"]["podMetricsEndpoints"]
    names = [*(probe["port"] for probe in probes), *(one["port"] for one in rule["ports"]), endpoint["port"]]
    assert names == [port["name"]] * 4
    assert rule["from"]
    assert policy["spec"]["egress"] == []


@pytest.mark.parametrize("folder", [PROCESSES, WHOLE_NODE], ids=lambda folder: folder.name)
def test_configs_are_good(folder: Path, tmp_path: Path) -> None:
    """As ``check`` says; for the whole node with a web config where its Secret is mounted."""
    text = (folder / "config.yaml").read_text()
    web = re.search(r"^web_config: (.*)$", text, re.MULTILINE)
    assert (web is not None) is (folder == WHOLE_NODE)
    if web is not None:
        mounts = container(read(folder / "daemonset.yaml"))["volumeMounts"]
        assert str(Path(web[1]).parent) in [mount["mountPath"] for mount in mounts]
        (tmp_path / "web.yml").write_text("http_server_config: {headers: {X-Frame-Options: deny}}\n")
        text = text.replace(web[1], "web.yml")
    config = tmp_path / "config.yaml"
    config.write_text(text)
    code, out, err = run("check", "--config", config)
    assert (code, out) == (0, f"{config}: good: {', '.join(yaml.safe_load(text)['probes'])}\n"), err


@pytest.mark.parametrize("folder", [PROCESSES, WHOLE_NODE], ids=lambda folder: folder.name)
def test_manifests_are_what_kubernetes_takes(folder: Path, tmp_path: Path) -> None:
    """By its own schemas, with no key that they don't know; a PodMonitor is none of Kubernetes' own."""
    if shutil.which("kubernetes-validate") is None:
        pytest.skip("needs kubernetes-validate")
    documents = rendered(folder)
    kinds = [document["kind"] for document in documents]
    wanted = ["ConfigMap", "DaemonSet", "Namespace", "PodMonitor"]
    assert sorted(kinds) == sorted([*wanted, *(["NetworkPolicy"] if folder == PROCESSES else [])])
    for document in documents:
        (tmp_path / f"{document['kind']}.json").write_text(json.dumps(document))
    own = [str(tmp_path / f"{kind}.json") for kind in kinds if kind != "PodMonitor"]
    for version in KUBERNETES:
        command = ["kubernetes-validate", "--strict", "--kubernetes-version", version, *own]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert (done.returncode, done.stdout.count(" passed for resource ")) == (0, len(own)), done.stdout


def test_the_whole_node_has_all_of_processes() -> None:
    """What a patch replaces by mistake is missed: mounts, volumes, what a pod may not do."""
    found: dict[Path, Manifest] = {}
    for folder in (PROCESSES, WHOLE_NODE):
        [found[folder]] = [one for one in rendered(folder) if one["kind"] == "DaemonSet"]
    less, more = (container(found[folder]) for folder in (PROCESSES, WHOLE_NODE))
    names = [{mount["name"] for mount in one["volumeMounts"]} for one in (less, more)]
    assert names[0] < names[1]
    assert {**more["securityContext"], "capabilities": None} == {**less["securityContext"], "capabilities": None}
    assert more["securityContext"]["capabilities"]["drop"] == ["ALL"]
    pods = [found[folder]["spec"]["template"]["spec"] for folder in (PROCESSES, WHOLE_NODE)]
    assert [pod.get("hostNetwork", False) for pod in pods] == [False, True]
    assert [pod.get("hostPID", False) for pod in pods] == [False, True]


def test_the_role_is_what_ansible_takes(tmp_path: Path) -> None:
    """Each task's module is there, with arguments that it has; the config is checked before it is used."""
    if shutil.which("ansible-playbook") is None:
        pytest.skip("needs ansible-core")
    playbook = ROOT / "deploy" / "ansible" / "playbook.yml"
    command = ["ansible-playbook", "-i", "host.example.org,", "--syntax-check", str(playbook)]
    done = subprocess.run(command, capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stdout + done.stderr
    tasks = yaml.safe_load((playbook.parent / "roles" / "ebpf_exporter" / "tasks" / "main.yml").read_text())
    [config] = [task for task in tasks if "notify" in task]
    assert config["ansible.builtin.copy"]["validate"].split() == ["ebpf-exporter", "check", "--config", "%s"]


def test_the_config_is_what_prometheus_takes() -> None:
    """With its targets, and all files of rules."""
    command = ["promtool", "check", "config", str(ROOT / "deploy" / "prometheus" / "prometheus.yml")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    files = [path.name for path in (ROOT / "deploy" / "prometheus").glob("*.rules.yml")]
    assert "fleet.rules.yml" in files
    assert done.stdout.count(" rules found") == len(files)


def test_fleet_rules_keep_the_sums() -> None:
    """Of what is counted by wide labels, (other) among them; each sum is at its own labels alone."""
    command = ["promtool", "test", "rules", str(Path(__file__).parent / "fleet.rules.test.yml")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def test_every_counter_has_its_rule() -> None:
    """Of the probes that are shipped; without the labels that have a thousand values."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "fleet.rules.yml").read_text())["groups"][0]["rules"]
    for path in (ROOT / "bpf").glob("*.yaml"):
        for name, metric in read(path)["metrics"].items():
            if metric["type"] != "counter":
                continue
            [rule] = [rule for rule in rules if f"rate({name}[" in rule["expr"]]
            [left_out] = re.findall(r"without \(([^)]*)\)", rule["expr"])
            assert WIDE & set(metric["labels"]) <= set(left_out.split(", ")), name


def test_what_the_document_shows_is_good(tmp_path: Path) -> None:
    """Each piece of a config in docs/scale.md is one that Prometheus takes, or the exporter."""
    text = (ROOT / "docs" / "scale.md").read_text()
    pieces = [
        textwrap.dedent(piece) for piece in re.findall(r"^ *```yaml\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    ]
    checked = []
    for piece in pieces:
        found = yaml.safe_load(piece)
        config = tmp_path / "config.yaml"
        if "probes" in found:
            config.write_text(piece)
            code, _, err = run("check", "--config", config)
            assert code == 0, err
            checked.append("probes")
            continue
        if isinstance(found, list):
            (tmp_path / "targets.yml").write_text(piece)
            found = {"scrape_configs": [{"job_name": "x", "file_sd_configs": [{"files": ["targets.yml"]}]}]}
        elif "relabel_configs" in found:
            found = {"scrape_configs": [{"job_name": "x", **found}]}
        config.write_text(json.dumps(found))
        done = subprocess.run(["promtool", "check", "config", str(config)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        checked.append(next(iter(found)))
    assert checked == ["scrape_configs", "probes", "scrape_configs", "remote_write", "scrape_configs"]
