# SPDX-License-Identifier: Apache-2.0
"""loader/headers.py: the header made from BTF, and a cache that only its owner can write."""

import os
import platform
import re
import time
from pathlib import Path

import pytest

from exporter.errors import HeadersError
from exporter.loader import headers

# numbers of include/uapi/linux/bpf.h
NUMBERS = {
    "skc_to_tcp6_sock": 136,
    "get_task_stack": 141,
    "d_path": 147,
    "redirect_peer": 155,
    "get_current_task_btf": 158,
    "for_each_map_elem": 164,
    "snprintf": 165,
    "timer_init": 169,
    "get_func_ip": 173,
    "get_attach_cookie": 174,
    "find_vma": 180,
    "loop": 181,
    "get_retval": 186,
    "xdp_load_bytes": 189,
    "map_lookup_percpu_elem": 195,
    "dynptr_from_mem": 197,
    "tcp_raw_gen_syncookie_ipv4": 204,
    "user_ringbuf_drain": 209,
    "cgrp_storage_get": 210,
    "cgrp_storage_delete": 211,
}


def defined(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"^#define BPF_FUNC_(\w+) (\d+)$", text, re.MULTILINE)}


def test_helpers_that_an_old_kernel_lacks() -> None:
    """A kernel whose BTF has no newer helper gets all their numbers."""
    found = defined(headers.kconfig("enum bpf_func_id { BPF_FUNC_ringbuf_query = 134 };", "5.8.0"))
    assert {name: found.get(name) for name in NUMBERS} == NUMBERS
    assert sorted(found.values()) == list(range(136, 212))


def test_helpers_by_their_numbers() -> None:
    """What the verifier calls unknown#158 has a name; what is older or newer than those known keeps its number."""
    assert {number: headers.helper(number) for number in NUMBERS.values()} == {
        number: f"bpf_{name}" for name, number in NUMBERS.items()
    }
    assert [headers.helper(number) for number in (0, 135, 212)] == ["0", "135", "212"]


def test_helpers_that_the_kernel_has() -> None:
    """What BTF has is not defined a second time; a longer name is not taken for a shorter."""
    names = [name for name in NUMBERS if name != "snprintf"] + ["snprintf_btf"]
    vmlinux = "enum bpf_func_id {\n" + "".join(f"\tBPF_FUNC_{name} = 1,\n" for name in names) + "};\n"
    found = defined(headers.kconfig(vmlinux, "6.1.0"))
    assert [name for name in names if name in found] == []
    assert found["snprintf"] == 165


def test_helpers_of_the_installed_header() -> None:
    """The numbers are those of this machine's own header, if it has one, as far as that goes."""
    path = Path("/usr/include/linux/bpf.h")
    if not path.exists():
        pytest.skip("needs linux/bpf.h")
    text = path.read_text()
    numbered = {name: int(number) for name, number in re.findall(r"\bFN\((\w+), (\d+),", text)}
    listed = dict(zip(re.findall(r"\bFN\((\w+)\),", text), range(211), strict=False))
    theirs, ours = numbered or listed, defined(headers.kconfig("", "5.8.0"))
    common = ours.keys() & theirs.keys()
    assert len(common) > 60
    assert {name: ours[name] for name in common} == {name: theirs[name] for name in common}


@pytest.mark.parametrize(
    ("release", "arguments"),
    [
        ("6.1.0-18-amd64", "6,1,0"),
        ("5.10.223", "5,10,223"),
        ("6.12", "6,12,0"),
        ("7.2.0-rc3+", "7,2,0"),
        ("unknown", "0,0,0"),
    ],
)
def test_version_code(release: str, arguments: str) -> None:
    """The release becomes the arguments of KERNEL_VERSION."""
    assert f"#define LINUX_VERSION_CODE KERNEL_VERSION({arguments})\n" in headers.kconfig("", release)


def test_types_are_included_ahead_of_what_they_lack() -> None:
    """vmlinux.h is included once, after the guards of the headers that it stands for."""
    text = headers.kconfig("", "6.1.0")
    assert text.count('#include "../vmlinux.h"') == 1
    assert (
        text.index("#define __LINUX_BPF_H__") < text.index('#include "../vmlinux.h"') < text.index("#define BPF_FUNC_")
    )


