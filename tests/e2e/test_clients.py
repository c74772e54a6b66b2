# SPDX-License-Identifier: Apache-2.0
"""Hostile clients against the daemon, in the clear and by TLS with passwords: scrapes go on, memory is bounded."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from tests.certificates import Authority
from tests.e2e.attacks import ATTACKS
from tests.e2e.clients import Scraper, attack, both, descriptors, resident_mb
from tests.kernel.daemon import Daemon

PASSWORD = "correct horse"
PROBES: dict[str, object] = {"file_opens": {}}
MOST_MB = 32  # what all attacks together may add to the worker


@dataclass
class Served:
    """A daemon, a scraper that may come in, and the CA of its certificate, if it has one."""

    daemon: Daemon
    scraper: Scraper
    ca: Path | None


@pytest.fixture(scope="module", params=["clear", "tls"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if request.param == "clear":
        with both(Daemon(PROBES), PROBES) as daemon:
            yield Served(daemon, Scraper(daemon.port), None)
        return
    folder = tmp_path_factory.mktemp("web")
    authority = Authority(folder)
    pair = authority.issue("server")
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()
    (folder / "web.yml").write_text(
        f"tls_server_config: {{cert_file: {pair.certificate.name}, key_file: {pair.key.name}}}\n"
        f"basic_auth_users: {{prometheus: {hashed}}}\n"
    )
    with both(Daemon(PROBES, web_config=str(folder / "web.yml")), PROBES) as daemon:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        yield Served(daemon, Scraper(daemon.port, context, PASSWORD), authority.certificate)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("address", "pause"), [("::1", 0.2), ("127.0.0.1", 1.0)], ids=["other", "same"])
def test_scrapes_go_on(served: Served, name: str, address: str, pause: float) -> None:
    """While clients do their worst, from another address or from that of the scraper itself, it has its pages in time;
    what that takes of memory is bounded."""
    if name == "passwords" and served.ca is None:
        pytest.skip("without users no password is looked at")
    served.scraper.seconds()
    before = resident_mb(served.daemon)
    with attack(name, served.daemon.port, served.ca, address, pause):
        served.scraper.scrapes_promptly()
    assert resident_mb(served.daemon) - before < MOST_MB


def test_nothing_stays(served: Served) -> None:
    """After all of that the worker comes down to the descriptors that it has without clients, and no fault is told."""
    for _ in range(100):
        served.scraper.seconds()
        if descriptors(served.daemon) < 40:
            break
    assert descriptors(served.daemon) < 40
    assert "Traceback" not in served.daemon.log()
    assert "ERROR" not in served.daemon.log()
