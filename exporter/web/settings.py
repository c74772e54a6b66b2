# SPDX-License-Identifier: Apache-2.0
"""What a web config says, read and good: the keys and certificates themselves, no names of files."""

from dataclasses import dataclass, field, replace

NO_CERTIFICATE, IF_GIVEN, REQUIRED = "NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"


@dataclass(frozen=True)
class TLS:
    """How TLS is spoken. certificate and key are PEM, and so is client_ca, the CAs of clients' certificates.

    suites are OpenSSL's names of those of TLS 1.2, None for OpenSSL's own choice; so is curve. allowed_names are
    subject alternative names, of which a client's certificate has to have one; empty: any will do.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: str = ""
    clients: str = NO_CERTIFICATE
    allowed_names: tuple[str, ...] = ()
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    suites: tuple[str, ...] | None = None
    server_order: bool = True
    curve: str | None = None

    @property
    def terms(self) -> "TLS":
        """All but the certificate and its key: where only these become others, who came in by the former may stay."""
        return replace(self, certificate=b"", key=b"")


@dataclass(frozen=True)
class RateLimit:
    """A token bucket: burst requests at once, and one more each interval, in seconds."""

    interval: float
    burst: int


@dataclass(frozen=True)
class Settings:
    """What clients find. users are names with bcrypt hashes; headers are added to every answer."""

    tls: TLS | None = None
    users: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    rate_limit: RateLimit | None = None
