# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by openssl(1) as users make them."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Pair:
    """A certificate's file and its key's."""

    certificate: Path
    key: Path


def openssl(*arguments: object) -> str:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Authority:
    """Issues certificates, whose files are beside its own."""

    folder: Path
    name: str = "ca"

    @property
    def certificate(self) -> Path:
        path = self.folder / f"{self.name}.pem"
        if not path.exists():
            key = self.folder / f"{self.name}.key"
            openssl("req", "-x509", *_KEY, "-keyout", key, "-out", path, "-subj", f"/CN={self.name}", "-days", 2)
        return path

    def issue(self, name: str, names: str = "DNS:localhost,IP:127.0.0.1") -> Pair:
        """Returns a certificate of a server and a client, with these subject alternative names."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("req", *_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        signing = ["-CA", self.certificate, "-CAkey", self.folder / f"{self.name}.key", "-CAcreateserial"]
        openssl("x509", "-req", "-in", request, *signing, "-extfile", extensions, "-days", 2, "-out", pair.certificate)
        return pair
