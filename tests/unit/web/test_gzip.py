# SPDX-License-Identifier: Apache-2.0
"""web/gzip.py: parts come out as they went in, whether packed now or before."""

import gzip
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from exporter.web.gzip import KEPT_FROM, Packer

PARTS = st.lists(st.binary(max_size=100) | st.sampled_from([b"", b"line\n" * 100, bytes(KEPT_FROM), b"ab" * KEPT_FROM]))


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_comes_out_as_it_went_in(bodies: list[list[bytes]]) -> None:
    """Bodies one after the other, of parts that come again or do not."""
    packer = Packer()
    for body in bodies:
        assert gzip.decompress(b"".join(packer(body))) == b"".join(body)


def test_a_part_that_comes_again_is_not_packed_again() -> None:
    """A large one is found by its identity, also after a small page; in its place a new one is packed anew."""
    packer = Packer()
    large = b"one" * KEPT_FROM
    first = packer([b"head", large])
    packer([b"a small page"])
    again = packer([b"other head", large])
    assert again[2] is first[2]
    other = b"two" * KEPT_FROM
    assert gzip.decompress(b"".join(packer([other]))) == other
    assert packer([large])[1] is not first[2]


def test_gzip_reads_it() -> None:
    """The command of the name, another reader, takes it for whole and right."""
    parts = [b"one\n", b"two\n" * KEPT_FROM, b""]
    packed = b"".join(Packer()(parts))
    assert subprocess.run(["gzip", "-dc"], input=packed, stdout=subprocess.PIPE, check=True).stdout == b"".join(parts)
