# SPDX-License-Identifier: Apache-2.0
"""The status page: one file without anything from elsewhere, which asks ``/probes`` for what it shows.

It is read when this is imported, by the supervisor, and kept, some 30 KB: the worker may have no way into the folder,
and an upgrade puts another version there.
"""

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("status.html").read_bytes()


def _hash(tag: bytes) -> str:
    """Returns what a policy (Content Security Policy Level 3, 8.3) calls the one element of this name."""
    [content] = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


# what is not this page's own script and style does nothing, and neither can make HTML of a text
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash(b'script')}; style-src {_hash(b'style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
