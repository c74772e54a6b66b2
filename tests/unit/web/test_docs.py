# SPDX-License-Identifier: Apache-2.0
"""docs/web.md: its config is good, and it has every key and every status."""

import re
import subprocess
from pathlib import Path
from typing import Any

import bcrypt
import yaml

from exporter.web import config, tls
from exporter.web.settings import IF_GIVEN, NO_CERTIFICATE, REQUIRED
from tests.certificates import Authority
from tests.documents import DOCUMENTS, blocks, shown

TEXT = DOCUMENTS["docs/web.md"]


def test_the_config_is_good(tmp_path: Path) -> None:
    """The config that the document shows is good, with files of the names that it has."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    pair.certificate.rename(tmp_path / "web.crt")
    pair.key.rename(tmp_path / "web.key")
    authority.certificate.rename(tmp_path / "clients.crt")
    [text] = [content for language, content, _ in blocks(TEXT) if language == "yaml" and "tls_server_config" in content]
    (tmp_path / "web.yml").write_text(text)
    found = config.read(tmp_path / "web.yml")
    assert (found.problems, found.remarks) == ((), ())
    assert found.settings is not None
    assert set(yaml.safe_load(text)) == set(config.SCHEMA["properties"])


def test_the_hash_of_a_password() -> None:
    """The command that makes one does; and is the one that the README has."""
    command = shown("docs/web.md", "/usr/bin/python3 -c 'import bcrypt")
    assert f"hash=$({command.strip()})\n" in DOCUMENTS["README.md"]
    typed = ["setsid", "bash", "-c", command]  # without a terminal that it would ask
    done = subprocess.run(typed, input=b"correct horse\n", capture_output=True, check=True)
    assert bcrypt.checkpw(b"correct horse", done.stdout.split()[-1])


def keys(schema: dict[str, Any]) -> set[str]:
    """All keys that a schema allows, at whatever depth."""
    found = set(schema.get("properties", {}))
    for part in schema.get("properties", {}).values():
        found |= keys(part)
    return found


def test_every_key_is_told() -> None:
    """The table has each key of a web config, and no other; values of those that take one of several stand there."""
    table = TEXT.partition("\n| key |")[2].partition("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    first = {word for row in rows for word in re.findall(r"`([^`]+)`", row[0])}
    everywhere = set(re.findall(r"`([^`]+)`", table))
    assert first <= keys(config.SCHEMA)
    assert keys(config.SCHEMA) <= everywhere
    assert {NO_CERTIFICATE, IF_GIVEN, REQUIRED, *tls.VERSIONS, *tls.CURVES} <= everywhere


def test_every_status_is_told() -> None:
    """The statuses that the server's modules name, and those that h11 gives, are those of the table."""
    table = TEXT.partition("\n| status |")[2].partition("\n\n")[0]
    told = {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert told == {200, 400, 401, 404, 405, 413, 429, 431, 500, 501, 503}
