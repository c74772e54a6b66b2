# SPDX-License-Identifier: Apache-2.0
"""web_config with the clients that people have: curl, openssl and Prometheus; and what a change of its files does."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest

from tests.certificates import Authority, Pair
from tests.e2e.clients import Scraper, attack, both
from tests.kernel.daemon import COMMAND, Daemon, parsed
from tests.kernel.prometheus import Prometheus

PASSWORD = "correct horse"
PROBES: dict[str, object] = {"file_opens": {}}
GOOD, GOOD_AT = (
    "ebpf_exporter_web_config_last_reload_successful",
    "ebpf_exporter_web_config_last_reload_success_timestamp_seconds",
)


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


class Web:
    """A folder with a CA, a server's certificate and a web config; clients that trust the CA."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.pair = self.authority.issue("server")
        self.pair.key.chmod(0o600)
        self.path = folder / "web.yml"
        self.tls = {"cert_file": self.pair.certificate.name, "key_file": self.pair.key.name}

    def write(self, tls: dict[str, object] | None = None, **settings: object) -> None:
        """Writes the config: TLS with these settings besides certificate and key, and others."""
        tls_ = {} if tls is None else {"tls_server_config": {**self.tls, **tls}}
        self.path.write_text(json.dumps({**tls_, **settings}))  # JSON is YAML

    def daemon(self) -> Daemon:
        return Daemon(PROBES, web_config=str(self.path))

    def scraper(self, daemon: Daemon, password: str | None = None, own: Pair | None = None) -> Scraper:
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return Scraper(daemon.port, context, password)

    def curl(self, daemon: Daemon, *options: object, path: str = "/metrics") -> tuple[int, str]:
        """Runs curl by TLS. Returns its exit code, or the answer's status where there is one; and what it printed."""
        url = f"https://localhost:{daemon.port}{path}"
        trust = ["--cacert", str(self.authority.certificate)]
        command = ["curl", "-sS", "--max-time", "60", "-w", "\n%{http_code}", *trust, *map(str, options), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        body, _, status = done.stdout.rpartition("\n")
        return done.returncode or int(status), body


@pytest.fixture
def web(tmp_path: Path) -> Web:
    return Web(tmp_path)


class Handshake:
    """A client that has sent its ClientHello, has had what the server says to that, and says nothing so far."""

    def __init__(self, web: Web, daemon: Daemon) -> None:
        self._socket = socket.create_connection(("127.0.0.1", daemon.port), timeout=60)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(web.authority.certificate))
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._socket.sendall(self._out.read())
        self._in.write(self._socket.recv(65536))

    def finish(self, request: bytes) -> bytes:
        """Ends the handshake, asks, and returns how the answer begins."""
        with self._socket:
            self._tls.do_handshake()
            self._tls.write(request)
            self._socket.sendall(self._out.read())
            while True:
                self._in.write(self._socket.recv(65536) or b"\0")  # what is no TLS, where the server has gone
                with contextlib.suppress(ssl.SSLWantReadError):
                    return self._tls.read(1024)


def fingerprint(daemon: Daemon) -> str:
    """Of the certificate that a client finds."""
    pem = ssl.get_server_certificate(("localhost", daemon.port))
    return openssl_fingerprint(pem)


def openssl_fingerprint(pem: str) -> str:
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256"]
    return subprocess.run(command, input=pem, check=True, capture_output=True, text=True).stdout


def wait(daemon: Daemon, condition: Callable[[], bool]) -> None:
    """Asks again and again, as a client does, until a condition holds."""
    for _ in range(600):
        if condition():
            return
        with socket.create_connection(("127.0.0.1", daemon.port)) as asking:
            asking.settimeout(0.1)
            try:
                asking.recv(1)  # nothing comes: this is the pace
            except OSError:
                continue
    raise AssertionError(daemon.log())


# -- TLS


def test_tls_by_curl(web: Web) -> None:
    """Who trusts the CA has the page by TLS; who does not, breaks off; who speaks HTTP is told."""
    web.write({})
    with web.daemon() as daemon:
        status, body = web.curl(daemon)
        assert (status, "ebpf_file_opens_total" in body) == (200, True)
        assert web.curl(daemon, "--tlsv1.2", "--tls-max", "1.2")[0] == 200
        assert web.curl(daemon, "--http2")[0] == 200
        assert web.curl(daemon, "--capath", "/nonexistent", "--cacert", "/dev/null")[0] in (60, 77)  # curl's own codes
        assert f"https://127.0.0.1:{daemon.port}/metrics" in daemon.log()
        response, answer = daemon.get("/metrics")
        assert (response.status, answer) == (400, b"This port speaks TLS: https://\n")


