# SPDX-License-Identifier: Apache-2.0
"""metrics/series.py: what was counted under a number whose name is not told yet waits for it, and is not lost."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import cgroups, places
from exporter.metrics import series as module
from exporter.metrics.series import Series
from exporter.places import LONG_PATIENCE, PATIENCE, Place, Places
from exporter.probe import OTHER, OVERFLOW_ENTRIES, Table

from ..support import bounded_key, counter, gauge, histogram, key, label, numbers, probe, samples

DIRECTION = ["ingress", "egress"]
LABELS = (label("container", "veth_container"), label("interface", "veth"), label("direction", DIRECTION))
TRAFFIC = Table((counter("ebpf_a_total", *LABELS), counter("ebpf_b_total", *LABELS)))
RECEIVED = Table((counter("ebpf_a_total", label("interface", "interface"), label("op", DIRECTION)),))


class Told:
    """A worker's table of names, with a clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.table = Places(clock=lambda: self.now)
        self.table.learn({}, {})


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found = Told()
    monkeypatch.setattr(places, "PLACES", found.table)
    return found


def read(series: Series, *counted: tuple[bytes, bytes]) -> dict[tuple[str, ...], float]:
    """One read that drains keys with values. Returns the first metric's values by the texts of its labels, sorted."""
    series.begin()
    series.add(b"".join(one for one, _ in counted), b"".join(value for _, value in counted))
    series.settle()
    return shown(series)


def shown(series: Series) -> dict[tuple[str, ...], float]:
    name = series.table.metrics[0].name
    found = samples(b"".join(lines for _, lines in series.render()).decode()).get(name, {})
    return {tuple(value for _, value in labels): amount for labels, amount in found.items()}


def traffic(index: int, direction: int = 0) -> bytes:
    return key(TRAFFIC, container=index, interface=index, direction=direction)


def test_waits_until_it_is_told(told: Told) -> None:
    """What was counted behind an interface that nobody has told of is added when it is, once."""
    series = Series(TRAFFIC, 10)
    assert read(series, (traffic(7), numbers(3, 30))) == {}
    told.table.learn({7: Place("veth1", "")}, {})
    assert read(series, (traffic(7), numbers(5, 50)), (traffic(7, 1), numbers(11, 110))) == {}
    told.table.learn({7: Place("veth1", "web")}, {})
    assert read(series) == {("web", "ingress", "veth1"): 8, ("web", "egress", "veth1"): 11}
    assert read(series, (traffic(7), numbers(1, 1)))["web", "ingress", "veth1"] == 9
    assert 'ebpf_b_total{container="web",interface="veth1",direction="ingress"} 81' in text(series)


def text(series: Series) -> str:
    return b"".join(lines for _, lines in series.render()).decode()


def test_what_is_known_does_not_wait(told: Told) -> None:
    """Of what is drained together, only that is kept back which is not known; an interface needs no container."""
    series, received = Series(TRAFFIC, 10), Series(RECEIVED, 10)
    told.table.learn({7: Place("veth1", ""), 8: Place("veth2", "db")}, {})
    counted = [(traffic(7), numbers(3, 0)), (traffic(8), numbers(5, 0)), (traffic(9), numbers(7, 0))]
    assert read(series, *counted) == {("db", "ingress", "veth2"): 5}
    assert read(received, (key(RECEIVED, interface=7), numbers(3))) == {("veth1", "ingress"): 3}


def test_patience_ends(told: Told) -> None:
    """What nobody tells of reads as far as it is known: the interface, or its number."""
    series = Series(TRAFFIC, 10)
    told.table.learn({7: Place("veth1", "")}, {})
    counted = [(traffic(7), numbers(3, 0)), (traffic(2**31), numbers(5, 0))]
    assert read(series, *counted) == {}
    told.now += LONG_PATIENCE
    wanted = {("veth1", "ingress", "veth1"): 3, ("2147483648", "ingress", "2147483648"): 5}
    assert read(series) == wanted
    told.table.learn({7: Place("veth1", "web")}, {})
    assert read(series, (traffic(7), numbers(1, 0))) == {**wanted, ("web", "ingress", "veth1"): 1}


def test_another_name(told: Told) -> None:
    """What is counted after an interface has another name is counted there; what was counted stays."""
    series = Series(RECEIVED, 10)
    told.table.learn({7: Place("veth1", "veth1")}, {})
    assert read(series, (key(RECEIVED, interface=7), numbers(3))) == {("veth1", "ingress"): 3}
    told.table.learn({7: Place("eth7", "eth7")}, {})
    assert read(series, (key(RECEIVED, interface=7), numbers(4))) == {
        ("veth1", "ingress"): 3,
        ("eth7", "ingress"): 4,
    }


