# SPDX-License-Identifier: Apache-2.0
"""What is built for users: the Debian package and the wheel."""
