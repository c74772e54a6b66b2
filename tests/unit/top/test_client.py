# SPDX-License-Identifier: Apache-2.0
"""top/client.py and answers.py: an exporter is asked, and whatever it answers is values or a line of words."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.metrics import probes as served
from exporter.metrics.health import Health
from exporter.status import ProbeStatus
from exporter.top import answers, client, place
from exporter.top.answers import Distribution
from exporter.top.client import Client, NoProbe, Trust, Unanswered
from tests.certificates import Authority
from tests.kernel.daemon import free_port

from .support import Exporter, probe, probe_answer, serving

GOOD = {"time": 5, "probes": [probe_answer()]}
SERIES = {
    "time": 5.5,
    "name": "file_io",
    "metrics": [
        {"name": "a_total", "type": "counter", "help": "A.", "labels": ["comm"], "series": [[["\x1b"], 7]]},
        {
            "name": "b",
            "type": "histogram",
            "help": "B.",
            "labels": [],
            "series": [[[], {"count": 3, "sum": 0.5, "buckets": [["0.1", 1], ["+Inf", 3]]}]],
        },
        {"name": "c", "type": "gauge", "help": "C.", "labels": ["a", "b"], "series": [[["", "x"], None]]},
    ],
}


@pytest.fixture
def exporter() -> Exporter:
    one = Exporter()
    one.answers = {"/probes": GOOD, "/probes/file_io": SERIES}
    return one


@pytest.fixture
def url(exporter: Exporter) -> Iterator[str]:
    with serving(exporter) as found:
        yield found


Asking = Callable[..., Client]


@pytest.fixture
def asking() -> Iterator[Asking]:
    """A function that makes clients: of a URL, with a password and files of certificates."""
    made = []

    def make(url: str, password: str = "", trust: Trust | None = None) -> Client:
        made.append(Client(place.of_url(url), password, trust))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_answers(exporter: Exporter, url: str, asking: Asking) -> None:
    """Probes and series come as they were sent, all by one connection."""
    asked = asking(url)
    assert asked.probes() == answers.Probes(5, (probe(),))
    found = asked.series("file_io")
    assert (found.time, found.name) == (5.5, "file_io")
    assert [dict(metric.series) for metric in found.metrics] == [
        {("\x1b",): 7},
        {(): Distribution(3, 0.5, ((0.1, 1), (float("inf"), 3)))},
        {("", "x"): None},
    ]
    assert (exporter.asked, exporter.connections) == (["/probes", "/probes/file_io"], 1)


def test_what_the_worker_serves_is_understood() -> None:
    """The form is the one that the exporter itself writes."""
    health = Health(config_loaded=0.0)
    health.statuses = {"p": ProbeStatus("p", "Counts.", "failed", reason="why")}
    health.last_read = 5.0
    [found] = answers.probes(json.loads(served.overview(health))).probes
    assert (found.name, found.state, found.reason, found.events) == ("p", "failed", "why", None)
    assert answers.series(json.loads(b"".join(served.series(health, "p")))).metrics == ()


def test_a_name_that_is_no_text(exporter: Exporter, url: str, asking: Asking) -> None:
    """A lone surrogate, from a command line's byte or out of JSON, is told; nobody is asked."""
    with pytest.raises(Unanswered, match=r"^no probe can have the name '\\udcff': it is no text$"):
        asking(url).series("\udcff")
    assert exporter.asked == []


def test_a_connection_that_has_ended(exporter: Exporter, url: str, asking: Asking) -> None:
    """It is made again, and nobody is told."""
    exporter.once = True
    asked = asking(url)
    for _ in range(3):
        assert asked.probes().time == 5
    assert exporter.connections == 3


def test_a_unix_socket(exporter: Exporter, tmp_path: Path, asking: Asking) -> None:
    """HTTP by a socket in the file system."""
    with serving(exporter, tmp_path / "socket") as url:
        assert asking(url).probes().time == 5
    with pytest.raises(Unanswered, match=r"^unix:.*/none does not answer: No such file or directory; is the"):
        asking(f"unix:{tmp_path}/none").probes()


def test_a_password(exporter: Exporter, url: str, asking: Asking) -> None:
    """Who has it is answered; who has not is told what is wanted."""
    exporter.user = "alice:pass:wörd"
    with_user = url.replace("//", "//alice@")
    assert asking(with_user, "pass:wörd").probes().time == 5
    with pytest.raises(Unanswered, match="does not take this password of 'alice'"):
        asking(with_user, "else").probes()
    with pytest.raises(Unanswered, match="wants a user: --url https://USER@HOST:PORT --password-file FILE"):
        asking(url).probes()


def test_no_such_probe(exporter: Exporter, url: str, asking: Asking) -> None:
    """What was meant is told; a name is never part of a path."""
    asked = asking(url)
    with pytest.raises(NoProbe, match="has no probe 'file_oi'; did you mean 'file_io'\\? allowed: file_io"):
        asked.series("file_oi")
    with pytest.raises(NoProbe):
        asked.series("../probes?x\r\n")
    assert exporter.asked[2] == "/probes/..%2Fprobes%3Fx%0D%0A"


def test_nobody_answers(asking: Asking) -> None:
    """A line says so, and what to look for."""
    port = free_port()
    with pytest.raises(Unanswered) as raised:
        asking(f"localhost:{port}").probes()
    assert str(raised.value) == f"http://localhost:{port} does not answer: Connection refused; is the exporter running?"
    with pytest.raises(Unanswered, match=r"does not answer: (Name or service not known|Temporary failure)"):
        asking("http://no-such-host.invalid").probes()


