# SPDX-License-Identifier: Apache-2.0
"""What BCC makes of C that newer kernels have, and a BCC that is too old."""

import importlib.util
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from struct import iter_unpack

import pytest
import yaml

from exporter.child import isolated
from exporter.errors import CompileError
from exporter.hooks.btf import Btf
from exporter.loader import codegen, headers
from exporter.loader.bytecode import Bytecode
from exporter.loader.compile import compile_source
from tests.kernel.daemon import Daemon, count

TAGGED = """
struct tagged { u32 first, second; };
struct whole { union { struct tagged; u64 both; }; u32 last; };
_Static_assert(__builtin_offsetof(struct whole, second) == 4, "a member that is a struct with a tag");
struct longer { struct tagged; u32 last; };
_Static_assert(__builtin_offsetof(struct longer, last) == 8, "what comes after it");
"""


ATOMIC = 0x03 | 0x18 | 0xC0  # BPF_STX | BPF_DW | BPF_ATOMIC

PAD = "\tlong: 64;\n"

needs_btf = pytest.mark.skipif(not headers.BTF.exists(), reason="this kernel has no BTF")


def kernel_structs() -> dict[str, str]:
    """The kernel's structs by name, as C; of two with one name, none."""
    text = (Path(headers.prepare()) / "include/vmlinux.h").read_text()
    found = dict(re.findall(r"^struct (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    doubled = {name.partition("___")[0] for name in re.findall(r"\b\w+___\d+\b", text)}
    return {name: body for name, body in found.items() if name.partition("___")[0] not in doubled}


def compiled(text: str) -> Bytecode:
    warnings.simplefilter("ignore")  # BCC's own
    return compile_source("tagged", text, headers.prepare())


def test_members_that_are_structs_with_a_tag_have_their_place() -> None:
    """Kernels have them since 6.19; standard C has not, and a compiler that is not told to drops them."""
    isolated(compiled, TAGGED)


@pytest.mark.anywhere
def test_nothing_is_added_without_an_instruction_that_old_kernels_lack() -> None:
    """Before 5.12 the one atomic instruction is an addition that gives back nothing: all its other bits are 0."""
    adds = {"nothing": "0", "seven": "7", "the_time": "bpf_ktime_get_ns()"}
    text = codegen.PRELUDE + "BPF_ARRAY(counts, u64, 1);\n"
    for name, amount in adds.items():
        add = f"int first = 0; u64 *at = counts.lookup(&first); if (at) EBPF_add_to(at, {amount}); return 0;"
        text += f"int {name}(void *ctx) {{ {add} }}\n"
    programs = isolated(compiled, text).programs
    atomics = {
        name: [immediate for opcode, immediate in iter_unpack("<B3xi", code) if opcode == ATOMIC]
        for name, code in programs.items()
    }
    assert atomics == {"nothing": [], "seven": [0], "the_time": [0]}


@pytest.mark.anywhere
def test_the_working_directory_is_no_part_of_a_compile(tmp_path: Path) -> None:
    """BCC looks for headers there first: somebody else's would decide what root's programs are."""
    for name in ("vmlinux.h", "linux/vmlinux.h", "linux/kconfig.h", "uapi/linux/bpf.h", "linux/types.h", "bcc/bpf.h"):
        header = tmp_path / name
        header.parent.mkdir(exist_ok=True, parents=True)
        header.write_text(f"#error {name} of the working directory\n")

    def there() -> Bytecode:
        os.chdir(tmp_path)
        return compiled(TAGGED)

    isolated(there)


@pytest.mark.anywhere
def test_a_compile_leaves_the_working_directory(tmp_path: Path) -> None:
    """A probe may be at a program that is named from there; also where its C does not compile."""

    def there() -> list[Path]:
        os.chdir(tmp_path)
        compiled("")
        with pytest.raises(CompileError):
            compiled("no C")
        return [Path.cwd()]

    assert isolated(there) == [tmp_path]


@pytest.mark.anywhere
def test_a_probes_own_headers_are_beside_it(tmp_path: Path) -> None:
    """Wherever the exporter is started; and none of them stands for the kernel's types."""
    declared = {
        "purpose": "A test.",
        "attach": {"on_exec": "tracepoint:sched:sched_process_exec"},
        "metrics": {"ebpf_tests_total": {"type": "counter", "help": "A test.", "labels": {"comm": "comm"}}},
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(declared))
    (tmp_path / "tests.c").write_text('#include "mine.h"\nint on_exec(void *ctx) { return count(); }\n')
    body = "struct tests_key key = {}; bpf_get_current_comm(&key.comm, sizeof(key.comm)); tests_add(&key, 7);"
    (tmp_path / "mine.h").write_text(f"static __always_inline int count(void) {{ {body} return 0; }}\n")
    (tmp_path / "vmlinux.h").write_text("#error not the kernel's\n")
    with Daemon({"tests": {}}, folder=tmp_path) as daemon:
        subprocess.run([shutil.copy("/bin/true", tmp_path / "own-headers")], check=True)
        status = daemon.status("tests")
        assert status["state"] == "running", status
        samples = daemon.samples()
    assert count(samples, "ebpf_tests_total", comm="own-headers") == 7


def members(btf: Btf, struct: str) -> dict[str, int]:
    """The offsets in bytes of a struct's members, those of bit fields apart."""
    kind = btf.named(f"struct {struct}")
    assert kind
    return {member.name: member.offset // 8 for member in btf.members(kind) if not member.bits}


def containing(structs: dict[str, str], hard: Callable[[str], object]) -> list[str]:
    """The structs whose body is hard to get right, and those that contain such a one."""
    names = {name for name, body in structs.items() if hard(body)}
    around = {name for name, body in structs.items() if names & set(re.findall(r"\tstruct (\w+) \w+[;\[]", body))}
    return sorted(names | around)


@needs_btf
@pytest.mark.matrix
def test_types_are_laid_out_as_the_kernel_has_them() -> None:
    """In the header that is made: the sizes of structs, and the offsets of their members, against BTF."""
    structs = containing(kernel_structs(), re.compile(rf"\tenum [\w {{]+|(?:{PAD}){{2}}").search)
    assert len(structs) > 300
    assert "task_struct" in structs
    btf = Btf.load()
    text = ""
    for name in structs:
        kind = btf.named(f"struct {name}")
        assert kind
        text += f'_Static_assert(sizeof(struct {name}) == {kind.size}, "");\n'
        for member, offset in members(btf, name).items():
            text += f'_Static_assert(__builtin_offsetof(struct {name}, {member}) == {offset}, "");\n'
    isolated(compiled, text)


def misplaced(structs: dict[str, dict[str, int]], ahead: str = "") -> list[str]:
    """The structs of which a program reads members from somewhere else than from these offsets. ahead comes before."""
    text = ahead

    def program(name: str, struct: str, addresses: Iterable[str]) -> str:
        reads = "".join(f"    bpf_probe_read_kernel(&read, 1, {address});\n" for address in addresses)
        at = f"struct {struct} *at = (void *)bpf_get_current_task()"
        return f"u64 {name}(void *ctx)\n{{\n    {at};\n    char read = 0;\n{reads}    return read;\n}}\n"

    for struct, offsets in structs.items():
        text += program(f"by_name_{struct}", struct, (f"&at->{member}" for member in offsets))
        text += program(f"by_offset_{struct}", struct, (f"(char *)at + {offset}" for offset in offsets.values()))
    programs = isolated(compiled, text).programs
    assert len(programs) == 2 * len(structs)
    return [struct for struct in structs if programs[f"by_name_{struct}"] != programs[f"by_offset_{struct}"]]


def test_members_behind_padding_have_their_place() -> None:
    """In the code that is made, which is for another processor: a run of bit fields that bpftool pads with is nothing
    that this one aligns in another way than the host's."""
    structs = {f"padded_by_{words}": {"after": 8 + 8 * words} for words in range(1, 8)}
    text = "".join(
        f"struct {struct} {{\n\tu64 before;\n{PAD * words}\tu64 after;\n}};\n"
        for words, struct in enumerate(structs, 1)
    )
    assert misplaced(structs, text) == []
    assert misplaced({"padded_by_1": {"after": 17}}, text) == ["padded_by_1"]


@needs_btf
def test_programs_find_members_where_the_kernel_has_them() -> None:
    """In the code that is made, where structs have room between members."""
    structs = containing(kernel_structs(), lambda body: 2 * PAD in body)
    assert len(structs) > 50
    assert "task_struct" in structs
    btf = Btf.load()
    assert misplaced({struct: members(btf, struct) for struct in structs}) == []


@pytest.mark.anywhere
def test_an_old_bcc_is_told_with_what_to_install(tmp_path: Path) -> None:
    """The daemon runs, and says of each probe what to do; nothing ends with a traceback."""
    spec = importlib.util.find_spec("bcc")
    assert spec
    assert spec.origin
    old = tmp_path / "version.py"
    old.write_text("__version__ = '0.25.0'\n")
    hide = f'mount --bind {old} {Path(spec.origin).with_name("version.py")} && exec "$@"'
    with Daemon({"process_execs": {}}, prefix=["unshare", "--mount", "sh", "-c", hide, "sh"]) as daemon:
        status = daemon.status("process_execs")
        assert (status["state"], status["reason"]) == (
            "failed",
            "BCC 0.25.0 is too old: install python3-bpfcc 0.26 or later",
        )
        assert "Traceback" not in status["details"] + daemon.log()