def test_enums_have_their_sizes() -> None:
    """Those that are no int are said so, wherever they stand; all others, and what is said already, stay."""
    plain = "enum plain {\n\tPLAIN = 0,\n};\n"
    said = "enum said {\n\tSAID = 0,\n} __attribute__((mode(byte)));\n"
    within = "struct holder {\n\tenum {\n\t\tWITHIN = 0,\n\t\tOTHER = 1,\n\t} state;\n};\n"
    text = (
        plain + said + within + "typedef enum {\n\tTWO = 0,\n} two_t;\nenum one {\n\tONE = 0,\n\tPLAIN_TOO = 1,\n};\n"
    )
    expected = text.replace("} state;", "} __attribute__((mode(QI))) state;")
    expected = expected.replace("} two_t;", "} __attribute__((mode(HI))) two_t;")
    expected = expected[:-2] + " __attribute__((mode(QI)));\n"
    assert headers.sized(text, {"SAID": 1, "WITHIN": 1, "TWO": 2, "ONE": 1, "PLAIN_TOO": 1, "EIGHT": 8}) == expected


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache" / "ebpf-exporter"
    monkeypatch.setattr(headers, "CACHE", path)
    return path


def test_cache_is_made_for_its_owner_alone(cache: Path) -> None:
    """The folder is made, with nobody else let in."""
    assert headers.cache() == cache
    assert cache.stat().st_mode & 0o777 == 0o700
    assert headers.cache() == cache  # and used again


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_cache_that_others_can_write(cache: Path, mode: int) -> None:
    """A folder in which others may have put a header is not used."""
    cache.mkdir(parents=True)
    cache.chmod(mode)
    with pytest.raises(HeadersError, match="is not a folder that only root can write"):
        headers.cache()


def test_cache_that_is_a_link(cache: Path, tmp_path: Path) -> None:
    """A link, to a folder of ours even, is not followed."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HeadersError, match="is not a folder that only root can write"):
        headers.cache()


def test_cache_that_is_a_file(cache: Path) -> None:
    """A file in the folder's place is told, with the system's reason."""
    cache.parent.mkdir()
    cache.touch()
    with pytest.raises(HeadersError, match="File exists"):
        headers.cache()


def test_neither_btf_nor_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without anything to compile against the reason names the package to install."""
    monkeypatch.setattr(headers, "BTF", tmp_path / "absent")
    monkeypatch.setattr(platform, "release", lambda: "0.0-nothing")
    if Path("/sys/kernel/kheaders.tar.xz").exists():
        pytest.skip("this kernel brings its own headers")
    with pytest.raises(HeadersError, match=r"this kernel has no BTF \(.*\): install its headers, linux-") as caught:
        headers.prepare()
    # neither does the service see that kernel's modules
    assert str(caught.value).endswith("[Service] ProtectKernelModules=no")


def test_another_build_is_another_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kernels of the same release but another build, or other types, do not share what is cached."""
    btf = tmp_path / "vmlinux"
    monkeypatch.setattr(headers, "BTF", btf)
    monkeypatch.setattr(platform, "version", lambda: "#1")
    found = [headers.kernel_id()]
    btf.write_bytes(b"types")
    found.append(headers.kernel_id())
    btf.write_bytes(b"other types")
    found.append(headers.kernel_id())
    monkeypatch.setattr(platform, "version", lambda: "#2")
    found.append(headers.kernel_id())
    assert len(set(found)) == 4
    assert headers.kernel_id() == found[-1]


def test_sweep_keeps_what_was_used(cache: Path) -> None:
    """What was not used for a month goes, the rest stays, and what is not of the pattern is left alone."""
    for name, age in (("headers-old", headers.KEPT_SECONDS + 60), ("headers-new", 60), ("other", 2e9)):
        path = cache / name
        path.mkdir(parents=True)
        (path / "file").touch()
        os.utime(path, (time.time() - age, time.time() - age))
    cache.chmod(0o700)
    headers.sweep("headers-*")
    assert {path.name for path in cache.iterdir()} == {"headers-new", "other"}
