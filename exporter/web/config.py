# SPDX-License-Identifier: Apache-2.0
"""A web config, in the format of Prometheus' exporter-toolkit, to Settings. ``SCHEMA`` is the one table of settings.

Source: prometheus/exporter-toolkit, docs/web-configuration.md. Stricter than that where it would serve without what was
meant: TLS without a certificate, passwords without users, clients whose certificate is compared with nothing.

Imports PyYAML and jsonschema: only short-lived processes import this module. They are root's, and read the keys.
"""

import re
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporter import document
from exporter.document import Document
from exporter.errors import ConfigError, Problem, one_line
from exporter.web import tls
from exporter.web.files import Read, Signature, signature
from exporter.web.settings import IF_GIVEN, NO_CERTIFICATE, REQUIRED, TLS, RateLimit, Settings

_FILE = {"type": "string", "minLength": 1, "description": "a file's name"}
_DURATION = r"0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_HASH = b"$2b$04$JvDDb5fDSFf2t.84X.BkhOaAxqNq7n51g8GSJFHzLfsW/.tCLioH."  # of b"password"
_MAX_BYTES = 1 << 20  # of a certificate, a key, a CA

_VERSION = {"enum": list(tls.VERSIONS), "description": "TLS12 or TLS13: those before are broken (RFC 8996)"}

_TLS_SERVER_CONFIG: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "description": "settings of TLS, such as cert_file: and key_file:",
    "properties": {
        "cert_file": _FILE,
        "key_file": _FILE,
        "client_ca_file": _FILE,
        "cert": {"type": "string", "minLength": 1, "description": "a certificate as PEM"},
        "key": {"type": "string", "minLength": 1, "writeOnly": True, "description": "a key as PEM"},
        "client_ca": {"type": "string", "minLength": 1, "description": "certificates of CAs as PEM"},
        "client_auth_type": {
            "enum": [NO_CERTIFICATE, IF_GIVEN, REQUIRED],
            "description": f"{NO_CERTIFICATE}, {IF_GIVEN} or {REQUIRED}: what nobody verifies is no proof",
        },
        "client_allowed_sans": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "minLength": 1, "description": "a subject alternative name"},
            "description": "a list of subject alternative names",
        },
        "min_version": _VERSION,
        "max_version": _VERSION,
        "cipher_suites": {
            "type": "array",
            "minItems": 1,
            "items": {"enum": [*tls.SUITES, *tls.SUITES_1_3]},
            "description": "a list of cipher suites",
        },
        "prefer_server_cipher_suites": {"type": "boolean", "description": "true or false"},
        "curve_preferences": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "enum": list(tls.CURVES),
                "description": f"{', '.join(tls.CURVES)}: Python's ssl takes no other",
            },
            "description": f"a list of one of {', '.join(tls.CURVES)} (to have more, leave it out)",
        },
    },
}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "settings, such as tls_server_config:",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {
        "tls_server_config": _TLS_SERVER_CONFIG,
        "http_server_config": {
            "type": "object",
            "additionalProperties": False,
            "description": "http2: or headers:",
            "properties": {
                "http2": {"type": "boolean", "description": "true or false"},
                "headers": {
                    "type": "object",
                    "additionalProperties": False,
                    "description": "headers with their values",
                    "properties": {
                        "Content-Security-Policy": {"$ref": "#/$defs/header"},
                        "X-Frame-Options": {"enum": ["", "deny", "sameorigin"], "description": "deny or sameorigin"},
                        "X-Content-Type-Options": {"enum": ["", "nosniff"], "description": "nosniff"},
                        "X-XSS-Protection": {"$ref": "#/$defs/header"},
                        "Strict-Transport-Security": {"$ref": "#/$defs/header"},
                    },
                },
            },
        },
        "basic_auth_users": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {
                "pattern": r"^[^:\x00-\x1f\x7f]+$(?!\n)",
                "description": "a user's name, without a colon",
            },
            "additionalProperties": {
                "type": "string",
                "pattern": r"^\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}$(?!\n)",
                "writeOnly": True,
                "description": "a bcrypt hash ($2y$10$…) of a cost from 4 to 16, of which the last takes seconds",
            },
            "writeOnly": True,
            "description": "users with the bcrypt hashes of their passwords, such as {alice: $2y$10$…}",
        },
        "rate_limit": {
            "type": "object",
            "required": ["interval"],
            "additionalProperties": False,
            "description": "interval: and burst:",
            "properties": {
                "interval": {
                    "type": ["string", "integer"],
                    "pattern": rf"^({_DURATION})$(?!\n)",
                    "minimum": 0,
                    "maximum": 0,
                    "description": "a duration such as 100ms or 1s, or 0 for no limit",
                },
                "burst": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 1_000_000,
                    "description": "a number of requests from 1 to 1000000",
                },
            },
        },
    },
    "$defs": {
        "header": {
            "type": "string",
            "pattern": r"^([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?$(?!\n)",
            "description": "a header's value, in ASCII, without blanks around it",
        }
    },
}


