# SPDX-License-Identifier: Apache-2.0
"""supervisor/web.py: when a web config is read again, and what of it goes on."""

import logging
import selectors
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from exporter import log
from exporter.supervisor import web
from exporter.supervisor.web import WebConfig
from exporter.web import config
from exporter.web.settings import Settings
from tests.certificates import Authority

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
PATIENCE = 60.0  # seconds, after which a test is taken to hang


class Followed:
    """A web config that is looked at whenever ``look`` is called."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "web.yml"
        self.changes = 0
        self.selector = selectors.DefaultSelector()
        self.web = WebConfig(self.selector, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def use(self, text: str) -> None:
        self.write(text)
        self.web.use(config.read(self.path))

    def look(self) -> None:
        """Looks at the files, and has what is read be read."""
        self.web.deadline = 0.0
        self.web.tick()
        while self.web._reading is not None:
            for key, _ in self.selector.select(PATIENCE):
                key.data()

    @property
    def users(self) -> list[str]:
        return [name for name, _ in self.web.state.settings.users]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All lines of the log, each with its fields."""
    return [str(word) for record in caplog.records for word in (record.getMessage(), *log.fields(record).values())]


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    found = Followed(tmp_path)
    yield found
    found.web.stop()
    found.selector.close()


def test_without_a_web_config(followed: Followed) -> None:
    """There is nothing to look at, nothing to wake up for, and no metric of it."""
    state = followed.web.state
    assert (state.settings, state.successful, state.read_at) == (Settings(), True, None)
    assert followed.web.deadline == float("inf")
    followed.web.tick()
    assert followed.changes == 0


def test_what_does_not_change_is_not_read(followed: Followed) -> None:
    """While the files are those that were read, they are only looked at."""
    followed.use(f"basic_auth_users: {{alice: {HASH}}}")
    for _ in range(3):
        followed.look()
    assert (followed.users, followed.changes) == (["alice"], 0)


def test_a_change_is_read_when_it_has_held_still(followed: Followed, caplog: pytest.LogCaptureFixture) -> None:
    """What is being written is left alone until two looks have seen the same of it."""
    caplog.set_level(logging.INFO)
    followed.use(f"basic_auth_users: {{alice: {HASH}}}")
    caplog.clear()
    began = followed.web.state.read_at
    assert began is not None
    seen = []
    for name in ("a", "ab", "abc"):  # a file that grows: each look sees another one
        followed.write(f"basic_auth_users: {{{name}: {HASH}}}")
        followed.look()
        seen.append((followed.users, followed.changes))
    followed.look()
    seen.append((followed.users, followed.changes))
    followed.look()
    assert seen == [(["alice"], 0)] * 3 + [(["abc"], 1)]
    assert (followed.changes, followed.web.state.successful) == (1, True)
    assert began < (followed.web.state.read_at or 0) <= time.time()
    assert said(caplog)[-2:] == ["web config read again", str(followed.path)]


def test_a_broken_one_leaves_the_former(followed: Followed, caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong is told once, with its line; the former goes on, and is known to be one; then a good one comes."""
    followed.use(f"basic_auth_users: {{alice: {HASH}}}")
    caplog.clear()
    began = followed.web.state.read_at
    followed.write("basic_auth_users:\n  alice: hunter2\n")
    for _ in range(4):
        followed.look()
    state = followed.web.state
    assert (followed.users, state.successful, state.read_at, followed.changes) == (["alice"], False, began, 1)
    message, problem = said(caplog)
    assert message == "web config refused, the former goes on"
    assert problem.startswith(f"{followed.path}:2: basic_auth_users.alice: expected a bcrypt hash")
    followed.write(f"basic_auth_users: {{bob: {HASH}}}")
    for _ in range(2):
        followed.look()
    assert (followed.users, followed.web.state.successful, followed.changes) == (["bob"], True, 2)


def test_a_file_that_goes_and_comes(followed: Followed) -> None:
    """A web config that is taken away does not open the door."""
    followed.use(f"basic_auth_users: {{alice: {HASH}}}")
    followed.path.unlink()
    for _ in range(3):
        followed.look()
    assert (followed.users, followed.web.state.successful) == (["alice"], False)
    followed.write(f"basic_auth_users: {{bob: {HASH}}}")
    for _ in range(2):
        followed.look()
    assert (followed.users, followed.web.state.successful) == (["bob"], True)


def test_rotated_certificates(followed: Followed, tmp_path: Path) -> None:
    """A certificate and a key that are replaced, by files or by a link's change, are read; a half pair is not used."""
    authority = Authority(tmp_path)
    folders = []
    for name in ("one", "two", "three"):
        pair = authority.issue(name)
        folders.append(tmp_path / f"folder-{name}")
        folders[-1].mkdir()
        pair.certificate.rename(folders[-1] / "tls.crt")
        pair.key.rename(folders[-1] / "tls.key")

    def link(to: Path) -> None:
        (tmp_path / "new").symlink_to(to)
        (tmp_path / "new").rename(tmp_path / "current")  # as Kubernetes and certbot do it

    def served() -> tuple[bytes, bool]:
        for _ in range(2):
            followed.look()
        assert followed.web.state.settings.tls is not None
        return followed.web.state.settings.tls.certificate, followed.web.state.successful

    certificates = [(folder / "tls.crt").read_bytes() for folder in folders]
    link(folders[0])
    followed.use("tls_server_config: {cert_file: current/tls.crt, key_file: current/tls.key}")
    assert served() == (certificates[0], True)
    link(folders[1])
    assert served() == (certificates[1], True)
    (folders[1] / "tls.crt").write_bytes(certificates[2])
    assert served() == (certificates[1], False)
    (folders[1] / "tls.key").write_bytes((folders[2] / "tls.key").read_bytes())
    assert served() == (certificates[2], True)


def _hang(_: Path) -> NoReturn:
    while True:
        signal.pause()


def test_a_reader_that_hangs(
    followed: Followed, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that does not come to an end is ended; the former goes on, and it is tried again."""
    followed.use(f"basic_auth_users: {{alice: {HASH}}}")
    caplog.clear()
    followed.write(f"basic_auth_users: {{bob: {HASH}}}")
    followed.look()
    with monkeypatch.context() as patched:
        patched.setattr(web, "_read", _hang)  # as it is when the child is forked
        followed.web.deadline = 0.0
        followed.web.tick()
    assert followed.web._reading is not None
    followed.look()
    assert (followed.users, followed.web.state.successful) == (["alice"], False)
    assert said(caplog) == [
        *("web config not read in time", str(followed.path), "30.0"),
        *("web config refused, the former goes on", str(followed.path), "the process was ended by SIGKILL"),
    ]
    assert followed.web.deadline > time.monotonic() + web.LOOK_SECONDS
    followed.look()
    assert (followed.users, followed.web.state.successful) == (["bob"], True)


def test_remarks_are_told(followed: Followed, caplog: pytest.LogCaptureFixture) -> None:
    """What a good config asks for and does not get is in the log."""
    followed.use("http_server_config: {http2: true}")
    assert said(caplog) == ["web config", f"{followed.path}: http2: clients are offered HTTP/1.1 alone"]
