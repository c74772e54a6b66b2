# SPDX-License-Identifier: Apache-2.0
"""supervisor/control.py: how an answer comes to who asked for a reload, however long it is."""

import json
import socket
import threading
from pathlib import Path

import pytest

from exporter.supervisor import control, reload
from exporter.supervisor.control import Answer, Unreachable


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "FOLDER", tmp_path)


def test_a_long_answer_comes_whole() -> None:
    """It is longer than what a socket takes at once, and who asked begins to read when that is full."""
    answer = Answer(False, ("w" * 2_000_000,))
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    theirs.setblocking(False)
    telling = threading.Thread(target=control._tell, args=(theirs, answer))
    telling.start()
    telling.join(0.2)  # it waits for us
    with ours, ours.makefile("rb") as answers:
        found = json.loads(answers.read())
    telling.join()
    assert found["lines"] == list(answer.lines)


def test_half_an_answer_is_told_in_words(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(control._place(config)))
        listening.listen()

        def answer() -> None:
            one, _ = listening.accept()
            with one:
                one.recv(64)
                one.sendall(b'{"good": false, "lines": ["a')

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match="was cut off"):
            control.ask(config)
        thread.join()


def test_the_first_lines_are_told() -> None:
    lines = tuple(map(str, range(3000)))
    assert reload._first(lines) == (*lines[:100], "… and 2,900 more, in the exporter's log")
    assert reload._first(lines[:100]) == lines[:100]
