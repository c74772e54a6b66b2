# SPDX-License-Identifier: Apache-2.0
"""bpftrace scripts as probes: bpftrace runs them, its maps become metrics."""
