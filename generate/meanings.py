# SPDX-License-Identifier: Apache-2.0
"""What settings mean, from where users read it: the comments of config.yaml and the tables of the documents."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_SETTING = re.compile(r"#   (\w+): (?:\S.*?)  +(\S.*)")  # of a probe: `#   labels: [comm]   which of its labels …`
_FURTHER = re.compile(r"#     {5,}(\S.*)")


def of_config() -> tuple[dict[str, str], dict[str, str]]:
    """Returns the meanings of the config's settings, and of those of a probe in it, by their names."""
    top: dict[str, str] = {}
    of_probes: dict[str, str] = {}
    block: list[str] = []
    for line in (_ROOT / "config.yaml").read_text().splitlines():
        if line.startswith("#"):
            block.append(line)
        elif match := re.match(r"(\w+):", line):
            name = ""
            for at, comment in enumerate(block):
                if found := _SETTING.fullmatch(comment):
                    name = found[1]
                    of_probes[name] = found[2]
                elif name and (more := _FURTHER.fullmatch(comment)):
                    of_probes[name] += f" {more[1]}"
                elif name:
                    block = block[:at]  # what follows the settings is of probes that the config declares
                    break
            words = " ".join(comment[2:] for comment in block if not comment.startswith("#   "))
            top[match[1]] = re.sub(r" [^.]*:$", "", words)  # a sentence that leads to what is below it
            block = []
        else:
            block = []
    return top, {name: sentence(text) for name, text in of_probes.items()}


def of_table(document: str, head: str) -> dict[str, str]:
    """Returns the second column of a document's tables with a head, ``key | meaning``, by the names in the first."""
    found: dict[str, str] = {}
    for table in (_ROOT / document).read_text().split(f"\n| {head} |\n")[1:]:
        for row in table.partition("\n\n")[0].splitlines()[1:]:
            names, meaning = re.split(r"(?<!\\) \| ?", row.strip("| "), maxsplit=1)
            found |= dict.fromkeys(re.findall(r"`(\w+)`", names), sentence(plain(meaning)))
    return found


def sentence(text: str) -> str:
    """``a list of labels`` -> ``A list of labels.``; what begins with a name or a word of YAML stays as it is."""
    word = re.match(r"[a-z]+(?=[ ,;:]|$)", text)
    capital = text if word is None or word[0] in ("true", "false") else text[0].upper() + text[1:]
    return capital + ("" if not text or text[-1] in ".!?" else ".")


def explained(form: dict[str, Any], meant: Mapping[str, str]) -> dict[str, Any]:
    """Returns a form, each of whose properties now says what it means, ahead of what it has to be."""
    for name, of_it in form["properties"].items():
        said = dict.fromkeys(text for text in (meant.get(name), of_it.get("description")) if text)
        of_it["description"] = "\n".join(said)
        for one in of_it.get("anyOf", []):  # an editor shows what is said of the one that was taken
            one["description"] = "\n".join([*said, *(["A list of such."] if one.get("type") == "array" else [])])
    return form


def plain(text: str) -> str:
    """Takes the marks of Markdown away."""
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text).replace("`", "").replace("\\|", "|")
