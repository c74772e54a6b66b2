# SPDX-License-Identifier: Apache-2.0
"""Which rules hold on which interface: in the kernel, as containers come, are named, and go."""

import contextlib
from collections.abc import Mapping, Sequence

from exporter import libbpf
from exporter.rules import tables
from exporter.rules.rule import EGRESS, INGRESS, Rule


class Placing:
    """The map of places of a probe whose rules ask for directions or containers. It has the descriptor lent."""

    def __init__(self, fd: int, rules: Sequence[Rule]) -> None:
        self._fd = fd
        self._rules = rules
        self.known: dict[int, str] = {}  # containers by the indexes of their interfaces

    def update(self, containers: Mapping[int, str]) -> None:
        """Has the rules hold that are for these containers, by the indexes of their interfaces; "" is one that nobody
        knows yet, of which only what is for all containers holds."""
        for index in self.known.keys() - containers.keys():
            for direction in (INGRESS, EGRESS):
                with contextlib.suppress(FileNotFoundError):
                    libbpf.map_delete(self._fd, tables.place_key(index, direction))
        for index, container in containers.items():
            if self.known.get(index) != container:
                for direction in (INGRESS, EGRESS):
                    rules = tables.place(self._rules, direction, container)
                    libbpf.map_update(self._fd, tables.place_key(index, direction), rules)
        self.known = dict(containers)
