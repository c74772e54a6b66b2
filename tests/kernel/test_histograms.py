# SPDX-License-Identifier: Apache-2.0
"""Histograms of values that are known one by one: at each bound, around it, and at both ends of u64."""

import math
from collections import Counter

import pytest

from tests.kernel.readahead import BYTES, SECONDS, SECTORS, ask, counting, exact

pytestmark = pytest.mark.anywhere

# as the probe's YAML has them: the factor to the metric's unit, the exponents of the first and the last bound
DECLARED = {BYTES: (1, 0, 63), SECTORS: (512, 3, 9), SECONDS: (1e-9, 10, 34)}
# how often each power of two, its predecessor and its successor are observed: unlike, so that none is taken for another
TIMES = {-1: 2, 0: 3, 1: 5}
TRUTH = {
    "even": Counter(
        {
            0: 7,
            **{2**exponent + off: times for exponent in range(3, 64) for off, times in TIMES.items()},
            **{1: 11, 2: 13, 3: 17, 4: 19, 5: 23},  # where neighbours meet
            2**64 - 1: 2,
        }
    ),
    "odd": Counter({0: 1, 2**64 - 1: 1}),
}
SUM_FITS = 2**60  # of all values below it, the sum is below 2**64, which is what the kernel holds between two reads


def test_a_value_at_a_bound_is_in_its_bucket() -> None:
    """2**k - 1, 2**k and 2**k + 1 for all k, 0 and 2**64 - 1: each bucket, the sum and the count are the truth's."""
    with counting([*DECLARED], labels=["half"]) as daemon:
        for half, values in TRUTH.items():
            for value, times in values.items():
                for _ in range(times):
                    ask(value, half=half)
                    if value >= SUM_FITS:
                        daemon.page()
        page = exact(daemon.page())
    for name, (scale, first, last) in DECLARED.items():
        bounds = [*range(first, last + 1), math.inf]
        for half, values in TRUTH.items():
            found = {
                float(dict(labels)["le"]): int(number)
                for labels, number in page[f"{name}_bucket"].items()
                if dict(labels)["half"] == half
            }
            assert found == {
                scale * 2.0**bound: sum(times for value, times in values.items() if value <= 2.0**bound)
                for bound in bounds
            }, (name, half)
            [own] = [labels for labels in page[f"{name}_count"] if dict(labels)["half"] == half]
            assert int(page[f"{name}_count"][own]) == values.total() == found[math.inf]
            total = sum(value * times for value, times in values.items())
            number = page[f"{name}_sum"][own]
            # a scaled sum is the float that is nearest to the truth
            assert number == (str(total) if scale == 1 else repr(float(total * scale))), (name, half)
