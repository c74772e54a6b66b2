# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in the files that an administrator writes, configs, web configs and bpftrace scripts, they are taken,
or refused in words: nothing crashes, and no message has a secret."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from exporter import catalog, config
from exporter.errors import ConfigError, Problem
from exporter.web import config as web
from tests.certificates import Authority
from tests.documents import DOCUMENTS, configs
from tests.unit.test_fuzz import CASES, good, mutated, spoiled

ROOT = Path(__file__).resolve().parents[2]
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
# signs of YAML, and bytes that are none of a text
SIGNS = (
    b"- :{}[]&*!|>'\"%@`#,?\\\n\t\0\x85\xa0\xff\xc3\xe2\x80\xa8 <<: *a &a !!int !!binary --- ... ~ 0x 1e999 .nan".split(
        b" "
    )
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Authority(tmp_path).issue("server")
    (tmp_path / "opens.bt").write_text("BEGIN { @a = count(); }")
    return tmp_path


def damaged(chance: Random, data: bytes) -> bytes:
    """Changes some bytes of a file."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(changed) + 1)
        to = min(len(changed), at + chance.choice((0, 0, 1, 1, 3, 30)))
        what = chance.random()
        piece = bytes([chance.randrange(256)]) if what < 0.2 else chance.choice(SIGNS) if what < 0.8 else b""
        changed[at:to] = changed[at : at + 40] * 2 if what > 0.95 else piece
    return bytes(changed)


def read(path: Path) -> bool:
    """Reads a config with its probes. Returns whether it is good."""
    problems: Sequence[Problem] = ()
    try:
        catalog.load(config.load(path))
    except ConfigError as error:
        problems = error.problems
    for problem in problems:
        good(str(problem))
    return not problems


def test_configs_of_damaged_bytes(folder: Path) -> None:
    """The shipped config and those in documents, with some bytes of them changed."""
    chance, taken = Random(5), 0
    files = [(ROOT / "config.yaml").read_bytes(), *(text.encode() for name in DOCUMENTS for text in configs(name))]
    path = folder / "config.yaml"
    for _ in range(CASES // 8):
        path.write_bytes(damaged(chance, chance.choice(files)))
        taken += read(path)
    assert CASES // 800 < taken < CASES // 8


SCRIPT = """kprobe:f /pid > 1/ { @opens[comm, args->ret] = count(); @us = hist(1); @bytes += 7; @t[tid] = nsecs; }
// a comment with @none
kprobe:g { delete(@t[tid]); @all = stats(1); @read_total[(1, "a]")] = sum(1); @ = min(1);
printf("%s \\" @no", @opens); }
"""
ASKED: dict[str, Any] = {
    "bpftrace": SCRIPT, "label_names": {"opens": ["comm", "result"]}, "types": {"bytes": "counter", "@us": "none"},
    "max_series": 5, "metrics": ["ebpf_bpftrace_io_opens_total"],
}  # fmt: skip


def test_scripts_with_a_fault(folder: Path) -> None:
    """What a config says of a bpftrace script, and the script, with something missing, elsewhere or of another form."""
    chance, taken = Random(6), 0
    path = folder / "config.yaml"
    for _ in range(CASES // 8):
        asked: Any = {**ASKED, "bpftrace": mutated(chance, SCRIPT) if chance.random() < 0.6 else SCRIPT}
        for _ in range(chance.randint(0, 2)):
            asked = spoiled(chance, asked)
        path.write_text(json.dumps({"probes": {"io": asked}}))
        taken += read(path)
    assert CASES // 800 < taken < CASES // 8


WEB: dict[str, Any] = {
    "tls_server_config": {
        "cert_file": "server.pem", "key_file": "server.key", "client_ca_file": "ca.pem",
        "client_auth_type": "RequireAndVerifyClientCert", "client_allowed_sans": ["a"], "min_version": "TLS12",
        "max_version": "TLS13", "cipher_suites": ["TLS_AES_128_GCM_SHA256"], "curve_preferences": ["CurveP256"],
    },
    "http_server_config": {"http2": True, "headers": {"X-Frame-Options": "deny", "Content-Security-Policy": "a"}},
    "basic_auth_users": {"alice": HASH},
    "rate_limit": {"interval": "1m30s", "burst": 5},
}  # fmt: skip


def test_web_configs_with_a_fault(folder: Path) -> None:
    """Of another form, or of damaged bytes: either there are settings, or it is said what is wrong."""
    chance, taken = Random(8), 0
    path = folder / "web.yml"
    for _ in range(CASES // 8):
        asked: Any = WEB
        for _ in range(chance.randint(0, 2)):
            asked = spoiled(chance, asked)
        data = json.dumps(asked, indent=1).encode()
        bytewise = chance.random() < 0.3
        path.write_bytes(damaged(chance, data) if bytewise else data)
        found = web.read(path)
        assert (found.settings is None) == bool(found.problems)
        for problem in found.problems:
            good(str(problem))
            assert bytewise or HASH[-20:] not in problem.message  # bytes may make a hash the name of a user
        taken += not found.problems
    assert CASES // 800 < taken < CASES // 8
