# SPDX-License-Identifier: Apache-2.0
"""What these tests share is what those of the probes share: root, and the workload generator."""

from tests.kernel.conftest import pytest_collection_modifyitems, workload, workload_binary

__all__ = ["pytest_collection_modifyitems", "workload", "workload_binary"]
