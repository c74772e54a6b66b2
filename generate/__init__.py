# SPDX-License-Identifier: Apache-2.0
"""What is made from the program and its probes, for people and editors; kept beside them, and compared by a test."""