def test_it_takes_too_long(monkeypatch: pytest.MonkeyPatch, asking: Asking) -> None:
    """Who accepts and says nothing is given up."""
    monkeypatch.setattr(client, "SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unanswered, match="nothing came within"):
        asking(f"127.0.0.1:{silent.getsockname()[1]}").probes()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        b"\xff",
        b"null",
        b"[]",
        b'{"time": 1}',
        b'{"time": "1", "probes": []}',
        b'{"time": true, "probes": []}',
        b'{"time": 1e999, "probes": []}',
        b'{"time": 1, "probes": {"a": 1}}',
        b'{"time": 1, "probes": [{}]}',
        {"time": 1, "probes": [probe_answer(state=7)]},
        {"time": 1, "probes": [probe_answer(events_total="many")]},
        {"time": 1, "probes": [probe_answer(events_total=10**400)]},
        {"time": 1, "probes": [probe_answer(history=[[1]])]},
    ],
)
def test_no_exporter(exporter: Exporter, url: str, body: object, asking: Asking) -> None:
    """Whatever else is answered is told in a line."""
    exporter.answers["/probes"] = body
    with pytest.raises(Unanswered, match=r"^http://.*/probes is not what an exporter of this version answers \(.*\)$"):
        asking(url).probes()


@pytest.mark.parametrize(
    "metric",
    [
        {"series": [[["a", "b"], 1]]},
        {"series": [[["a"], "1"]]},
        {"series": [[[1], 1]]},
        {"series": [[["a"], {"count": 1}]]},
        {"series": 3},
        {"labels": None},
    ],
)
def test_no_series(exporter: Exporter, url: str, metric: dict[str, object], asking: Asking) -> None:
    """Series that do not fit their metric are told as well."""
    good = {"name": "a", "type": "counter", "help": "", "labels": ["comm"], "series": []}
    exporter.answers["/probes/file_io"] = {"time": 1, "name": "file_io", "metrics": [good | metric]}
    with pytest.raises(Unanswered, match="is not what an exporter of this version answers"):
        asking(url).series("file_io")


def test_an_answer_without_end(exporter: Exporter, url: str, monkeypatch: pytest.MonkeyPatch, asking: Asking) -> None:
    """What is larger than any exporter's answer is not read to its end."""
    monkeypatch.setattr(client, "_MOST_BYTES", 100)
    exporter.answers["/probes"] = b" " * 1000
    with pytest.raises(Unanswered, match="is larger than 100 bytes"):
        asking(url).probes()


def test_other_answers(exporter: Exporter, url: str, asking: Asking) -> None:
    """Of an answer that is no success, what it says."""
    exporter.status = 503
    with pytest.raises(Unanswered, match=r"answers 503 Service Unavailable$"):
        asking(url).probes()
    exporter.status = 400
    with pytest.raises(Unanswered, match=r"answers 400 Bad Request; does it speak TLS\? https://$"):
        asking(url).probes()
    with pytest.raises(Unanswered, match=r"does not answer: TLS: .*; does it speak HTTP\? http://$"):
        asking(url.replace("http:", "https:")).probes()
    exporter.status, exporter.answers = 200, {}
    with pytest.raises(Unanswered, match=r"answers 404 Not Found$"):
        asking(url).series("file_io")


def test_tls(exporter: Exporter, asking: Asking, tmp_path: Path) -> None:
    """Whose CA is trusted is answered with, who shows the certificate that is wanted is answered."""
    authority = Authority(tmp_path)
    pair, own = authority.issue("server", "IP:127.0.0.1"), authority.issue("alice")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(pair.certificate, pair.key)
    with serving(exporter, tls=context) as url:
        assert asking(url, trust=Trust(ca=authority.certificate)).probes().time == 5
        for place_, why in (
            (url, r"self-signed certificate in certificate chain"),
            (url.replace("127.0.0.1", "localhost"), r"Hostname mismatch, certificate is not valid for 'localhost'\."),
        ):
            trust = Trust(ca=authority.certificate) if "localhost" in place_ else None
            with pytest.raises(
                Unanswered, match=rf"its certificate is not trusted: {why}; --ca-file names a CA that is$"
            ):
                asking(place_, trust=trust).probes()
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(exporter, tls=context) as url:
        assert asking(url, trust=Trust(authority.certificate, own.certificate, own.key)).probes().time == 5
        with pytest.raises(Unanswered, match="does not answer: "):
            asking(url, trust=Trust(ca=authority.certificate)).probes()


def test_certificates(tmp_path: Path, asking: Asking) -> None:
    """A file that holds none is told by its name."""
    (tmp_path / "empty").write_text("nothing\n")
    pair = Authority(tmp_path).issue("one")
    for trust, words in (
        (Trust(ca=tmp_path / "none"), f"{tmp_path}/none: cannot be read: No such file or directory"),
        (Trust(ca=tmp_path / "empty"), f"{tmp_path}/empty: no certificate and key as PEM: NO_CERTIFICATE_OR_CRL_FOUND"),
        (Trust(certificate=pair.certificate), f"{pair.certificate}: no certificate and key as PEM: "),
        (Trust(certificate=pair.certificate, key=tmp_path / "no"), f"{pair.certificate}: cannot be read: No such file"),
    ):
        with pytest.raises(Unanswered) as raised:
            asking("https://localhost:1", trust=trust)
        assert str(raised.value).startswith(words)
    context = Trust(pair.certificate, pair.certificate, pair.key).context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