def test_an_interface_that_comes_back_is_one_series(told: Told) -> None:
    """A name whose interface is made again and again is one series, also where there is no room for more."""
    series = Series(RECEIVED, 1)
    for index in range(1, 5000):
        told.table.learn({index: Place("ppp0", "ppp0")}, {})
        read(series, (key(RECEIVED, interface=index), numbers(2)))
    series.add_overflow(bounded_key(RECEIVED, interface=4999), numbers(1, 1))
    assert shown(series) == {("ppp0", "ingress"): 2 * 4999 + 1}


def test_an_interface_that_comes_back_where_there_is_no_room(told: Told) -> None:
    """With all series taken, an interface that was made again goes on with the series that it had."""
    series = Series(RECEIVED, 1)
    for index in range(1, OVERFLOW_ENTRIES + 1):
        told.table.learn({index: Place(f"eth{index}", "x")}, {})
        read(series, (key(RECEIVED, interface=index), numbers(2)))
    told.table.learn({5000: Place("eth1", "x"), 5001: Place("eth0", "x")}, {})
    found = read(series, (key(RECEIVED, interface=5000), numbers(3)), (key(RECEIVED, interface=5001), numbers(7)))
    assert (found["eth1", "ingress"], found[OTHER, OTHER]) == (5, 7)


def test_containers_that_come_and_go_leave_room(told: Told) -> None:
    """With all series taken a new container has its own after three reads, and every sum is exact."""
    series = Series(TRAFFIC, 8)
    total = 0
    for index in range(100):
        told.table.learn({index: Place(f"veth{index:x}", f"web-{index}")}, {})
        for _ in range(4):
            found = read(series, (traffic(index), numbers(3, 0)))
            total += 3
            assert sum(found.values()) == total
        assert found[f"web-{index}", "ingress", f"veth{index:x}"] > 0
    assert len(found) == 9
    assert found[OTHER, "ingress", OTHER] > 0


def test_overflow_waits_too(told: Told) -> None:
    """What the kernel had no room for waits for a bounded label that is not known, and is exact, with its events."""
    series = Series(RECEIVED, 10)
    series.add_overflow(bounded_key(RECEIVED, interface=7), numbers(3, 2))
    series.begin()
    series.add_overflow(bounded_key(RECEIVED, interface=7), numbers(5, 1))
    assert (shown(series), series.overflowed) == ({}, 0)
    told.table.learn({7: Place("veth1", "veth1")}, {})
    series.begin()
    assert (shown(series), series.overflowed) == ({("veth1", "ingress"): 8}, 3)


def test_another_name_in_the_overflow(told: Told) -> None:
    """What overflows after an interface has another name is counted there too."""
    table = Table((counter("ebpf_a_total", label("interface", "interface"), label("comm", "comm")),))
    series = Series(table, 10)
    for name in ("veth1", "eth7"):
        told.table.learn({7: Place(name, name)}, {})
        series.begin()
        series.add_overflow(bounded_key(table, interface=7), numbers(3, 1))
    assert shown(series) == {(OTHER, "veth1"): 3, (OTHER, "eth7"): 3}


@pytest.mark.parametrize(("keep", "wanted"), [("last", 5), ("max", 9)])
def test_gauges_overflow(told: Told, keep: str, wanted: int) -> None:
    """Of a gauge's values that had to wait one is kept, of the events all."""
    table = Table((gauge("ebpf_a", label("interface", "interface"), label("comm", "comm"), keep=keep),))
    series = Series(table, 10)
    for value in (9, 5):
        series.add_overflow(bounded_key(table, interface=7), numbers(value, 3))
    told.table.learn({7: Place("veth1", "veth1")}, {})
    series.begin()
    assert (list(shown(series).values()), series.overflowed) == ([wanted], 6)


@pytest.mark.parametrize(("keep", "wanted"), [("last", 5), ("max", 9)])
def test_gauges_wait_in_their_order(told: Told, keep: str, wanted: int) -> None:
    """Of a gauge that had to wait the last value, or the largest, is shown."""
    table = Table((gauge("ebpf_a", label("interface", "interface"), keep=keep),))
    series = Series(table, 10)
    one = key(table, interface=7)
    read(series, (one, numbers(9)))
    read(series, (one, numbers(7)))
    told.now += PATIENCE - 0.1
    series.begin()
    told.now += 0.1  # known between the begin of a read and what it drains
    series.add(one, numbers(5))
    series.begin()
    assert list(shown(series).values()) == [wanted]


def test_histograms_wait(told: Told) -> None:
    """Buckets of a series that waits are added to it."""
    table = Table((histogram("ebpf_a_seconds", (1, 3), label("container", "veth_container")),))
    series = Series(table, 10)
    read(
        series, (key(table, container=7, bucket=0), numbers(2, 3)), (key(table, container=7, bucket=3), numbers(1, 20))
    )
    told.table.learn({7: Place("veth1", "web")}, {})
    read(series, (key(table, container=7, bucket=0), numbers(1, 1)))
    lines = text(series).splitlines()
    assert 'ebpf_a_seconds_bucket{container="web",le="2.0"} 3' in lines
    assert 'ebpf_a_seconds_count{container="web"} 4' in lines
    assert 'ebpf_a_seconds_sum{container="web"} 24' in lines


