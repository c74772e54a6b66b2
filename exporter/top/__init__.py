# SPDX-License-Identifier: Apache-2.0
"""``ebpf-exporter top``: a client of an exporter that runs, in a terminal; it needs no rights and none of the daemon's
modules."""
