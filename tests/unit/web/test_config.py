# SPDX-License-Identifier: Apache-2.0
"""web/config.py: what a web config may say, and what is told of one that is wrong."""

import os
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from exporter.web import config
from exporter.web.files import Read, signature
from exporter.web.settings import IF_GIVEN, REQUIRED, TLS, RateLimit, Settings
from tests.certificates import Authority, openssl

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
PAIR = "cert_file: server.pem\n  key_file: server.key"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good certificate and its key, a CA, and files that are wrong."""
    found = tmp_path_factory.mktemp("web")
    Authority(found).issue("server")
    Authority(found, "other").issue("other-server")
    (found / "junk.pem").write_text("junk\n")
    (found / "spoilt.pem").write_text((found / "server.pem").read_text().replace("M", "*"))
    (found / "spoilt.key").write_text((found / "server.key").read_text().replace("M", "*"))
    openssl("ec", "-in", found / "server.key", "-aes128", "-passout", "pass:secret", "-out", found / "secret.key")
    openssl("genrsa", "-out", found / "small.key", 1024)
    openssl("req", "-x509", "-key", found / "small.key", "-subj", "/CN=x", "-out", found / "small.pem")
    os.mkfifo(found / "fifo")
    with (found / "large.pem").open("wb") as file:
        file.truncate(2 << 20)
    return found


def read(folder: Path, text: str) -> Read:
    path = folder / "web.yml"
    path.write_text(text)
    return config.read(path)


def good(folder: Path, text: str) -> Settings:
    found = read(folder, text)
    assert [str(problem) for problem in found.problems] == []
    assert found.settings is not None
    return found.settings


def told(folder: Path, text: str) -> str:
    """The problems, each without the file's name."""
    found = read(folder, text)
    assert found.settings is None
    return "\n".join(str(problem).removeprefix(f"{folder}/web.yml:") for problem in found.problems)


def tls(folder: Path, more: str) -> TLS:
    found = good(folder, f"tls_server_config:\n  {PAIR}\n  {more}\n").tls
    assert found is not None
    return found


def test_files_are_relative_to_the_config(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Certificate and key are what the files hold that stand beside the config, wherever the process is."""
    monkeypatch.chdir(tmp_path)
    found = tls(folder, "")
    assert found == TLS((folder / "server.pem").read_bytes(), (folder / "server.key").read_bytes())
    absolute = f"tls_server_config: {{cert_file: {folder}/server.pem, key_file: {folder}/server.key}}"
    assert good(tmp_path, absolute).tls == found


def test_inline(folder: Path) -> None:
    """Certificate, key and CA may stand in the config itself."""
    lines = "\n".join(
        f"  {name}: |\n" + "".join(f"    {line}\n" for line in (folder / file).read_text().splitlines())
        for name, file in (("cert", "server.pem"), ("key", "server.key"), ("client_ca", "ca.pem"))
    )
    found = good(folder, f"tls_server_config:\n{lines}\n  client_auth_type: {REQUIRED}\n").tls
    pem = (folder / "server.pem").read_bytes(), (folder / "server.key").read_bytes()
    assert found == TLS(*pem, (folder / "ca.pem").read_text(), REQUIRED)


def test_every_setting_of_tls(folder: Path) -> None:
    """Each arrives, by OpenSSL's names."""
    found = tls(
        folder,
        "client_ca_file: ca.pem\n"
        f"  client_auth_type: {REQUIRED}\n"
        "  client_allowed_sans: [prometheus.example.org, 192.0.2.1]\n"
        "  min_version: TLS12\n"
        "  max_version: TLS12\n"
        "  cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n"
        "  prefer_server_cipher_suites: false\n"
        "  curve_preferences: [CurveP384]",
    )
    assert found == TLS(
        (folder / "server.pem").read_bytes(),
        (folder / "server.key").read_bytes(),
        (folder / "ca.pem").read_text(),
        REQUIRED,
        ("prometheus.example.org", "192.0.2.1"),
        "TLS12",
        "TLS12",
        ("ECDHE-ECDSA-AES128-GCM-SHA256",),
        server_order=False,
        curve="secp384r1",
    )


def test_a_ca_with_words_around(folder: Path) -> None:
    """What stands around the certificates in a CA's file may be in any script."""
    (folder / "ca-with-words.pem").write_text(f"Größte CA\n{(folder / 'ca.pem').read_text()}", encoding="utf-8")
    found = tls(folder, f"client_ca_file: ca-with-words.pem\n  client_auth_type: {IF_GIVEN}")
    assert (found.clients, found.client_ca.isascii()) == (IF_GIVEN, True)


def test_all_but_tls(folder: Path) -> None:
    """Users, headers and the limit arrive; a header that is blank is not sent."""
    found = good(
        folder,
        f"basic_auth_users: {{alice: {HASH}, Zoë: {HASH}}}\n"
        "http_server_config:\n"
        "  http2: false\n"
        "  headers: {X-Frame-Options: deny, X-XSS-Protection: '', Strict-Transport-Security: max-age=60}\n"
        "rate_limit: {interval: 1m0.5s, burst: 7}\n",
    )
    assert found == Settings(
        users=(("alice", HASH), ("Zoë", HASH)),
        headers=(("X-Frame-Options", "deny"), ("Strict-Transport-Security", "max-age=60")),
        rate_limit=RateLimit(60.5, 7),
    )


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [("1s", 1.0), ("250ms", 0.25), ("1.5h", 5400.0), ("100us", 1e-4), ("10ns", 1e-8), ("0", None), ("0s", None)],
)
def test_intervals(folder: Path, interval: str, seconds: float | None) -> None:
    """A duration is Go's; 0 is no limit."""
    found = good(folder, f"rate_limit: {{interval: {interval}, burst: 1}}").rate_limit
    assert (found and found.interval) == (pytest.approx(seconds) if seconds is not None else None)


