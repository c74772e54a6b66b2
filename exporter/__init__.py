# SPDX-License-Identifier: Apache-2.0
"""ebpf-exporter: counts in the kernel with eBPF, serves Prometheus metrics."""

__version__ = "0.1.0"
