# SPDX-License-Identifier: Apache-2.0
"""What the documents show: configs, probes and commands, for tests of whether they are good."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROBES = (ROOT / "docs" / "probes.md").read_text()
DOCUMENTS = {
    "README.md": (ROOT / "README.md").read_text(),
    "docs/probes.md": PROBES,
    "docs/network.md": (ROOT / "docs" / "network.md").read_text(),
    "docs/runbook.md": (ROOT / "docs" / "runbook.md").read_text(),
}

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w/]+\.(?:yaml|c))`")


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields language, content and the name of the file that the text ahead of a block names last, if it does."""
    end = 0
    for match in _BLOCK.finditer(text):
        named = _FILE.findall(text, end, match.start())
        yield match[1], match[2], named[-1] if named else ""
        end = match.end()


def files(document: str) -> dict[str, str]:
    """Returns the probes of a document, by their files."""
    found: dict[str, str] = {}
    for language, content, name in blocks(DOCUMENTS[document]):
        if language in ("yaml", "c") and name.startswith("probes/"):
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
    found = [
        content
        for language, content, name in blocks(DOCUMENTS[document])
        if language == "yaml" and not name.startswith("probes/")
    ]
    own = [Path(name).stem for name in files(document) if name.endswith(".yaml")]
    return found + [f"probe_folders: [probes]\nprobes: {{{name}: {{}}}}\n" for name in own]


def commands(text: str) -> Iterator[str]:
    """Yields the lines that run the exporter: in blocks, and in words such as `ebpf-exporter list`."""
    for language, content, _ in blocks(text):
        for line in content.splitlines() if language in ("sh", "console") else ():
            if match := re.fullmatch(r"(?:# |sudo )?(ebpf-exporter .*)", line):
                yield match[1]
    for words in re.findall(r"`(?:sudo )?(ebpf-exporter [^`]+)`", _BLOCK.sub("", text)):
        yield " ".join(words.split())
