# SPDX-License-Identifier: Apache-2.0
"""Rules: what is to be done with packets, by what is in their headers. In order; free of the kernel."""