def test_passwords_in_the_clear_are_told(folder: Path) -> None:
    """Users without TLS are allowed, for who has it before the exporter, and told."""
    found = read(folder, f"basic_auth_users: {{a: {HASH}}}").remarks
    assert found == (f"{folder}/web.yml: basic_auth_users without tls_server_config: passwords can be overheard",)
    assert read(folder, f"basic_auth_users: {{a: {HASH}}}\ntls_server_config:\n  {PAIR}\n").remarks == ()


def test_http2_is_told(folder: Path) -> None:
    """Who asks for HTTP/2 is told that there is none; who does not is told nothing."""
    assert read(folder, "http_server_config: {http2: true}").remarks == (
        f"{folder}/web.yml: http2: clients are offered HTTP/1.1 alone",
    )
    assert read(folder, "http_server_config: {http2: false}").remarks == ()


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", "1: expected settings, such as tls_server_config:, found nothing"),
        ("{}", "1: expected settings, such as tls_server_config:, found {}"),
        ("tls_server_config:\n", "1: tls_server_config: expected settings of TLS, such as cert_file: and key_file:"),
        ("basic_auth_users: {}", "1: basic_auth_users: expected users with the bcrypt hashes of their passwords"),
        ("tls_server_confg: {}", "1: tls_server_confg: unknown key; did you mean 'tls_server_config'? allowed: tls_"),
        (
            "\ntls_server_config:\n  cert: x\n  keyfile: y",
            "4: tls_server_config.keyfile: unknown key; did you mean 'key",
        ),
        ("tls_server_config: {}", "1: tls_server_config: lacks 'cert_file'\n1: tls_server_config: lacks 'key_file'"),
        ("tls_server_config: {min_version: TLS13}", "1: tls_server_config: lacks 'cert_file'"),
        (
            "tls_server_config: {min_version: TLS10}",
            "1: tls_server_config.min_version: expected TLS12 or TLS13: those b",
        ),
        (
            "http_server_config: {headers: {Server: x}}",
            "1: http_server_config.headers.Server: unknown key; allowed: Con",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: x}}",
            "1: http_server_config.headers.X-Frame-Options: expect",
        ),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\r\\nb: c"}}', "1: http_server_config.headers.X-XSS-Pr"),
        ("rate_limit: {interval: 1s}", "1: rate_limit: lacks 'burst'"),
        ("rate_limit: {burst: 1}", "1: rate_limit: lacks 'interval'"),
        (
            "rate_limit: {interval: 5, burst: 1}",
            "1: rate_limit.interval: expected a duration such as 100ms or 1s, or 0",
        ),
        (
            "rate_limit: {interval: 1s, burst: 0}",
            "1: rate_limit.burst: expected a number of requests from 1 to 1000000",
        ),
        (
            f"basic_auth_users: {{'a:b': {HASH}}}",
            "1: basic_auth_users.a:b: not a valid name; expected a user's name, wit",
        ),
        (f"basic_auth_users: {{a: {HASH.replace('$10$', '$17$')}}}", "1: basic_auth_users.a: expected a bcrypt hash"),
        (f"basic_auth_users: {{a: {HASH[:-1]}}}", "1: basic_auth_users.a: expected a bcrypt hash ($2y$10$…)"),
    ],
)
def test_problems(folder: Path, text: str, problems: str) -> None:
    """What is wrong is told with its line, and with what is allowed there; what would let everybody in is wrong."""
    assert problems in told(folder, text)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (f"client_auth_type: {REQUIRED}", f"client_auth_type: {REQUIRED} lacks 'client_ca_file', the CAs of clients'"),
        (f"client_auth_type: {IF_GIVEN}", f"client_auth_type: {IF_GIVEN} lacks 'client_ca_file'"),
        (
            "client_auth_type: RequireAnyClientCert",
            "expected NoClientCert, VerifyClientCertIfGiven or RequireAndVerify",
        ),
        ("client_auth_type: RequestClientCert", "what nobody verifies is no proof, found 'RequestClientCert'"),
        ("client_ca_file: ca.pem", "client_ca_file: is of no use without client_auth_type: RequireAndVerifyClientCert"),
        ("client_allowed_sans: [x]", "client_allowed_sans: is of no use without client_auth_type"),
        ("max_version: TLS12\n  min_version: TLS13", "max_version: is below min_version"),
        ("cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]", "cipher_suites.0: expected one of TLS_ECDHE_ECDSA_WITH"),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256]\n  max_version: TLS12", "cipher_suites: has none of TLS 1.2"),
        ("curve_preferences: [X25519]", "curve_preferences.0: expected CurveP256, CurveP384, CurveP521: Python's ssl"),
        ("curve_preferences: [CurveP256, CurveP384]", "curve_preferences: expected a list of one of CurveP256"),
        ("cert: x", "cert: stands beside cert_file: one of them is too many"),
        ("key: x", "key: stands beside key_file: one of them is too many"),
        (f"client_auth_type: {REQUIRED}\n  client_ca_file: junk.pem", "client_ca_file: has no certificate in PEM"),
        (f"client_auth_type: {REQUIRED}\n  client_ca_file: absent.pem", "absent.pem cannot be read: No such file"),
    ],
)
def test_problems_of_tls(folder: Path, more: str, problem: str) -> None:
    """What does not go together is told, mTLS without a CA above all; so is what Python's ssl does not have."""
    found = told(folder, f"tls_server_config:\n  {PAIR}\n  {more}\n")
    assert problem in found
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize(
    ("cert", "key", "problem"),
    [
        ("junk.pem", "server.key", "2: tls_server_config.cert_file: has no certificate in PEM"),
        ("spoilt.pem", "server.key", "2: tls_server_config.cert_file: has no certificate in PEM"),
        ("server.key", "server.key", "2: tls_server_config.cert_file: has no certificate in PEM"),
        ("server.pem", "junk.pem", "3: tls_server_config.key_file: has no private key in PEM"),
        ("server.pem", "spoilt.key", "3: tls_server_config.key_file: has no private key in PEM"),
        ("server.pem", "server.pem", "3: tls_server_config.key_file: has no private key in PEM"),
        ("server.pem", "other-server.key", "3: tls_server_config.key_file: is not the key of the certificate"),
        ("server.pem", "small.key", "3: tls_server_config.key_file: is not the key of the certificate"),
        ("server.pem", "secret.key", "3: tls_server_config.key_file: is encrypted: no password can be given"),
        ("small.pem", "small.key", "2: tls_server_config.cert_file: has too small a key"),
        ("absent.pem", "server.key", "2: tls_server_config.cert_file: {}/absent.pem cannot be read: No such file or"),
        (".", "server.key", "2: tls_server_config.cert_file: {} is no regular file"),
        ("fifo", "server.key", "2: tls_server_config.cert_file: {}/fifo is no regular file"),
        ("/dev/zero", "server.key", "2: tls_server_config.cert_file: /dev/zero is no regular file"),
        ("large.pem", "server.key", "2: tls_server_config.cert_file: {}/large.pem is larger than 1048576 bytes"),
        ('"a\\0b"', "server.key", "2: tls_server_config.cert_file: {}/a\\u0000b cannot be read"),
    ],
)
def test_problems_of_files(folder: Path, cert: str, key: str, problem: str) -> None:
    """Files that are none, or not what they should be, are told with the line that names them."""
    text = f"tls_server_config:\n  cert_file: {cert}\n  key_file: {key}\n"
    assert told(folder, text).startswith(problem.format(folder))


