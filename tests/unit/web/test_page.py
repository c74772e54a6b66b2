# SPDX-License-Identifier: Apache-2.0
"""web/page.py: the status page as a file. What it does is tested in a browser, by tests/ui."""

import base64
import hashlib
import re

import pytest

from exporter.web.page import HEADERS, PAGE

TEXT = PAGE.decode()
POLICY = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))


@pytest.mark.parametrize("name", ["script", "style"])
def test_policy_knows_what_is_in_the_page(name: str) -> None:
    """The page's one script and its one style are what the policy allows, and no other is."""
    content = TEXT.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert POLICY[f"{name}-src"] == f"'sha256-{digest}'"
    assert TEXT.count(f"<{name}") == 1


def test_policy_allows_nothing_else() -> None:
    """It asks its own host alone, can't be framed, and has no way to make HTML of a text."""
    assert {name: value for name, value in POLICY.items() if name not in ("script-src", "style-src")} == {
        "default-src": "'none'", "connect-src": "'self'", "img-src": "data:", "base-uri": "'none'",
        "form-action": "'none'", "frame-ancestors": "'none'", "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }  # fmt: skip


def test_nothing_is_from_elsewhere() -> None:
    """It has no address of another host, but the name of SVG; links are relative: a proxy may give it a path."""
    assert set(re.findall(r"https?://[^\s'\"]+", TEXT)) == {"http://www.w3.org/2000/svg"}
    links = re.findall(r"""(?:href|src)="([^"]*)\"""", TEXT)
    assert {link.split(",")[0] for link in links} == {"data:image/svg+xml", "metrics", "probes"}


def test_no_text_becomes_html() -> None:
    """What would, is not in it; nor are handlers and styles as attributes, which the policy forbids."""
    found = re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|\bon\w+=|\bstyle=", TEXT)
    assert found == []
