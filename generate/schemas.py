# SPDX-License-Identifier: Apache-2.0
"""JSON schemas by which editors complete, explain and check a config, and a probe in a file of its own.

They are the program's own forms in the words of draft-07, which all editors know, with what the program finds out only
after it has compared the form: what a probe that is shipped has, the words of a rule. A ``description`` beside a
``$ref`` is for who hovers; what compares passes over it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from exporter import catalog, document, forms, kinds
from exporter.bpftrace import declaration
from exporter.config import DECLARED, NAME, SCHEMA, SETTINGS
from exporter.probe import FAMILIES, Probe
from generate import meanings, pages, rules
from generate.meanings import explained, sentence

Form = dict[str, Any]

_PARTS = {id(part): name for name, part in {"name": NAME, **forms.PARTS}.items()}
_BPFTRACE = {"required": ["bpftrace"]}
_NEEDS_C = {"required": ["source"]}

# What names hooks without C functions, as catalog has it; and nothing, where it is yet to be written.
_EVENT = {
    "anyOf": [
        {"type": ["string", "null"]},
        {"type": "object", "minProperties": 1, "properties": {"start": {}, "end": {}}, "additionalProperties": False},
    ]
}
_EVENTS = {"properties": {"attach": {"anyOf": [*_EVENT["anyOf"], {"type": "array", "minItems": 1, "items": _EVENT}]}}}


def texts() -> dict[str, str]:
    return {
        f"deploy/editors/{name}.schema.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        for name, schema in (("config", config()), ("probe", probe_file()))
    }


def config() -> Form:
    """Returns the schema of config.yaml."""
    of_top, of_probes = meanings.of_config()
    top = explained(_converted(SCHEMA), of_top)
    settings = explained(_converted({"properties": SETTINGS}), of_probes)["properties"]
    settings["rules"] = {"$ref": "#/definitions/rules", "description": settings["rules"]["description"]}
    in_c, in_yaml = _declared(forms.IN_C), _declared(forms.IN_YAML)
    # A probe with one of these is of another form: here they stand to be offered, and explained.
    general = {"attach": _hint(in_yaml["properties"]["attach"])} | settings
    in_yaml["properties"]["source"] = _hint(in_c["properties"]["source"])
    probes = top["properties"]["probes"]
    default = probes["additionalProperties"]["else"]
    probes["properties"] = {
        path.stem: _shipped(catalog.read(path), settings) for path in sorted(catalog.SHIPPED.glob("*.yaml"))
    }
    probes["additionalProperties"] = _ref("probe")
    return _whole(
        "The config of ebpf-exporter",
        top,
        {
            "probe": {
                "type": ["object", "null"],
                "if": DECLARED,
                "then": _ref("declared"),
                "else": default | {"properties": general},
            },
            "declared": {"if": _NEEDS_C, "then": _ref("probe_in_c"), "else": _ref("probe_in_yaml")},
            "probe_in_c": in_c,
            "probe_in_yaml": in_yaml,
            "rules": rules.schema(on_containers=True),
            "rules_on_xdp": rules.schema(on_containers=False),
        },
    )


def probe_file() -> Form:
    """Returns the schema of a probe's own file, NAME.yaml. Whether there is a NAME.c beside it, no schema can know."""
    in_c, in_yaml = _declared(forms.IN_C), _declared(forms.IN_YAML)
    script = explained(_converted(declaration.SCHEMA), _of_probes())
    in_yaml["properties"] |= {
        "source": _hint(in_c["properties"]["source"]),
        "bpftrace": _hint(script["properties"]["bpftrace"]),
    }
    declared = {"if": {"not": _NEEDS_C, **_EVENTS}, "then": _ref("probe_in_yaml"), "else": _ref("probe_in_c")}
    return _whole(
        "A probe of ebpf-exporter",
        {"type": "object", "if": _BPFTRACE, "then": _ref("script"), "else": declared},
        {"script": script, "probe_in_c": in_c, "probe_in_yaml": in_yaml},
    )