def read(path: Path) -> Read:
    """Reads a web config and the files that it names, which are relative to its own folder."""
    reader = _Reader(path)
    settings = None
    try:
        settings = reader.settings()
    except ConfigError as error:
        reader.problems.extend(error.problems)
    problems = tuple(sorted(set(reader.problems)))
    return Read(path, tuple(reader.files), None if problems else settings, problems, tuple(reader.remarks))


class _Reader:
    """What is found on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[tuple[Path, Signature]] = [(path, signature(path))]
        self.problems: list[Problem] = []
        self.remarks: list[str] = []

    def settings(self) -> Settings:
        """Returns the settings; good ones, if there are no problems. Raises ConfigError where nothing can be read."""
        if not _is_regular(self.path):
            raise ConfigError([Problem(self.path, 0, "is no regular file")])
        found = document.read(self.path)
        self.problems.extend(document.validate(found, SCHEMA))
        if self.problems:
            raise ConfigError([])
        value: dict[str, Any] = found.value
        if "basic_auth_users" in value and (fault := _fault_of_bcrypt()):
            self.problems.append(found.problem(("basic_auth_users",), fault))
        http = value.get("http_server_config", {})
        if http.get("http2"):
            self.remarks.append(f"{self.path}: http2: clients are offered HTTP/1.1 alone")
        if "basic_auth_users" in value and "tls_server_config" not in value:
            self.remarks.append(f"{self.path}: basic_auth_users without tls_server_config: passwords can be overheard")
        return Settings(
            tls=self._tls(found.part(("tls_server_config",))) if "tls_server_config" in value else None,
            users=tuple(value.get("basic_auth_users", {}).items()),
            headers=tuple((name, text) for name, text in http.get("headers", {}).items() if text),
            rate_limit=self._rate_limit(found.part(("rate_limit",))) if "rate_limit" in value else None,
        )

    def _rate_limit(self, part: Document) -> RateLimit | None:
        text = str(part.value["interval"])
        interval = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)([a-zµ]+)", text))
        if not interval:
            return None
        if "burst" not in part.value:
            self.problems.append(part.problem((), "lacks 'burst'"))
        return RateLimit(interval, part.value.get("burst", 1))

    def _tls(self, part: Document) -> TLS | None:
        value = part.value
        certificate, key, ca = (self._pem(part, name) for name in ("cert", "key", "client_ca"))
        clients = value.get("client_auth_type", NO_CERTIFICATE)
        for name, fault in _tls_faults(value, clients):
            self.problems.append(part.problem((name,) if name else (), fault))
        found = TLS(
            certificate=certificate or b"",
            key=key or b"",
            client_ca=(ca or b"").decode("ascii", "ignore"),  # around the PEM there may be words
            clients=clients,
            allowed_names=tuple(value.get("client_allowed_sans", ())),
            min_version=value.get("min_version", "TLS12"),
            max_version=value.get("max_version", "TLS13"),
            suites=_suites(value.get("cipher_suites")),
            server_order=value.get("prefer_server_cipher_suites", True),
            curve=tls.CURVES[value["curve_preferences"][0]] if "curve_preferences" in value else None,
        )
        if not self.problems:
            self._try(part, found)
        return found

    def _pem(self, part: Document, name: str) -> bytes | None:
        """Returns what NAME_file holds or NAME is; None where neither is named, or the file can't be read."""
        if name in part.value:
            return str(part.value[name]).encode()
        key = f"{name}_file"
        if key not in part.value:
            return None
        path = self.path.parent / part.value[key]
        self.files.append((path, signature(path)))
        try:
            if not _is_regular(path):
                self.problems.append(part.problem((key,), f"{path} is no regular file"))
                return None
            with path.open("rb") as file:
                data: bytes = file.read(_MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self.problems.append(part.problem((key,), f"{path} cannot be read: {reason}"))
            return None
        if len(data) > _MAX_BYTES:
            self.problems.append(part.problem((key,), f"{path} is larger than {_MAX_BYTES} bytes"))
        return data

    def _try(self, part: Document, found: TLS) -> None:
        """Has OpenSSL look at it: here, where a fault is told with its line, and before it is served."""
        for name, text in (("cert", found.certificate.decode("ascii", "ignore")), ("client_ca", found.client_ca)):
            place = _place(part.value, name)
            if place in part.value and not _holds_certificates(text):
                self.problems.append(part.problem((place,), "has no certificate in PEM"))
                return
        try:
            tls.context(found)
        except tls.Encrypted:
            self.problems.append(part.problem((_place(part.value, "key"),), "is encrypted: no password can be given"))
        except ssl.SSLError as error:
            name, words = _FAULTS.get(error.reason, ("cert", f"OpenSSL says: {error.reason}"))
            self.problems.append(part.problem((_place(part.value, name),), words))


# OpenSSL's reason -> what is at fault, and the words
_FAULTS = {
    None: ("key", "has no private key in PEM"),
    "KEY_VALUES_MISMATCH": ("key", "is not the key of the certificate"),
    "NO_CERTIFICATE_ASSIGNED": ("key", "is not the key of the certificate"),  # not even of its kind
    "EE_KEY_TOO_SMALL": ("cert", "has too small a key"),
}


def _fault_of_bcrypt() -> str:
    """Has bcrypt check a password, of the least cost. Returns what is wrong with it; "" where it works."""
    try:
        import bcrypt

        works = bcrypt.checkpw(b"password", _HASH)
    except ModuleNotFoundError:
        return "wants the package python3-bcrypt"
    except Exception as error:  # noqa: BLE001 - whatever a library that is broken raises
        return f"wants a python3-bcrypt that works: {one_line(str(error))}"
    return "" if works else "wants a python3-bcrypt that works: a right password is wrong to it"


def _holds_certificates(pem: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):  # of an empty text
        return False
    return True


def _is_regular(path: Path) -> bool:
    """Asked before a file is opened: to open a FIFO is to wait. One that is not there is told when it is opened."""
    found = signature(path)
    return found is None or stat.S_ISREG(found[2])


def _place(value: dict[str, Any], name: str) -> str:
    """The key by which a part of TLS is given: ``cert_file`` or ``cert``."""
    return name if name in value else f"{name}_file"


def _tls_faults(value: dict[str, Any], clients: str) -> Iterator[tuple[str, str]]:
    """What does not go together: the key, "" for none, and the words."""
    for name in ("cert", "key"):
        if name not in value and f"{name}_file" not in value:
            yield "", f"lacks '{name}_file'"
    for name in ("cert", "key", "client_ca"):
        if name in value and f"{name}_file" in value:
            yield name, f"stands beside {name}_file: one of them is too many"
    has_ca = "client_ca" in value or "client_ca_file" in value
    if clients != NO_CERTIFICATE and not has_ca:
        yield "client_auth_type", f"{clients} lacks 'client_ca_file', the CAs of clients' certificates"
    if clients == NO_CERTIFICATE and has_ca:
        yield _place(value, "client_ca"), f"is of no use without client_auth_type: {REQUIRED} (or {IF_GIVEN})"
    if clients != REQUIRED and "client_allowed_sans" in value:
        yield "client_allowed_sans", f"is of no use without client_auth_type: {REQUIRED}"
    if (value.get("min_version"), value.get("max_version")) == ("TLS13", "TLS12"):
        yield "max_version", "is below min_version"
    suites = value.get("cipher_suites")
    if suites and value.get("max_version") == "TLS12" and not _suites(suites):
        yield "cipher_suites", "has none of TLS 1.2, which is the last that max_version allows"


def _suites(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(tls.SUITES[name] for name in names if name in tls.SUITES)