@pytest.mark.parametrize("name", ["absent.yml", "fifo", "."])
def test_no_file(folder: Path, name: str) -> None:
    """A config that is not there, or no file, is told, and nobody waits for it."""
    found = config.read(folder / name)
    words = "is no regular file" if name != "absent.yml" else "cannot be read: No such file or directory"
    assert [str(problem) for problem in found.problems] == [f"{folder / name}: {words}"]


@pytest.mark.parametrize(
    "text",
    [
        "basic_auth_users: {alice: hunter2}",
        "basic_auth_users: [alice:hunter2]",
        "basic_auth_users: hunter2",
        "tls_server_config: {cert: x, key: [hunter2]}",
    ],
)
def test_no_secret_is_told(folder: Path, text: str) -> None:
    """A password or a key that stands where it should not does not come to the log."""
    found = told(folder, text)
    assert "found something else" in found
    assert "hunter2" not in found


def test_without_bcrypt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users without the library that checks them are an error that names the package."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    assert told(folder, f"basic_auth_users: {{a: {HASH}}}") == "1: basic_auth_users: wants the package python3-bcrypt"


@pytest.mark.parametrize(
    ("answer", "reason"), [(False, "a right password is wrong to it"), (OSError("no\nway"), r"no\nway")]
)
def test_with_a_bcrypt_that_is_broken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answer: object, reason: str
) -> None:
    """It is tried before it is served: what it can't do is told by its line, and not to clients."""
    monkeypatch.setattr("bcrypt.checkpw", Mock(side_effect=[answer]))
    expected = f"1: basic_auth_users: wants a python3-bcrypt that works: {reason}"
    assert told(folder, f"basic_auth_users: {{a: {HASH}}}") == expected


