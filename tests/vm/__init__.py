# SPDX-License-Identifier: Apache-2.0
"""Runs the tests that need a kernel of their own in virtual machines."""
