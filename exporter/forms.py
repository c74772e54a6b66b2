# SPDX-License-Identifier: Apache-2.0
"""The forms of a probe's YAML, as JSON schemas; and how a hook is named."""

from typing import Any

from exporter import kinds
from exporter.config import NAME, PURPOSE, SETTINGS
from exporter.probe import FAMILIES

_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "a list of labels and metrics"}
_HOOK_NAME = {
    "type": "string",
    "pattern": rf"^(({'|'.join(FAMILIES[:-1])}):[^\s\x00-\x1f\x7f-\x9f\ufeff]+|xdp)$(?!\n)",
    "description": f"a hook such as tracepoint:sched:sched_process_exec; families: {', '.join(FAMILIES)}",
}
_HOOK = {
    "anyOf": [
        _HOOK_NAME,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["hook"],
            "properties": {"hook": _HOOK_NAME, "optional": {"type": "boolean", "default": False}},
        },
    ],
    "description": _HOOK_NAME["description"] + "; or {hook: …, optional: true}",
}
_HOOKS = {"type": "array", "items": _HOOK, "minItems": 1, "description": "a list of hooks"}
_PROGRAM = {
    "anyOf": [
        _HOOK_NAME,
        _HOOKS,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["hooks", "for"],
            "properties": {"hooks": _HOOKS, "for": _NAMES},
        },
    ],
    "description": f"{_HOOK_NAME['description']}; a list of such; or {{hooks: […], for: [label or metric]}}",
}
_MECHANISM = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": NAME,
    "additionalProperties": _PROGRAM,
    "description": "C functions with their hooks, such as {on_exec: tracepoint:sched:sched_process_exec}",
}
_KIND_NAME = {"type": "string"}  # kinds.parse says which
_KIND = {
    "anyOf": [
        _KIND_NAME,
        {"type": "array", "items": {"type": "string", "pattern": r"^[a-z][a-z0-9_]*$(?!\n)"}, "minItems": 1},
    ],
    "description": f"a kind of label: {kinds.ALLOWED}",
}

_EXPRESSION = {
    "type": ["string", "integer"],
    "description": "an expression such as args.family == 2",
}
_SPAN = {
    "type": "object",
    "additionalProperties": False,
    "required": ["start", "end"],
    "properties": {"start": _HOOK_NAME, "end": _HOOK_NAME},
    "description": "{start: HOOK, end: HOOK}",
}
_EVENT = {"anyOf": [_HOOK_NAME, _SPAN], "description": f"{_HOOK_NAME['description']}; or {_SPAN['description']}"}

_COMMAND = {
    "type": "array",
    "minItems": 1,
    "prefixItems": [{"type": "string", "pattern": r"^[^\x00]+$(?!\n)", "description": "a program"}],
    "items": {"type": "string", "pattern": r"^[^\x00]*$(?!\n)", "description": "a word"},
    "description": "a command as a list of words, such as [/bin/true]: no shell runs it",
}
_SELFTEST = {
    "anyOf": [
        _COMMAND,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["command", "terminal"],
            "properties": {
                "command": _COMMAND,
                "terminal": {"type": "string", "description": "what is typed to it on a terminal"},
            },
        },
    ],
    "description": f"{_COMMAND['description']}; or {{command: […], terminal: what is typed}}",
}

_TEXT = {"type": "string", "minLength": 1, "description": "a sentence"}  # for people: the program does not read it


def _label(form: dict[str, Any], key: str) -> dict[str, Any]:
    """A label: what it is, or that with whether it is there by default."""
    described = {
        "type": "object",
        "additionalProperties": False,
        "required": [key],
        "properties": {key: form, "default": {"type": "boolean", "default": True}, "help": _TEXT},
    }
    return {
        "anyOf": [*form.get("anyOf", [form]), described],
        "description": f"{form['description']}; or {{{key}: …, default: false}}",
    }


