# SPDX-License-Identifier: Apache-2.0
"""The form of a rule on packets for editors: what the words of ``exporter/rules/words.py`` are."""

from copy import deepcopy
from typing import Any

from exporter.kinds import PROTOCOLS
from exporter.rules import form, words
from exporter.rules.rule import COUNT, DROP, EGRESS, INGRESS, PASS, TCP_FLAGS
from generate import meanings

_DOCUMENT = "docs/network.md"
ON_CONTAINERS = ("direction", "containers")  # only probes on containers' interfaces can ask for these


def _pattern(text: str, expected: str) -> dict[str, Any]:
    return {"type": "string", "pattern": rf"^({text})$(?!\n)", "patternErrorMessage": f"Expected {expected}."}


def _some(one: dict[str, Any]) -> dict[str, Any]:
    """One, or a list of such."""
    return {"anyOf": [*one.get("anyOf", [one]), {"type": "array", "items": one, "minItems": 1}]}


def _one_of(*allowed: str) -> dict[str, Any]:
    return {"enum": [*allowed]}


def schema(on_containers: bool) -> dict[str, Any]:
    """Returns the form of a probe's rules; on_containers says whether they may ask for directions and containers."""
    file = {"type": "string", "minLength": 1}
    network = _some(_pattern(words.NETWORK.pattern, words.A_NETWORK))
    port = {
        "anyOf": [{"type": "integer", "minimum": 0, "maximum": 65_535}, _pattern(words.RANGE.pattern, words.A_PORT)]
    }
    names = [*PROTOCOLS.values()]
    protocol = {"anyOf": [{"enum": names}, {"type": "integer", "minimum": 0, "maximum": 255}]}
    bytes_ = {"type": "integer", "minimum": 1, "maximum": words.LONGEST, "description": "A number of bytes."}
    flag = _one_of(*TCP_FLAGS, *(f"not {flag}" for flag in TCP_FLAGS))
    does = meanings.of_table(_DOCUMENT, "action | meaning")
    actions = (DROP, PASS, COUNT)
    forms: dict[str, dict[str, Any]] = {
        "name": _pattern(words.NAME.pattern, words.A_NAME)
        | {"description": "The value of the label rule, by which it is counted."},
        "action": _one_of(*actions)
        | {
            "enumDescriptions": [does[action] for action in actions],
            "description": "\n".join(f"{action}: {does[action]}" for action in actions),
        },
        "source": network,
        "source_file": file,
        "destination": network,
        "destination_file": file,
        "protocol": _some(protocol),
        "source_port": _some(port),
        "destination_port": _some(port),
        "length": {
            "type": "object",
            "properties": {"min": bytes_, "max": bytes_},
            "additionalProperties": False,
            "minProperties": 1,
        },
        "tcp_flags": {"anyOf": [flag, {"type": "array", "items": flag}]},
        "direction": _one_of(INGRESS, EGRESS),
        "containers": _some({"type": "string", "minLength": 1}),
    }
    fields = [field for field in form.SCHEMA["items"]["properties"] if on_containers or field not in ON_CONTAINERS]
    rule = form.SCHEMA["items"] | {
        "properties": {field: deepcopy(forms[field]) for field in fields},
        "description": meanings.sentence(form.SCHEMA["items"]["description"]),
    }
    meanings.explained(rule, meanings.of_table(_DOCUMENT, "condition | meaning"))
    return form.SCHEMA | {"items": rule, "description": meanings.sentence(form.SCHEMA["description"])}
