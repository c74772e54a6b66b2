# SPDX-License-Identifier: Apache-2.0
"""From a key of a kernel map to the text of its labels: ``comm="bash",result="ok"``."""

from exporter.probe import OTHER, Table

# What breaks a line breaks the page: newlines, quotes and backslashes as the format says; other control characters,
# which terminals and browsers act on, in the same spelling as bytes that are no UTF-8.
_ESCAPES = {
    **{number: f"\\\\x{number:02x}" for number in (*range(32), *range(127, 160))},
    0x2028: "\\\\u2028",
    0x2029: "\\\\u2029",
    ord("\n"): "\\n",
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


def escape(value: str) -> str:
    """Returns a label's value as it stands between the quotes of an exposition."""
    return value.translate(_ESCAPES)


class KeyText:
    """Decodes the keys of one table."""

    def __init__(self, table: Table) -> None:
        places = {field.name: field for field in table.fields}
        self._labels = [
            (label, places[label.name].offset, places[label.name].offset + label.kind.size) for label in table.labels
        ]

        self._told = [(label.kind, a, b) for label, a, b in self._labels if label.kind.told]

    @property
    def told(self) -> bool:
        """Whether texts of keys are the supervisor's to tell: they may have to be waited for, and may change."""
        return bool(self._told)

    def settled(self, key: bytes) -> bool:
        """Whether a key's labels read as they will; of a key of the overflow map, the bounded ones."""
        return all(kind.settled(key[a:b]) for kind, a, b in self._told if b <= len(key))

    @property
    def all_bounded(self) -> bool:
        """Whether no label is unbounded: ``bounded`` and ``own`` are the same then."""
        return all(label.kind.bounded for label, _, _ in self._labels)

    def own(self, key: bytes) -> str:
        """Returns the labels of a key. Two keys may have the same text: they are one series then."""
        return ",".join(f'{label.name}="{escape(label.kind.decode(key[a:b]))}"' for label, a, b in self._labels)

    def bounded(self, key: bytes) -> str:
        """Returns the labels where there is no series for a key: the unbounded ones read ``(other)``.

        Only the bounded part of the key is looked at, so a key of the overflow map does as well.
        """
        return ",".join(
            f'{label.name}="{escape(label.kind.decode(key[a:b])) if label.kind.bounded else OTHER}"'
            for label, a, b in self._labels
        )

    def other(self) -> str:
        """Returns the labels where nothing is known: all read ``(other)``."""
        return ",".join(f'{label.name}="{OTHER}"' for label, _, _ in self._labels)