def _declaration(
    attach: dict[str, Any], label: dict[str, Any], also: dict[str, Any], of_metrics: dict[str, Any]
) -> dict[str, Any]:
    """The form of a probe; also and of_metrics are what this sort of probe has besides."""
    return {
        "type": "object",
        "description": "a probe: purpose, attach, metrics",
        "additionalProperties": False,
        "required": ["attach", "metrics"],
        "properties": {
            "purpose": PURPOSE,
            "cost": _TEXT,
            "limits": _TEXT,
            "questions": {
                "type": "object",
                "additionalProperties": _TEXT,
                "description": "questions that it answers, each with its PromQL",
            },
            "attach": {
                "anyOf": [*attach.get("anyOf", [attach]), {"type": "array", "items": attach, "minItems": 1}],
                "description": f"{attach['description']}; or a list of such, tried in order",
            },
            "max_series": SETTINGS["max_series"],
            "max_cpu_percent": SETTINGS["max_cpu_percent"],
            "selftest": _SELFTEST,
            "metrics": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {
                    "pattern": r"^ebpf_[a-z][a-z0-9_]*$(?!\n)",
                    "maxLength": 200,
                    "description": "a metric's name: ebpf_ and then small letters, digits and _",
                },
                "additionalProperties": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["type", "help"],
                    "properties": {
                        "type": {"enum": ["counter", "gauge", "histogram"]},
                        "help": {"type": "string", "minLength": 1, "description": "a sentence"},
                        "default": {"type": "boolean", "description": "true or false", "default": True},
                        "scale": {"type": "number", "exclusiveMinimum": 0, "description": "a factor such as 1.0e-9"},
                        "keep": {"enum": ["last", "max"], "default": "last"},
                        "exponents": {
                            "type": "array",
                            "items": {
                                "type": "integer",
                                "minimum": 0,
                                "maximum": 63,
                                "description": "a whole number from 0 to 63",
                            },
                            "minItems": 2,
                            "maxItems": 2,
                            "description": "[first, last] exponents of two for the buckets' bounds, from 0 to 63",
                        },
                        "bounds": {
                            "type": "array",
                            "items": {"type": "number", "minimum": 0, "description": "a number"},
                            "minItems": 1,
                            "maxItems": 60,
                            "description": "a list of up to 60 bounds in the metric's unit, such as [0.001, 0.01, 0.1]",
                        },
                        "labels": {
                            "type": "object",
                            "propertyNames": NAME,
                            "additionalProperties": label,
                            "description": "labels by their names, such as {comm: comm}",
                        },
                        **of_metrics,
                    },
                },
                "description": "metrics by their names",
            },
            **also,
        },
    }


_OPTIONS = {
    "type": "object",
    "description": "options by their names, such as {all_files: {default: false, help: A sentence.}}",
    "propertyNames": NAME,
    "additionalProperties": {
        "type": "object",
        "additionalProperties": False,
        "required": ["default", "help"],
        "properties": {
            "default": {"type": ["boolean", "integer"], "description": "true, false or a number"},
            "help": {"type": "string", "description": "a sentence"},
        },
    },
}
_SOURCE = {"type": "string", "pattern": r"^[^\x00]+$(?!\n)", "description": "a C file"}

# a probe whose programs are C, and one whose programs are expressions
_RULES = {"type": "string", "description": "the metric that counts packets by rule"}
_OF_C = {
    "options": _OPTIONS,
    "source": _SOURCE,
    "interfaces": SETTINGS["interfaces"],
    "mode": SETTINGS["mode"],
    "rules": _RULES,
}
# the parts of the forms that stand in several places, by names for a schema that refers to them
PARTS: dict[str, dict[str, Any]] = {
    "hook": _HOOK_NAME, "optional_hook": _HOOK, "hooks": _HOOKS, "program": _PROGRAM, "functions": _MECHANISM,
    "span": _SPAN, "kind": _KIND_NAME, "expression": _EXPRESSION, "command": _COMMAND,
}  # fmt: skip
IN_C = _declaration(_MECHANISM, _label(_KIND, "kind"), _OF_C, {})
IN_YAML = _declaration(_EVENT, _label(_EXPRESSION, "value"), {"where": _EXPRESSION}, {"value": _EXPRESSION})

TARGETS = {
    "kprobe": r"[A-Za-z_][\w.]*",
    "fentry": r"[A-Za-z_][\w.]*",
    "tracepoint": r"[\w-]+:[\w-]+",
    "rawtracepoint": r"\w+",
    "uprobe": r"[^\s:]+:[\w.@$~<>()*&,:-]+",
    "usdt": r"[^\s:]+:\w[\w-]*:\w[\w-]*",
    # 10 microseconds are the kernel's least (perf_swevent_start_hrtimer)
    "profile": r"(hz|s|ms):[1-9][0-9]{0,8}|us:[1-9][0-9]{1,8}",
    "software": r"[a-z-]+(:[1-9][0-9]{0,17})?",
    "hardware": r"[a-zA-Z-]+(:[1-9][0-9]{0,17})?",
    "tc": "ingress|egress",
    "xdp": "",
}
_FORMS = {
    "kprobe": "kprobe:FUNCTION", "fentry": "fentry:FUNCTION", "tracepoint": "tracepoint:CATEGORY:EVENT",
    "rawtracepoint": "rawtracepoint:EVENT", "uprobe": "uprobe:FILE:SYMBOL", "usdt": "usdt:FILE:PROVIDER:NAME",
    "profile": "profile:hz:99, or s:N, ms:N, us:N from 10", "software": "software:EVENT:PERIOD",
    "hardware": "hardware:EVENT:PERIOD", "tc": "tc:ingress or tc:egress", "xdp": "xdp",
}  # fmt: skip
AS = {"kretprobe": "kprobe", "uretprobe": "uprobe", "fexit": "fentry"}


def form_of(family: str) -> str:
    """Returns how a hook of a family is named: ``tracepoint:CATEGORY:EVENT``."""
    like = AS.get(family, family)
    return _FORMS[like].replace(like, family, 1)
