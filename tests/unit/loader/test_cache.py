# SPDX-License-Identifier: Apache-2.0
"""loader/cache.py: when a kept compile is used, and when it may not be."""

from pathlib import Path

import pytest

from exporter.errors import CompileError
from exporter.loader import cache, compile, headers
from exporter.loader.bytecode import Bytecode, Map

SOURCE = '/* generated */\n#line 1 "/probes/p.c"\nint f(void *x) { return 0; }\n'


class Compiler:
    """What stands in for BCC: counts, and returns something else each time."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, name: str, source: str, kernel_source: str, folder: Path | None = None) -> Bytecode:
        del source, kernel_source, folder
        if name == "broken":
            raise CompileError("no")
        self.runs += 1
        return Bytecode((Map("writing", 2, 4, 4, 1, 0),), {"f": bytes([self.runs])}, "0.26")


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    stand_in = Compiler()
    monkeypatch.setattr(headers, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(headers, "prepare", lambda: "/tree")
    monkeypatch.setattr(headers, "kernel_id", lambda: "kernel")
    monkeypatch.setattr(cache, "_bcc", lambda: "0.26")
    monkeypatch.setattr(compile, "compile_source", stand_in)
    return stand_in


def kept() -> list[Path]:
    return sorted(headers.CACHE.iterdir())


def test_the_second_compile_is_none(compiler: Compiler) -> None:
    """What was compiled is used again, and is the same; nothing else is left in the folder."""
    first = cache.compiled("p", SOURCE)
    assert cache.compiled("p", SOURCE) == first
    assert compiler.runs == 1
    assert [path.name.partition("-")[0] for path in kept()] == ["bytecode"]


@pytest.mark.parametrize(
    "line",
    [
        '#include "/probes/p.h"',
        '# /**/ include/**/"p.h"',
        '#inc\\\nlude "p.h"',
        '#define OWN "p.h"\n#include OWN',
        "#include </probes/p.h>",
        '#include_next "p.h"',
        '#import "p.h"',
        '#if __has_include("p.h")',
    ],
)
def test_what_includes_a_file_of_the_users_is_compiled_each_time(compiler: Compiler, line: str) -> None:
    """Nobody knows what will be in that file at the next start."""
    for _ in range(2):
        cache.compiled("p", f"{SOURCE}{line}\n")
    assert compiler.runs == 2


@pytest.mark.parametrize("path", ["/probes/p.c", "/usr/include/p.c"])
def test_what_includes_headers_of_the_kernel_is_kept(compiler: Compiler, path: str) -> None:
    """They are what they were, as long as the kernel is; and the C may lie anywhere."""
    for _ in range(2):
        cache.compiled("p", SOURCE.replace("/probes/p.c", path) + "#include <linux/fs.h>\n# include<linux/sched.h>\n")
    assert compiler.runs == 1


def test_where_the_c_lies_does_not_matter(compiler: Compiler) -> None:
    """The same C in another folder is not compiled again."""
    cache.compiled("p", SOURCE)
    cache.compiled("p", SOURCE.replace("/probes/p.c", "/elsewhere/p.c"))
    assert compiler.runs == 1


@pytest.mark.parametrize("what", ["c", "kernel", "tree", "bcc"])
def test_what_makes_it_another(compiler: Compiler, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Other C, another kernel, other headers or another BCC is another compile."""
    cache.compiled("p", SOURCE)
    if what == "kernel":
        monkeypatch.setattr(headers, "kernel_id", lambda: "other")
    elif what == "tree":
        monkeypatch.setattr(headers, "prepare", lambda: "/other")
    elif what == "bcc":
        monkeypatch.setattr(cache, "_bcc", lambda: "0.31")
    cache.compiled("p", SOURCE + ("/* more */\n" if what == "c" else ""))
    assert compiler.runs == 2


@pytest.mark.parametrize("content", [b"", b"\x80", b"garbage", b"\x80\x04N.", b"\x80\x04cexporter.gone\nThing\n."])
def test_a_file_that_is_none_of_ours(compiler: Compiler, content: bytes) -> None:
    """A file that was cut short, or is of another version, is made again."""
    cache.compiled("p", SOURCE)
    [file] = kept()
    file.write_bytes(content)
    again = cache.compiled("p", SOURCE)
    assert (compiler.runs, again.programs) == (2, {"f": b"\x02"})
    assert cache.compiled("p", SOURCE) == again


def test_what_cannot_be_compiled_is_not_kept(compiler: Compiler) -> None:
    """An error is an error each time."""
    for _ in range(2):
        with pytest.raises(CompileError):
            cache.compiled("broken", SOURCE)
    assert (kept(), compiler.runs) == ([], 0)
