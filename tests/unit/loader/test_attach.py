# SPDX-License-Identifier: Apache-2.0
"""loader/attach.py: what holds a program, and whether its misses are told, on kernels that this one is not."""

import errno
import fcntl
import os
from collections.abc import Iterator

import pytest

from exporter import libbpf
from exporter.loader import attach
from exporter.probe import Hook


@pytest.fixture
def event() -> Iterator[int]:
    """What stands in for a perf event: a descriptor."""
    fd = os.memfd_create("event")
    yield fd
    os.close(fd)


def refusing(number: int) -> object:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


def test_without_links_the_perf_event_itself_is_given_its_program(monkeypatch: pytest.MonkeyPatch, event: int) -> None:
    """Before 5.15 a link is refused as an unknown kind: the program goes to the event, which must then be held."""
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(libbpf, "link_create", refusing(errno.EINVAL))
    monkeypatch.setattr(fcntl, "ioctl", lambda fd, _, program: given.append((fd, program)))
    held = attach.give(event, 7)
    assert given == [(event, 7)]
    assert (held != event, os.path.sameopenfile(held, event), os.get_inheritable(held)) == (True, True, False)
    os.close(held)


def test_what_is_refused_otherwise_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, event: int) -> None:
    """As many programs as a hook takes are as many by whichever way."""
    monkeypatch.setattr(libbpf, "link_create", refusing(errno.E2BIG))
    with pytest.raises(OSError, match="Argument list too long"):
        attach.give(event, 7)


@pytest.mark.parametrize(
    ("family", "missed", "told"),
    [
        ("kretprobe", lambda _: 5, True),
        ("tracepoint", lambda _: 0, True),
        ("tracepoint", lambda _: None, False),
        ("uretprobe", lambda _: None, False),
        ("kprobe", refusing(errno.EINVAL), False),
        ("fexit", refusing(errno.EINVAL), True),
        ("rawtracepoint", refusing(errno.EINVAL), True),
    ],
)
def test_whether_misses_are_told(monkeypatch: pytest.MonkeyPatch, family: str, missed: object, told: bool) -> None:
    """Of perf events by a link that tells them; of what is no perf event always."""
    monkeypatch.setattr(libbpf, "link_missed", missed)
    assert attach.tells_missed(Hook(family, "f"), 3) is told
