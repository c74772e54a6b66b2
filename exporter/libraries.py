# SPDX-License-Identifier: Apache-2.0
"""What this wants of the distribution besides Python, and which package has it. Older Pythons can read this file."""

PACKAGES = {
    "bcc": "python3-bpfcc",
    "elftools": "python3-pyelftools",
    "h11": "python3-h11",
    "jsonschema": "python3-jsonschema",
    "libbpf.so.1": "libbpf1",
    "prometheus_client": "python3-prometheus-client",
    "yaml": "python3-yaml",
}


def missing(error: ImportError) -> str:
    """Returns in a line what could not be imported, and what to install, by Debian's names."""
    name = (error.name or "").partition(".")[0] if error.name not in PACKAGES else error.name
    package = PACKAGES.get(name or "")
    return f"{error}" + (f"; install the package {package}" if package else "")
