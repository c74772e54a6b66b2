# SPDX-License-Identifier: Apache-2.0
"""Compiled probes, kept for the next start: a compile takes a second, a load a twentieth of one.

Bytecode depends on the C, the kernel's types, the recipe of the headers, and BCC. All four are in the name of its file.
The folder is root's alone (``headers.cache`` sees to it), so what is unpickled is what was pickled here.
"""

import hashlib
import importlib.util
import os
import pickle
import re
import tempfile
from pathlib import Path

from exporter.loader import compile, headers
from exporter.loader.bytecode import Bytecode

KEPT = 64  # compiled probes, those used last


def compiled(name: str, source: str) -> Bytecode:
    """Returns the bytecode of a probe's whole C: kept from before, or compiled and kept. Raises ProbeError."""
    kernel_source = headers.prepare()
    file = headers.cache() / f"bytecode-{_key(source, kernel_source)}"
    kept = _read(file)
    if kept is not None:
        os.utime(file)
        return kept
    fresh = compile.compile_source(name, source, kernel_source)
    with tempfile.NamedTemporaryFile(dir=headers.cache(), delete=False) as work:
        pickle.dump(fresh, work)
    Path(work.name).rename(file)
    headers.sweep("bytecode-*", KEPT)
    return fresh


def _key(source: str, kernel_source: str) -> str:
    # where the C lies is for the compiler's messages alone
    bare = re.sub(r'^#line 1 ".*"$', "", source, flags=re.MULTILINE)
    parts = [bare, headers.kernel_id(), kernel_source, _bcc(), Path(compile.__file__).read_text()]
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
        kept = pickle.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, pickle.PickleError, EOFError, AttributeError, ImportError, IndexError, ValueError):
        return None  # cut short, or another version's: compiled again and replaced
    return kept if isinstance(kept, Bytecode) else None
