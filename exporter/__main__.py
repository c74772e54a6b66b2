# SPDX-License-Identifier: Apache-2.0
"""``python3 -m exporter`` is the command ``ebpf-exporter``."""

from exporter.cli import main

main()
