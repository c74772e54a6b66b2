# SPDX-License-Identifier: Apache-2.0
"""From descriptors to text: maps, labels, series, exposition. Each stage knows only those before it."""
