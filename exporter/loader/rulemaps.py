# SPDX-License-Identifier: Apache-2.0
"""The maps of bpf/lib/rules.h: as large as the rules need them, and filled before a program reads them."""

from collections.abc import Callable
from dataclasses import replace

from exporter import libbpf
from exporter.errors import LoadError
from exporter.loader.bytecode import Map
from exporter.probe import Probe
from exporter.rules import tables
from exporter.rules.rule import EGRESS, INGRESS


def of(probe: Probe) -> dict[str, Callable[[Map], int]]:
    """Returns what makes each of the maps, by its name: given the map's form, a descriptor. Raises LoadError."""
    makers = {name: _array(values) for name, values in tables.maps(probe.rules).items()}
    return {**makers, tables.PLACES: lambda form: _places(form, probe)}


def create(form: Map) -> int:
    """Returns the descriptor of a new map. Raises LoadError."""
    try:
        return libbpf.map_create(form.type, form.name, form.key_size, form.value_size, form.entries, form.flags)
    except OSError as error:
        raise LoadError(f"the kernel refuses the map {form.name}: {error.strerror}") from error


def _array(values: bytes) -> Callable[[Map], int]:
    def make(form: Map) -> int:
        entries, rest = divmod(len(values), form.value_size)
        assert not rest, f"{form.name}: {len(values)} bytes in values of {form.value_size}"
        fd = create(replace(form, entries=entries))
        try:
            libbpf.array_fill(fd, values, entries)
        except OSError as error:
            raise LoadError(f"cannot fill the map {form.name}: {error.strerror}") from error
        return fd

    return make


def _places(form: Map, probe: Probe) -> int:
    """The map of places, in which only the rules are that are for all containers."""
    fd = create(form)
    for direction in (INGRESS, EGRESS):
        libbpf.map_update(fd, tables.place_key(0, direction), tables.place(probe.rules, direction, None))
    return fd
