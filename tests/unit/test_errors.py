# SPDX-License-Identifier: Apache-2.0
"""errors.py: what a user reads, and that every error survives the way between two processes."""

import importlib
import pickle
import pkgutil
from pathlib import Path

import pytest

import exporter
from exporter.child import Crashed, isolated
from exporter.errors import (
    AttachError,
    CompileError,
    ConfigError,
    ExporterError,
    HeadersError,
    HookError,
    LoadError,
    ProbeError,
    Problem,
    StartError,
    UnknownHook,
)
from exporter.loader.attach import NoSuchHook
from exporter.loader.load import NothingHolds
from exporter.status import Attempt
from exporter.supervisor.control import Unreachable
from exporter.top.client import NoProbe, Unanswered
from exporter.top.place import BadPlace

EXAMPLES: list[ExporterError] = [
    ExporterError("what"),
    ConfigError([Problem(Path("/c.yaml"), 3, "bad"), Problem(Path("/c.yaml"), 0, "worse")]),
    StartError("not root"),
    ProbeError("reason", "details"),
    ProbeError("reason"),
    HookError("reason"),
    UnknownHook("reason", ("tcp_send_reset", "tcp_sendmsg")),
    HeadersError("reason", "details"),
    CompileError("reason", "details"),
    LoadError("reason", "details"),
    AttachError("reason", "details", 2),
    AttachError("reason", errno=13),
    NoSuchHook("reason", errno=2),
    NothingHolds("reason", "details", (Attempt("kprobe", "why", "words"),)),
    Crashed("SIGSEGV"),
    Unreachable("nobody"),
    Unanswered("silence"),
    NoProbe("none"),
    BadPlace("where"),
]


def everything(of: type[ExporterError]) -> set[type[ExporterError]]:
    return {of}.union(*(everything(sub) for sub in of.__subclasses__()))


def test_every_class_has_an_example() -> None:
    """A class of error that is added anywhere in the package gets a line above."""
    for module in pkgutil.walk_packages(exporter.__path__, "exporter."):
        if module.name != "exporter.__main__":
            importlib.import_module(module.name)
    assert {type(error) for error in EXAMPLES} == everything(ExporterError)


def fail(error: ExporterError) -> None:
    raise error


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_from_a_child(error: ExporterError) -> None:
    """An error that is raised in a process of its own is raised here, of its class and with all its fields."""
    with pytest.raises(ExporterError) as caught:
        isolated(fail, error)
    found = {name: value for name, value in vars(caught.value).items() if name != "__notes__"}
    assert (type(caught.value), str(caught.value), found) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_can_be_pickled(error: ExporterError) -> None:
    """Pickling keeps class, text, arguments and fields."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.args, vars(again)) == (type(error), str(error), error.args, vars(error))


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem(Path("/etc/c.yaml"), 3, "interval: bad"), "/etc/c.yaml:3: interval: bad"),
        (Problem(Path("/etc/c.yaml"), 0, "cannot be read"), "/etc/c.yaml: cannot be read"),
    ],
)
def test_a_problem_reads_as_a_compilers(problem: Problem, text: str) -> None:
    """file:line: message, so that editors find it; without the line where there is none."""
    assert str(problem) == text


def test_a_config_error_lists_its_problems() -> None:
    """One line for each problem."""
    error = ConfigError([Problem(Path("a"), 1, "x"), Problem(Path("b"), 2, "y")])
    assert str(error) == "a:1: x\nb:2: y"


def test_a_probe_error_reads_as_its_reason() -> None:
    """The kernel's own words are kept apart from the one line."""
    error = LoadError("the kernel refuses it", "0: R1=ctx()\n1: bad")
    assert (str(error), error.details) == ("the kernel refuses it", "0: R1=ctx()\n1: bad")
