# SPDX-License-Identifier: Apache-2.0
"""top/place.py: which exporter is meant."""

from pathlib import Path

import pytest

from exporter.top import place
from exporter.top.place import BadPlace, Place

from ..conftest import Write


@pytest.mark.parametrize(
    ("url", "found", "shown"),
    [
        ("localhost", Place("http", "localhost", 9435, ""), "http://localhost:9435"),
        ("http://h:80/", Place("http", "h", 80, ""), "http://h:80"),
        ("https://al%40ice@h/a b/", Place("https", "h", 9435, "/a%20b", "al@ice"), "https://h:9435/a%20b"),
        ("[::1]:1", Place("http", "::1", 1, ""), "http://[::1]:1"),
        ("unix:/run/x.sock", Place("unix", "localhost", 0, "/run/x.sock"), "unix:/run/x.sock"),
        ("unix:///run/x.sock", Place("unix", "localhost", 0, "/run/x.sock"), "unix:/run/x.sock"),
    ],
)
def test_urls(url: str, found: Place, shown: str) -> None:
    """A scheme, a port and a user may be named; what is shown has no user."""
    assert place.of_url(url) == found
    assert str(found) == shown


@pytest.mark.parametrize(
    "url", ["", "ftp://h", "http://", "http://h:x", "http://h:70000", "http://[::1", "h\x1b", "a b", "unix:", "unix:x"]
)
def test_no_urls(url: str) -> None:
    """A line says what is expected, with nothing in it that a terminal obeys."""
    with pytest.raises(BadPlace, match="expected") as raised:
        place.of_url(url)
    assert str(raised.value).isprintable()


def test_no_password_on_the_command_line() -> None:
    """Where everybody sees it; neither is it shown."""
    for url in ("http://alice:secret@h", "http://alice:secret@h:x"):
        with pytest.raises(BadPlace) as raised:
            place.of_url(url)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("listen", "shown"),
    [
        ("", "http://localhost:9435"),
        ("listen: [':9000', 'localhost:1']", "http://localhost:9000"),
        ("listen: ['0.0.0.0:9000']", "http://127.0.0.1:9000"),
        ("listen: ['[::]:9000']", "http://[::1]:9000"),
        ("listen: ['192.0.2.1:9000']", "http://192.0.2.1:9000"),
        ("web_config: web.yml", "https://localhost:9435"),
        ("web_config: plain.yml", "http://localhost:9435"),
    ],
)
def test_of_a_config(write: Write, listen: str, shown: str) -> None:
    """The first of its addresses, as it is reached from this host; by TLS where the web config has that."""
    write("web.yml", "tls_server_config: {cert_file: not-read}\n")
    write("plain.yml", "basic_auth_users: {alice: hash}\n")
    assert str(place.of_config(write("config.yaml", f"{listen}\nprobes: {{file_io: {{}}}}\n"))) == shown


def test_no_config(tmp_path: Path, write: Write) -> None:
    """What can't be read is named, with what to do instead; so is a web config."""
    with pytest.raises(BadPlace) as raised:
        place.of_config(tmp_path / "none.yaml")
    words = "cannot be read: No such file or directory; --url names an exporter without its config"
    assert str(raised.value) == f"{tmp_path}/none.yaml: {words}"
    with pytest.raises(BadPlace, match=r"none\.yml: cannot be read"):
        place.of_config(write("config.yaml", "web_config: none.yml\nprobes: {file_io: {}}\n"))