def test_what_waits_is_bounded(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more keys than may wait, the rest is added as far as it is known; nothing is lost."""
    monkeypatch.setattr(module, "_MOST_WAITING", 5)
    series = Series(TRAFFIC, 100)
    found = read(series, *((traffic(1000 + at), numbers(1, 0)) for at in range(8)))
    assert len(found) == 3
    told.now += PATIENCE
    assert sum(read(series).values()) == 8


def test_containers_of_processes(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container of a cgroup is waited for if it has an id whose name was not told; all that is unknown is one."""
    paths = cgroups.Paths()
    monkeypatch.setattr(cgroups, "PATHS", paths)
    monkeypatch.setattr(cgroups, "found", lambda: iter(()))
    short = "4f0a7c1b9e2d"
    paths.learn(1, f"/docker/{short}{'0' * 52}".encode())
    paths.learn(2, b"/lxc.payload.mail")
    paths.learn(3, b"/system.slice/ssh.service")
    paths.learn(6, f"/docker/{short}{'0' * 52}/init.scope".encode())
    [table] = probe(counter("ebpf_a_total", label("container", "container"))).tables
    series = Series(table, 10)
    counted = [(key(table, container=number), numbers(number)) for number in (1, 2, 3, 4, 5, 6)]
    assert read(series, *counted) == {("mail",): 2, ("",): 3, ("(unknown)",): 9}
    told.table.learn({}, {short: "web"})
    assert read(series) == {("mail",): 2, ("",): 3, ("(unknown)",): 9, ("web",): 7}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("count"), st.integers(0, 5), st.integers(0, 2**32)),
            st.tuples(st.just("over"), st.integers(0, 5), st.integers(0, 2**32)),
            st.tuples(st.just("tell"), st.integers(0, 5), st.sampled_from(["", "a", "b", "c"])),
            st.tuples(st.just("pass"), st.just(0), st.sampled_from([0.1, PATIENCE, LONG_PATIENCE])),
        )
    )
)
def test_nothing_is_lost_whatever_is_told_when(steps: list[tuple[str, int, object]]) -> None:
    """No series ever has less than it had, and in the end all is there that was counted."""
    told, before, total = Told(), dict[tuple[str, ...], float](), 0
    table = Table((counter("ebpf_a_total", label("container", "veth_container"), label("interface", "interface")),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "PLACES", told.table)
        series = Series(table, 100)
        for what, index, amount in [*steps, ("pass", 0, LONG_PATIENCE), ("pass", 0, LONG_PATIENCE)]:
            series.begin()
            if what == "pass":
                assert isinstance(amount, float)
                told.now += amount
            elif isinstance(amount, str):
                told.table.learn({index: Place(f"veth{index}", amount)}, {})
            else:
                assert isinstance(amount, int)
                total += amount
                if what == "count":
                    series.add(key(table, container=index, interface=index), numbers(amount))
                else:
                    series.add_overflow(bounded_key(table, interface=index), numbers(amount, 1))
            series.settle()
            now = shown(series)
            assert all(now[labels] >= value for labels, value in before.items())
            before = now
        series.begin()
        assert sum(shown(series).values()) == total


def test_many_bounded_texts_are_still_bounded(told: Told) -> None:
    """What is called bounded and is not has no more series than there is room for in the kernel."""
    table = Table((counter("ebpf_a_total", label("interface", "interface"), label("comm", "comm")),))
    series = Series(table, 10)
    for index in range(OVERFLOW_ENTRIES + 50):
        told.table.learn({index: Place(f"eth{index}", "x")}, {})
        series.add_overflow(bounded_key(table, interface=index), numbers(1, 1))
    found = shown(series)
    assert len(found) == OVERFLOW_ENTRIES + 1
    assert found[OTHER, OTHER] == 50
    told.table.learn({5000: Place("eth0", "x")}, {})
    series.add_overflow(bounded_key(table, interface=5000), numbers(7, 1))
    assert shown(series)[OTHER, "eth0"] == 8


def test_a_rule_whose_name_is_told_later() -> None:
    """What new rules count before the worker knows their names is added under these, once."""

    def table(*names: str) -> Table:
        found = label("rule", "rule")
        return Table((counter("ebpf_a_total", replace(found, kind=replace(found.kind, values=(OTHER, *names)))),))

    series = Series(table("one"), 10)
    first, second = (key(series.table, rule=number) for number in (1, 2))
    assert read(series, (first, numbers(3)), (second, numbers(5))) == {("one",): 3}
    assert read(series, (second, numbers(7))) == {("one",): 3}
    series.rename(table("one", "two"))
    assert read(series) == {("one",): 3, ("two",): 12}
    assert read(series, (second, numbers(11))) == {("one",): 3, ("two",): 23}
