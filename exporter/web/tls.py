# SPDX-License-Identifier: Apache-2.0
"""TLS settings to an ssl.SSLContext; and what exporter-toolkit, after Go, calls suites and curves.

Sources: crypto/tls of Go (CipherSuites, CurveID), openssl-ciphers(1). Go's suites of TLS 1.3 are not chosen, there as
here; of its others OpenSSL has all.
"""

import fcntl
import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from exporter.web.settings import IF_GIVEN, NO_CERTIFICATE, REQUIRED, TLS

SUITES_1_3 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
# Go's name -> OpenSSL's
SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1"}
VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CLIENTS = {NO_CERTIFICATE: ssl.CERT_NONE, IF_GIVEN: ssl.CERT_OPTIONAL, REQUIRED: ssl.CERT_REQUIRED}


class Encrypted(ValueError):
    """The key wants a password."""


def context(settings: TLS) -> ssl.SSLContext:
    """Returns what speaks TLS so. Raises ssl.SSLError where OpenSSL takes a part of it for wrong, Encrypted."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version, found.maximum_version = VERSIONS[settings.min_version], VERSIONS[settings.max_version]
    found.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if not settings.server_order:
        found.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if settings.suites is not None:
        if settings.suites:
            found.set_ciphers(":".join(settings.suites))
        else:
            found.minimum_version = ssl.TLSVersion.TLSv1_3
    if settings.curve is not None:
        found.set_ecdh_curve(settings.curve)
    found.set_alpn_protocols(["http/1.1"])
    with ExitStack() as stack:  # OpenSSL reads them from files alone
        certificate, key = (stack.enter_context(_as_file(data)) for data in (settings.certificate, settings.key))
        found.load_cert_chain(certificate, key, password=_no_password)
    if settings.client_ca:
        found.load_verify_locations(cadata=settings.client_ca)
        found.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as in Go, each of them is trusted, an intermediate too
    found.verify_mode = _CLIENTS[settings.clients]
    return found


def _no_password() -> str:
    raise Encrypted


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A file in memory, for as long as it is read: the worker may open none of the host's keys.

    Nor may it make such a file, which it could execute; a pipe does as well, but that of a key that is wrong ssl then
    says that pipes do not seek. By then it has been read, in a child that is told what is wrong.
    """
    try:
        readable, writable = (fd := os.memfd_create("pem")), os.dup(fd)
    except OSError:
        readable, writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.fcntl(writable, fcntl.F_SETPIPE_SZ, max(len(data), 1))  # all of it is written before it is read
    try:
        with os.fdopen(writable, "wb") as file:
            file.write(data)
        yield f"/proc/self/fd/{readable}"
    finally:
        os.close(readable)
