# SPDX-License-Identifier: Apache-2.0
"""Every probe that the documents show is compiled, loaded and attached; those with a selftest count it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents import DOCUMENTS, configs, write
from tests.kernel.conftest import lacks
from tests.kernel.test_doctor import doctor

pytestmark = pytest.mark.anywhere

# words of a reason -> the mechanism that is lacking
LACKING = {
    "bpftrace is not installed": "bpftrace",
    "no kprobes": "kprobe+kretprobe",
    "tracing programs": "fexit",
}


@pytest.mark.parametrize(
    ("document", "config"), [(document, config) for document in DOCUMENTS for config in configs(document)]
)
def test_documented_probes_run(tmp_path: Path, document: str, config: str) -> None:
    """Nothing fails but for what this kernel lacks."""
    write(document, tmp_path)
    settings: dict[str, Any] = yaml.safe_load(config)
    _, found = doctor(tmp_path, settings.pop("probes"), "--seconds", "0", **settings)
    for one in found.values():
        if one["counters"] == "failed":
            lacking = [name for words, name in LACKING.items() if words in one["reason"]]
            assert lacking, one
            lacks(lacking[0], one["reason"])
        assert one["good"], one