def test_versions_by_openssl(web: Web) -> None:
    """TLS below the least that is wanted is refused."""
    web.write({"min_version": "TLS13"})
    with web.daemon() as daemon:
        for option, good in (("-tls1_3", True), ("-tls1_2", False)):
            command = ["openssl", "s_client", "-connect", f"localhost:{daemon.port}", option]
            done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
            assert ("Cipher is (NONE)" not in done.stdout) is good


def test_certificates_of_clients(web: Web, tmp_path: Path) -> None:
    """With RequireAndVerifyClientCert only who has a certificate of the CA, and an allowed name, has an answer."""
    (tmp_path / "others").mkdir()
    own = web.authority.issue("prometheus", "DNS:prometheus.example.org")
    other = web.authority.issue("other", "DNS:other.example.org")
    foreign = Authority(tmp_path / "others").issue("prometheus", "DNS:prometheus.example.org")
    web.write(
        {
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": web.authority.certificate.name,
            "client_allowed_sans": ["prometheus.example.org"],
        }
    )
    with web.daemon() as daemon:
        assert web.curl(daemon, "--cert", own.certificate, "--key", own.key)[0] == 200
        for options in ([], ["--cert", other.certificate, "--key", other.key]):
            assert web.curl(daemon, *options)[0] in (52, 56), options  # curl's: an empty answer, a failure to receive
        assert web.curl(daemon, "--cert", foreign.certificate, "--key", foreign.key)[0] in (52, 56)
        assert web.curl(daemon, "--cert", own.certificate, "--key", own.key)[0] == 200


def test_certificates_of_clients_without_a_ca(web: Web) -> None:
    """mTLS without a CA of clients does not start, and says why, with file and line; nor does check take it."""
    web.write({"client_auth_type": "RequireAndVerifyClientCert"})
    for command in ("run", "check"):
        config = web.folder / "config.yaml"
        config.write_text("web_config: web.yml\nprobes: {file_opens: {}}\nlisten: ['127.0.0.1:1']\n")
        done = subprocess.run(
            [str(COMMAND), command, "--config", str(config)], capture_output=True, text=True, check=False, timeout=60
        )
        expected = (
            f"{web.path}:1: tls_server_config.client_auth_type: RequireAndVerifyClientCert lacks 'client_ca_file',"
            " the CAs of clients' certificates\n"
        )
        assert (done.returncode, done.stderr) == (1, expected)


