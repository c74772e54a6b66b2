# SPDX-License-Identifier: Apache-2.0
"""The privileged process: what a config asks for, its probes, the worker, and the loop that all of them run in."""
