# SPDX-License-Identifier: Apache-2.0
"""web/access.py: what a request is refused with."""

import asyncio
import base64
import sys
import time
from http import HTTPStatus

import pytest

from exporter.web.access import Access
from exporter.web.settings import REQUIRED, TLS, RateLimit, Settings
from tests.certificates import Authority, Pair

from .test_passwords import USERS


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def refusals(settings: Settings, *authorizations: str | None) -> list[int | None]:
    """The status that each of several requests is refused with."""

    async def main() -> list[int | None]:
        found = Access()
        found.use(settings)
        answers = []
        for text in authorizations:
            answer = await found.refusal({} if text is None else {"authorization": text}, b"")
            answers.append(answer.status.value if answer else None)
        return answers

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (basic("alice", "wonderland"), None),
        (basic("alice", "wonderland").replace("Basic", "bAsIc "), None),
        (basic("alice", "wrong"), 401),
        (basic("mallory", "wonderland"), 401),
        (basic("zoë", "ünïcode"), None),
        (None, 401),
        ("", 401),
        ("Basic", 401),
        ("Basic ", 401),
        ("Basic !!!!", 401),
        ("Basic YWxpY2U=", 401),  # no colon
        ("Basic Og==", 401),  # nothing but a colon
        ("Basic \xff\xfe", 401),
        ("Bearer YWxpY2U6d29uZGVybGFuZA==", 401),
        (basic("alice", "wonderland") + ", " + basic("alice", "wonderland"), 401),  # two headers
    ],
)
def test_basic_auth(authorization: str | None, status: int | None) -> None:
    """Only a user's own password opens; whatever else comes is refused as a wrong one is."""
    assert refusals(Settings(users=USERS), authorization) == [status]


def test_without_users_everybody_comes_in() -> None:
    """Where the config has no users nobody is asked for one, and one that is given is not looked at."""
    assert refusals(Settings(), None, "Basic !!!!") == [None, None]


def test_the_challenge() -> None:
    """A refusal says how to come in (RFC 7617), so that browsers ask for a password."""

    async def main() -> dict[str, str]:
        found = Access()
        found.use(Settings(users=USERS))
        answer = await found.refusal({}, b"")
        assert answer is not None
        return dict(answer.headers)

    assert asyncio.run(main()) == {"WWW-Authenticate": 'Basic realm="ebpf-exporter", charset="UTF-8"'}


def test_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst is let in at once, then one each interval; who comes too early is told so, and is not counted."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def main() -> list[list[int | None]]:
        nonlocal now
        found = Access()
        found.use(Settings(rate_limit=RateLimit(interval=0.5, burst=3)))
        answers = []
        for pause in (0.0, 0.75, 0.25, 60.0):
            now += pause
            some = [await found.refusal({}, b"") for _ in range(5)]
            answers.append([answer.status.value if answer else None for answer in some])
        return answers

    let, not_ = None, HTTPStatus.TOO_MANY_REQUESTS.value
    assert asyncio.run(main()) == [
        [let, let, let, not_, not_],
        [let, not_, not_, not_, not_],
        [let, not_, not_, not_, not_],
        [let, let, let, not_, not_],
    ]


def test_the_same_limit_again_gives_no_new_burst() -> None:
    """What a reload leaves as it was goes on as it was."""

    async def main() -> list[bool]:
        found = Access()
        answers = []
        for _ in range(3):
            found.use(Settings(rate_limit=RateLimit(interval=3600, burst=2), users=()))
            answers.append(await found.refusal({}, b"") is None)
        return answers

    assert asyncio.run(main()) == [True, True, False]


@pytest.mark.parametrize(
    ("names", "admitted"),
    [
        ([("DNS", "prometheus.example.org")], True),
        ([("DNS", "other.example.org"), ("IP Address", "192.0.2.7")], True),
        ([("IP Address", "2001:DB8:0:0:0:0:0:1\n")], True),
        ([("email", "ops@example.org")], True),
        ([("URI", "spiffe://example.org/prometheus")], True),
        ([("DNS", "prometheus.example.org.evil")], False),
        ([("DNS", "*.example.org")], False),
        ([("IP Address", "192.0.2.70")], False),
        ([], False),
    ],
)
def test_allowed_names(names: list[tuple[str, str]], admitted: bool, pair: Pair) -> None:
    """Of a client's subject alternative names one has to be one of those that are allowed, letter by letter."""
    allowed = (
        "prometheus.example.org",
        "192.0.2.7",
        "2001:db8::1",
        "ops@example.org",
        "spiffe://example.org/prometheus",
    )
    found = Access()
    assert found.admits([])
    certificate, key = pair.certificate.read_bytes(), pair.key.read_bytes()
    found.use(Settings(tls=TLS(certificate, key, certificate.decode(), REQUIRED, allowed)))
    assert found.admits(names) is admitted


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Authority(tmp_path_factory.mktemp("certificates")).issue("server")


def test_users_that_cannot_be_checked_change_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bcrypt TLS, the limit and the users are what they were."""

    async def main() -> tuple[bool, int | None]:
        found = Access()
        found.use(Settings())
        monkeypatch.setitem(sys.modules, "bcrypt", None)
        settings = TLS(pair.certificate.read_bytes(), pair.key.read_bytes())
        with pytest.raises(ImportError):
            found.use(Settings(tls=settings, users=USERS, rate_limit=RateLimit(3600, 1)))
        answers = [await found.refusal({}, b"") for _ in range(2)]
        return found.context is None and found.settings == Settings(), sum(one is not None for one in answers)

    assert asyncio.run(main()) == (True, 0)


def test_settings_that_are_wrong_change_nothing(pair: Pair) -> None:
    """Where TLS can't be spoken as is wanted, the former settings stay as a whole."""

    async def main() -> tuple[bool, bool]:
        found = Access()
        found.use(Settings(users=USERS))
        with pytest.raises(OSError, match="PEM"):
            found.use(Settings(tls=TLS(b"junk", pair.key.read_bytes())))
        return found.context is None, await found.refusal({}, b"") is not None

    assert asyncio.run(main()) == (True, True)