def test_check_tells_of_both_configs(web: Web) -> None:
    """check tells what is wrong in the config and in the web config at once; of good ones, what they do not get."""
    config = web.folder / "config.yaml"

    def check() -> tuple[int, list[str]]:
        command = [str(COMMAND), "check", "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, [line.replace(f"{web.folder}/", "") for line in done.stderr.splitlines()]

    config.write_text("web_config: web.yml\nprobes: {file_opens: {max_series: 0}}\n")
    web.path.write_text("tls_server_config:\n  cert_file: absent.pem\n  key_fil: x\n")
    code, lines = check()
    assert (code, [line.split(" ")[0] for line in lines]) == (1, ["config.yaml:2:", "web.yml:3:"])
    config.write_text("web_config: web.yml\nprobes: {file_opens: {}}\n")
    web.write({}, http_server_config={"http2": True})
    assert check() == (0, ["warning: web.yml: http2: clients are offered HTTP/1.1 alone"])


def test_prometheus_scrapes(web: Web) -> None:
    """A real Prometheus comes in by TLS with its certificate and its password, and has every sample."""
    own = web.authority.issue("prometheus")
    web.write(
        {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": web.authority.certificate.name},
        basic_auth_users={"prometheus": hashed(PASSWORD, 10)},
    )
    settings = {
        "scheme": "https",
        "tls_config": {
            "ca_file": str(web.authority.certificate),
            "cert_file": str(own.certificate),
            "key_file": str(own.key),
        },
        "basic_auth": {"username": "prometheus", "password": PASSWORD},
    }
    with web.daemon() as daemon, Prometheus(daemon.port, settings) as prometheus:
        prometheus.wait_for_scrape(0)
        assert {name for name, _ in prometheus.last('{job="test"}')} >= {"ebpf_file_opens_total", GOOD, "up"}


# -- passwords


def test_passwords_by_curl(web: Web) -> None:
    """A user comes in with his password; all else is 401, with what a browser needs to ask for one."""
    web.write({}, basic_auth_users={"prometheus": hashed(PASSWORD)})
    with web.daemon() as daemon:
        assert web.curl(daemon, "-u", f"prometheus:{PASSWORD}")[0] == 200
        for options in ([], ["-u", "prometheus:wrong"], ["-u", f"nobody:{PASSWORD}"], ["-u", "prometheus:"]):
            for path in ("/metrics", "/", "/probes", "/-/healthy", "/elsewhere"):
                assert web.curl(daemon, *options, path=path) == (401, "Unauthorized\n")
        response, _ = web.scraper(daemon).get()
        assert response.headers["WWW-Authenticate"] == 'Basic realm="ebpf-exporter", charset="UTF-8"'


def worker_cpu_ns(daemon: Daemon) -> int:
    """What the worker's threads have had of processors."""
    tasks = Path(f"/proc/{daemon.worker_pid()}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def test_an_unknown_user_takes_the_time_of_a_wrong_password(web: Web) -> None:
    """By what the worker computes, which a busy machine does not change."""
    web.write({}, basic_auth_users={"prometheus": hashed(PASSWORD, 11), "other": hashed(PASSWORD, 11)})
    with web.daemon() as daemon:

        def spent(user: str) -> int:
            before = worker_cpu_ns(daemon)
            for number in range(5):
                assert web.curl(daemon, "-u", f"{user}:wrong{number}")[0] == 401
            return worker_cpu_ns(daemon) - before

        spent("prometheus")
        known, unknown = spent("prometheus"), spent("nobody")
    assert 0.5 < known / unknown < 2


def test_passwords_under_a_flood(web: Web) -> None:
    """Who comes for the first time while another address tries passwords is not behind all of its attempts: by what the
    worker computes meanwhile."""
    web.write({}, basic_auth_users={"prometheus": hashed(PASSWORD, 10)})
    with both(web.daemon(), PROBES) as daemon:
        before = worker_cpu_ns(daemon)
        assert web.curl(daemon, "-u", "prometheus:wrong")[0] == 401
        one = worker_cpu_ns(daemon) - before
        with attack("passwords", daemon.port, web.authority.certificate, "::1", 0.0):
            before = worker_cpu_ns(daemon)
            web.scraper(daemon, PASSWORD).seconds()
            assert worker_cpu_ns(daemon) - before < 20 * one  # the flood has a hundred in the queue


def test_bcrypt_is_there_only_where_there_are_users(web: Web) -> None:
    """The library takes no memory where nobody has a password; where somebody has, the worker alone has it."""
    for users in ({}, {"basic_auth_users": {"prometheus": hashed(PASSWORD)}}):
        web.write({}, **users)
        with web.daemon() as daemon:
            assert web.curl(daemon)[0] == (401 if users else 200)  # the worker has its settings before it answers
            assert daemon.process is not None
            pids = (daemon.process.pid, daemon.worker_pid())
            loaded = ["_bcrypt" in Path(f"/proc/{pid}/maps").read_text() for pid in pids]
        assert loaded == [False, bool(users)]


# -- files that change


def test_rotated_certificates(web: Web) -> None:
    """A certificate that is renewed is served by the same worker, without a reload; who came in by the former stays."""
    web.write({})
    with web.daemon() as daemon:
        worker = daemon.worker_pid()
        staying = web.scraper(daemon).connect()
        assert web.scraper(daemon).get(connection=staying)[0].status == 200
        at = staying.sock
        for name in ("second", "third"):
            shaking = Handshake(web, daemon)
            new = web.authority.issue(name)
            for one, other in ((web.pair.key, new.key), (web.pair.certificate, new.certificate)):
                other.chmod(0o600)
                other.rename(one)
            expected = openssl_fingerprint(web.pair.certificate.read_text())
            wait(daemon, lambda expected=expected: fingerprint(daemon) == expected)  # type: ignore[misc]  # bound now
            assert web.curl(daemon)[0] == 200
            assert shaking.finish(b"GET /-/healthy HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
            assert web.scraper(daemon).get(connection=staying)[0].status == 200
        assert staying.sock is at
        staying.close()
        assert daemon.worker_pid() == worker


def test_another_password_holds_for_connections_that_stay(web: Web) -> None:
    """On the very connection on which it came in, a user that was removed is refused."""
    web.write({}, basic_auth_users={"prometheus": hashed(PASSWORD)})
    with web.daemon() as daemon:
        scraper = web.scraper(daemon, PASSWORD)
        staying = scraper.connect()
        assert scraper.get(connection=staying)[0].status == 200
        at = staying.sock
        web.write({}, basic_auth_users={"prometheus": hashed("another")})
        wait(daemon, lambda: scraper.get(connection=staying)[0].status == 401)
        assert staying.sock is at
        assert web.scraper(daemon, "another").get()[0].status == 200
        staying.close()


def test_a_broken_file_leaves_the_former(web: Web) -> None:
    """It is told, once, with its line, and by metrics; TLS and passwords stay; then a good one is taken."""
    users = {"basic_auth_users": {"prometheus": hashed(PASSWORD)}}
    web.write({}, **users)
    with web.daemon() as daemon:
        scraper = web.scraper(daemon, PASSWORD)

        def metrics() -> tuple[float, float]:
            samples = parsed(scraper.get()[1].decode())
            return samples[GOOD, frozenset()], samples[GOOD_AT, frozenset()]

        good, at = metrics()
        assert good == 1
        before = fingerprint(daemon)
        for broken, words in (
            (
                "tls_server_config: {cert_file: absent.pem, key_file: server.key}\n",
                "absent.pem cannot be read: No such",
            ),
            ("{", f"{web.path}:1: not YAML: "),
            ("", f"{web.path}:1: expected settings, such as tls_server_config:, found nothing"),
            ("a: b", f"{web.path}:1: a: unknown key; allowed: tls_server_config, http_server_config"),
        ):
            web.path.write_text(broken)
            wait(daemon, lambda words=words: words in daemon.log())  # type: ignore[misc]  # bound now
            assert metrics() == (0, at)
            assert web.curl(daemon)[0] == 401
            assert fingerprint(daemon) == before
        web.path.unlink()
        web.write({}, **users)
        wait(daemon, lambda: metrics()[0] == 1)
        assert metrics()[1] > at
        log = daemon.log()
    assert log.count("absent.pem") == 1
    assert "Traceback" not in log


def test_a_worker_that_ends_leaves_tls(web: Web) -> None:
    """The next worker has TLS and passwords from the supervisor, although the files are gone meanwhile."""
    web.write({}, basic_auth_users={"prometheus": hashed(PASSWORD)})
    with web.daemon() as daemon:
        before = fingerprint(daemon)
        for path in (web.path, web.pair.key, web.pair.certificate):
            path.unlink()
        os.kill(daemon.worker_pid(), signal.SIGKILL)
        assert fingerprint(daemon) == before
        assert web.curl(daemon)[0] == 401
        assert web.curl(daemon, "-u", f"prometheus:{PASSWORD}")[0] == 200


def test_reloads(web: Web) -> None:
    """A reload takes a web config that is named, another one, and none, by the same worker; and refuses a bad one."""
    with Daemon(PROBES) as daemon:
        worker = daemon.worker_pid()
        staying = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
        staying.request("GET", "/-/healthy")
        assert staying.getresponse().read() == b"ok\n"
        web.write({})
        daemon.configure(PROBES, web_config=str(web.path))
        assert daemon.reload().stdout == f"reloaded {daemon.config}: web config {web.path}\n"
        assert web.curl(daemon)[0] == 200
        assert staying.sock.recv(1) == b""  # what was in the clear has ended
        staying.close()
        web.path.write_text("tls_server_config: {}")
        done = daemon.reload()
        assert (done.returncode, "lacks 'cert_file'" in done.stderr) == (1, True)
        assert web.curl(daemon)[0] == 200
        daemon.configure(PROBES, web_config=None)
        assert daemon.reload().stdout == f"reloaded {daemon.config}: web config none\n"
        assert daemon.get("/metrics")[0].status == 200
        assert daemon.worker_pid() == worker


def test_headers(web: Web) -> None:
    """The config's headers are with every answer."""
    headers = {"Strict-Transport-Security": "max-age=63072000", "X-Frame-Options": "deny"}
    web.write({}, http_server_config={"headers": headers}, basic_auth_users={"prometheus": hashed(PASSWORD)})
    with web.daemon() as daemon:
        for password, status in ((PASSWORD, 200), ("wrong", 401)):
            response, _ = web.scraper(daemon, password).get()
            assert response.status == status
            assert {name: response.headers[name] for name in headers} == headers


def test_rate_limit(web: Web) -> None:
    """What is more than a burst is 429, until the interval gives another."""
    web.write(None, rate_limit={"interval": "1h", "burst": 3})
    with web.daemon() as daemon:
        assert [daemon.get("/-/healthy")[0].status for _ in range(5)] == [200, 200, 200, 429, 429]


def test_no_key_for_the_worker(web: Web) -> None:
    """The process on the network may not open what it serves TLS with: it has it from the supervisor."""
    web.folder.chmod(0o700)
    web.write({})
    with web.daemon() as daemon:
        assert web.curl(daemon)[0] == 200
        status = Path(f"/proc/{daemon.worker_pid()}/status").read_text()
        uid = int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[2])
        as_worker = ["setpriv", "--reuid", str(uid), "--clear-groups", "cat", str(web.pair.key)]
        assert uid != 0
        assert subprocess.run(as_worker, capture_output=True, check=False).returncode != 0
        files = [str(entry.readlink()) for entry in Path(f"/proc/{daemon.worker_pid()}/fd").iterdir()]
        assert [name for name in files if "pem" in name or str(web.folder) in name] == []