@pytest.mark.parametrize("value", ["' x'", "'x '", "' '", r'"\tx"', r'"x\n"'])
def test_blanks_around_a_header(folder: Path, value: str) -> None:
    """They are refused: no answer could be sent with them. Those within stay."""
    text = f"http_server_config: {{headers: {{X-XSS-Protection: {value}}}}}"
    assert told(folder, text).startswith("1: http_server_config.headers.X-XSS-Protection: expected a header's value")
    found = good(
        folder, "http_server_config: {headers: {X-XSS-Protection: '1; mode=block', Strict-Transport-Security: x}}"
    )
    assert found.headers == (("X-XSS-Protection", "1; mode=block"), ("Strict-Transport-Security", "x"))


def test_the_files_that_were_read(folder: Path) -> None:
    """All that was read is known, as it was; what is not there too, for it may come."""
    found = read(folder, "tls_server_config: {cert_file: server.pem, key_file: absent.key}")
    names = ["web.yml", "server.pem", "absent.key"]
    assert found.files == tuple((folder / name, signature(folder / name)) for name in names)
    assert found.files[2][1] is None


def test_signatures(tmp_path: Path) -> None:
    """A file's signature is another one when it is written to, replaced, or linked elsewhere; else the same."""
    one, other, link = tmp_path / "one", tmp_path / "other", tmp_path / "link"
    one.write_text("1")
    other.write_text("1")
    link.symlink_to(one)
    found = [signature(one), signature(one), signature(other), signature(link)]
    assert [found[0] == other for other in found] == [True, True, False, True]
    one.write_text("2")
    found.append(signature(one))
    other.rename(one)
    found += [signature(one), signature(link)]
    assert len({*found}) == 4
    assert found[-1] == found[-2]
    assert (signature(tmp_path / "absent"), signature(Path("a\0b"))) == (None, None)