def _shipped(probe: Probe, settings: Mapping[str, Form]) -> Form:
    """What a config may say of a probe that is shipped: the labels, metrics and options that it has, and no others."""
    declared = document.read(probe.declaration).value
    shown = {name: sentence(meanings.plain(text)) for name, text in pages.labels(declared).items()}
    labels = {label.name: label.chosen for metric in probe.metrics for label in metric.labels}
    metrics = {metric.name: metric for metric in probe.metrics}
    options = {
        name: {
            "type": "boolean" if isinstance(default, bool) else "integer",
            "default": default,
            "description": declared["options"][name]["help"],
        }
        for name, default in probe.options
    }
    own: dict[str, Form] = {
        "labels": settings["labels"]
        | {
            "items": {"enum": list(labels), "enumDescriptions": [shown[name] for name in labels]},
            "default": [name for name, chosen in labels.items() if chosen],
        },
        "metrics": settings["metrics"]
        | {
            "items": {"enum": list(metrics), "enumDescriptions": [metric.help for metric in metrics.values()]},
        },
        "max_series": settings["max_series"] | {"default": probe.max_series},
        "max_cpu_percent": settings["max_cpu_percent"] | {"default": probe.cpu_percent},
    }
    if not probe.rule_metric:  # which is counted too where there are rules
        own["metrics"]["default"] = [name for name, metric in metrics.items() if metric.chosen]
    if options:
        own["options"] = settings["options"] | {"properties": options, "additionalProperties": False}
    if probe.interfaces:
        own["interfaces"] = settings["interfaces"] | {"default": list(probe.interfaces)}
    families = {hook.family for one in probe.mechanisms for program in one.programs for hook in program.hooks}
    if "xdp" in families:
        own["mode"] = settings["mode"] | {"default": probe.mode}
    if probe.rule_metric:
        own["rules"] = settings["rules"] | _ref("rules" if "tc" in families else "rules_on_xdp")
    return {
        "description": probe.purpose,
        "type": ["object", "null"],
        "if": {"type": "object", "anyOf": [DECLARED, _BPFTRACE]},
        "then": _ref("probe"),  # one of the config's own, in the place of that which is shipped
        "else": {"properties": own, "additionalProperties": False},
    }


def _of_probes() -> dict[str, str]:
    return meanings.of_table("docs/probes.md", "key | meaning")


def _declared(form: Form) -> Form:
    """The form of a probe's declaration, explained as docs/probes.md does."""
    _, of_config = meanings.of_config()
    found = explained(_converted(form), {key: of_config[key] for key in ("interfaces", "mode")} | _of_probes())
    explained(found["properties"]["metrics"]["additionalProperties"], _of_probes())
    return found


def _ref(name: str) -> Form:
    return {"$ref": f"#/definitions/{name}"}


def _hint(form: Form) -> Form:
    """What a property means, and what an editor begins it with."""
    return {"type": "string", "description": form["description"]}


def _whole(title: str, form: Form, definitions: dict[str, Form]) -> Form:
    parts = {name: _converted(part, of_itself=True) for name, part in {"name": NAME, **forms.PARTS}.items()}
    # tc:ingress or tc:egress -> both; profile:hz:99, or … -> the first
    hooks = [hook for family in FAMILIES for hook in re.split(r", or .*| or ", forms.form_of(family)) if hook]
    parts["hook"]["defaultSnippets"] = [{"label": hook, "body": hook} for hook in hooks]
    parts["kind"] = {
        "anyOf": [{"enum": list(kinds.SIMPLE)}, {"type": "string", "pattern": r"^string\([0-9]{1,3}\)$(?!\n)"}]
    }
    named = {"$schema": "http://json-schema.org/draft-07/schema#", "title": title}
    return named | form | {"definitions": definitions | parts}


def _converted(form: Any, of_itself: bool = False) -> Any:
    """Returns a form of the program's in the words of draft-07, referring to the parts that have a name."""
    if isinstance(form, list):
        return [_converted(one) for one in form]
    if not isinstance(form, dict):
        return form
    if id(form) in _PARTS and not of_itself:
        said = {"description": sentence(form["description"])} if "description" in form else {}
        return _ref(_PARTS[id(form)]) | said
    found = {key: _converted(value) for key, value in form.items()}
    if "description" in found:
        if "pattern" in found:
            found["patternErrorMessage"] = f"Expected {found['description']}."
        found["description"] = sentence(found["description"])
    if "prefixItems" in found:
        found["additionalItems"] = found.pop("items")
        found["items"] = found.pop("prefixItems")
    return found
