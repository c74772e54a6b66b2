# SPDX-License-Identifier: Apache-2.0
"""What a script's text says of its maps."""

import pytest

from exporter.bpftrace import script


@pytest.mark.parametrize(
    ("line", "kind", "parts"),
    [
        ("@x = count();", "counter", ()),
        ("@x[comm] = sum(args->ret);", "counter", ("comm",)),
        ("@x++;", "counter", ()),
        ("++@x[pid];", "counter", ("pid",)),
        ("@x++; @x--;", "gauge", ()),
        ("@x++; @x = 0;", "gauge", ()),
        ("@x += 2;", "gauge", ()),
        ("@x[1] = 7;", "gauge", ("1",)),
        ("@x = min(3);", "gauge", ()),
        ("@x = max(3);", "gauge", ()),
        ("@x = avg(3);", "gauge", ()),
        ("@x = stats(3);", "summary", ()),
        ("@x = hist(3);", "histogram", ()),
        ("@x[str(args->f, 8), -args->ret] = lhist(3, 0, 9, 1);", "histogram", ("str(args->f, 8)", "-args->ret")),
        ("@x[tid] = nsecs; if (@x[tid] == 3) { delete(@x[tid]); }", "none", ("tid",)),
        ("@x[tid] = nsecs; delete(@x, tid);", "none", ("tid",)),
        ("@x[tid] = count(); delete(@x[tid]);", "counter", ("tid",)),
        ("print(@x); @x = count();", "counter", ()),
        ('@x["], = count(", 1] = 4;', "gauge", ('""', "1")),
    ],
)
def test_the_type_and_the_key_of_a_map(line: str, kind: str, parts: tuple[str, ...]) -> None:
    """By how it is assigned to, wherever that stands."""
    use = script.maps("kprobe:f { " + line + " }")["@x"]
    assert (use.type, use.parts) == (kind, parts)


def test_comments_and_strings_hold_no_maps() -> None:
    """A path may look as if a comment began in it."""
    text = """
    // @a = count();
    /* @b = count(); */
    uprobe:/usr/lib/*:malloc /comm == "@c = count()"/ { @ = count(); }  /* */
    """
    assert list(script.maps(text)) == ["@"]


def test_which_parts_of_a_key_may_hold_a_comma() -> None:
    """Names do, numbers don't, fields of arguments may."""
    use = script.maps("k:f { @x[comm, pid, args->f, -1, str(arg0), nsecs] = count(); }")["@x"]
    assert use.texts == (2, 0, 1, 0, 2, 0)


def test_a_script_that_can_end() -> None:
    """exit() in the code, not in a comment."""
    assert script.ends("BEGIN { exit(); }")
    assert not script.ends('BEGIN { /* exit() */ printf("exit()"); }')


def test_what_is_added_prints_the_maps_between_marks() -> None:
    """After the script, so that the lines of its errors stay what they are."""
    text = script.with_printer("BEGIN { @x = 1; }", ["@x", "@"], "mark", 7)
    assert text.startswith("BEGIN { @x = 1; }\n")
    assert "print(@ebpf_exporter);print(@x);print(@);" in text
    assert text.index("mark begin") < text.index("print(") < text.index("mark end")
