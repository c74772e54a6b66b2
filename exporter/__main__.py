# SPDX-License-Identifier: Apache-2.0
"""``python3 -m exporter`` is the command ``ebpf-exporter``. Older Pythons can read this file, and say that they are."""

import sys

from exporter.libraries import missing


def main() -> None:
    """Runs the command; never returns. What can't be imported here is told in a line."""
    if sys.version_info < (3, 11):  # noqa: UP036 - who has an older one gets to know it here
        sys.exit(f"ebpf-exporter: this is Python {sys.version.split()[0]}; install 3.11 or later")
    try:
        from exporter import cli

        cli.main()
    except ImportError as error:
        sys.exit(f"ebpf-exporter: {missing(error)}")


if __name__ == "__main__":
    main()
