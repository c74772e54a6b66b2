# SPDX-License-Identifier: Apache-2.0
"""A page for each probe that is shipped, from its YAML: docs/probes/NAME.md."""


def texts() -> dict[str, str]:
    return {}
