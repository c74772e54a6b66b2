# SPDX-License-Identifier: Apache-2.0
"""What answers on the network: HTTP, and the pages behind it."""
