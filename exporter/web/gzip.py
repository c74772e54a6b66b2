# SPDX-License-Identifier: Apache-2.0
"""gzip (RFC 1952) of a body in parts, of which a large one that comes again is not packed again."""

import struct
import zlib
from dataclasses import dataclass

KEPT_FROM = 64 * 1024  # bytes
_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255])  # deflate; no name, no time; fastest; from a system unknown
_LAST_BLOCK = b"\x03\x00"  # of deflate (RFC 1951), empty


@dataclass(frozen=True)
class _Packed:
    """A part and its blocks; and that a checksum of before becomes one of after with it."""

    part: bytes
    blocks: bytes
    before: int
    after: int


class Packer:
    """Packs bodies. Keeps the packed large parts of the last one; that a part is the same is known by its identity."""

    def __init__(self) -> None:
        self._kept: dict[int, _Packed] = {}

    def __call__(self, parts: list[bytes]) -> list[bytes]:
        """Returns the gzip of all parts, one after the other, in parts."""
        packed: list[bytes] = [_HEADER]
        kept: dict[int, _Packed] = {}
        checksum = 0
        for part in parts:
            found = self._kept.get(id(part))
            if found is None or found.before != checksum:
                blocks = found.blocks if found else _deflated(part)
                found = _Packed(part, blocks, checksum, zlib.crc32(part, checksum))
            if len(part) >= KEPT_FROM:
                kept[id(part)] = found  # with the part: as long as it is held, no other has its identity
            packed.append(found.blocks)
            checksum = found.after
        if kept:  # else it is a page without large parts, which says nothing of the one that has them
            self._kept = kept
        return [*packed, _LAST_BLOCK, struct.pack("<II", checksum, sum(map(len, parts)) & 0xFFFFFFFF)]


def _deflated(part: bytes) -> bytes:
    """Returns blocks of deflate that end at a byte and refer to nothing before them: they can be put together."""
    packer = zlib.compressobj(level=1, wbits=-15)
    return packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)
