# SPDX-License-Identifier: Apache-2.0
"""What there is to attach to on this host, and what it gives: tracepoints, kernel functions, symbols, events."""
