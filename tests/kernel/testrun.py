# SPDX-License-Identifier: Apache-2.0
"""Programs on packets that are run one by one, on no interface: BPF_PROG_TEST_RUN."""

import ctypes
import os
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from exporter import catalog, config, libbpf
from exporter.child import Child
from exporter.loader import load
from exporter.probe import Probe, numbered
from exporter.rules.rule import Rule
from exporter.status import Loaded

VERDICTS = {1: "drop", 2: "pass"}  # XDP_DROP, XDP_PASS


class _Opts(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


def run(program: int, packet: bytes, repeat: int = 1) -> tuple[int, int]:
    """Runs a program on a packet. Returns what it returned, and the nanoseconds of a run."""
    data = ctypes.create_string_buffer(packet, len(packet))
    opts = _Opts(ctypes.sizeof(_Opts), data_in=ctypes.addressof(data), data_size_in=len(packet), repeat=repeat)
    result = libbpf._lib.bpf_prog_test_run_opts(program, ctypes.byref(opts))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return opts.retval, opts.duration


def xdp(folder: Path, rules: Sequence[Rule]) -> Probe:
    """Returns the probe xdp with rules."""
    file = folder / "config.yaml"
    file.write_text("probes: {xdp: {rules: [{name: a, action: count}]}}")
    return numbered(replace(catalog.load(config.load(file))[0], rules=tuple(rules)))


@dataclass(frozen=True)
class Program:
    """The first program of a probe that is loaded, and its maps."""

    probe: Probe
    fd: int
    maps: dict[str, int]

    def verdicts(self, packets: Sequence[bytes]) -> list[str]:
        """Returns what becomes of packets."""
        return [VERDICTS[run(self.fd, packet)[0]] for packet in packets]

    def take_rules(self) -> Counter[str]:
        """Takes out what was counted by rule, by their names."""
        names = self.probe.rule_names
        table = next(one for one in self.probe.tables if one.metrics[0].name == self.probe.rule_metric)
        at = next(field.offset for field in table.fields if field.kind and field.kind.name == "rule")
        found: Counter[str] = Counter()
        for suffix, size in (("_0", 8), ("_0_over", 16)):
            drain = libbpf.Drain(table.key_size, size, 4096)
            for keys, values in drain(self.maps[table.name + suffix]):
                for index in range(len(keys) // table.key_size):
                    (number,) = struct.unpack_from("=H", keys, index * table.key_size + at)
                    (count,) = struct.unpack_from("=Q", values, index * size)
                    found[names[number]] += count
        return found


def _start(probe: Probe) -> tuple[Loaded, list[int]]:
    warnings.simplefilter("ignore")  # BCC's own, which here would be errors
    return load.start(probe)


@contextmanager
def loaded(probe: Probe) -> Iterator[Program]:
    """A probe that is compiled and loaded, and let go of."""
    found, fds, _ = Child(_start, probe).result()
    try:
        yield Program(probe, fds[len(found.maps)], dict(zip(found.maps, fds, strict=False)))
    finally:
        for fd in fds:
            os.close(fd)
