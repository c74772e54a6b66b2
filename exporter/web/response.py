# SPDX-License-Identifier: Apache-2.0
"""An answer to a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus


@dataclass(frozen=True)
class Response:
    """An answer, its body in parts where it is large; headers besides those that every answer has."""

    status: HTTPStatus
    body: bytes | list[bytes]
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> list[bytes]:
        return [self.body] if isinstance(self.body, bytes) else self.body

    @property
    def size(self) -> int:
        """The body's, in bytes."""
        return sum(map(len, self.parts))


def plain(status: HTTPStatus, **headers: str) -> Response:
    """Returns an answer whose body is what the status is called."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, f"{status.phrase}\n".encode(), headers=named)
