# SPDX-License-Identifier: Apache-2.0
"""Compiled probes, kept for the next start: a compile takes a second, a load a twentieth of one.

Bytecode depends on the C, the kernel's types, the recipe of the headers, and BCC. All four are in the name of its file.
The folder is root's alone (``headers.cache`` sees to it), so what is unpickled is what was pickled here.
"""

import contextlib
import hashlib
import importlib.util
import os
import pickle
import re
from pathlib import Path

from exporter.loader import compile, headers
from exporter.loader.bytecode import Bytecode

# What may bring in a file of the user's own, with anything in it at the next start: all that does not plainly name one
# of the kernel's. What was compiled with it is not kept.
_OF_THE_USER = re.compile(r"\b(?:include|include_next|import|__has_include\w*)\b(?!\s*<\w)")
_DIGEST = hashlib.sha256().digest_size


def compiled(name: str, source: str, folder: Path | None = None) -> Bytecode:
    """Returns the bytecode of a probe's whole C: kept from before, or compiled and kept. Raises ProbeError.

    folder is where the probe's own headers are.

    That it can't be kept, on a full disk say, is no harm but the next start's second.
    """
    kernel_source = headers.prepare()
    if _OF_THE_USER.search(_bare(source).replace("\\\n", "")):
        return compile.compile_source(name, source, kernel_source, folder)
    file = headers.cache() / f"bytecode-{_key(source, kernel_source)}"
    kept = _read(file)
    if kept is not None:
        with contextlib.suppress(OSError):  # a cache that is read-only
            os.utime(file)
        return kept
    fresh = compile.compile_source(name, source, kernel_source)
    with contextlib.suppress(OSError):
        _write(file, fresh)
        headers.sweep("bytecode-*")
    return fresh


def _write(file: Path, fresh: Bytecode) -> None:
    data = pickle.dumps(fresh)
    work = file.with_name(f"tmp-{file.name}-{os.getpid()}")
    try:
        work.write_bytes(hashlib.sha256(data).digest() + data)
        work.rename(file)
    finally:
        work.unlink(missing_ok=True)


def _bare(source: str) -> str:
    """Returns C without where it lies, which is for the compiler's messages alone."""
    return re.sub(r'^#line 1 ".*"$', "", source, flags=re.MULTILINE)


def _key(source: str, kernel_source: str) -> str:
    ours = [Path(__file__).with_name(name).read_text() for name in ("compile.py", "bytecode.py")]
    parts = [_bare(source), headers.kernel_id(), kernel_source, _bcc(), *ours]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _bcc() -> str:
    """Returns what tells this BCC from another, without the second that an import takes."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        return ""
    version = Path(spec.origin).with_name("version.py")
    return version.read_text() if version.exists() else str(Path(spec.origin).stat().st_mtime_ns)


def _read(file: Path) -> Bytecode | None:
    try:
        data = file.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:  # cut short, or its disk is failing: compiled again
        return None
    kept = pickle.loads(data[_DIGEST:])
    return kept if isinstance(kept, Bytecode) else None
