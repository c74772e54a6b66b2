# SPDX-License-Identifier: Apache-2.0
"""What all tests share."""

import os
from collections.abc import Generator

import pluggy
import pytest


@pytest.hookimpl(hookwrapper=True)  # the older way, which the pytest 7.2 of Debian 12 knows
def pytest_runtest_makereport() -> "Generator[None, pluggy.Result[pytest.TestReport], None]":
    """Where all tools were installed, a test that lacks one has failed: only what a kernel lacks may be left out."""
    report = (yield).get_result()
    if report.skipped and "EBPF_EXPORTER_TEST_STRICT" in os.environ and isinstance(report.longrepr, tuple):
        *_, reason = report.longrepr
        if reason.removeprefix("Skipped: ").startswith("needs "):
            report.outcome, report.longrepr = "failed", f"{reason}; tests/run installs it"
