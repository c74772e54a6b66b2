# SPDX-License-Identifier: Apache-2.0
"""The status page in a real browser: its numbers, its words, and that nothing on it does what a name says."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.metrics.series import Series
from exporter.status import Attempt, ProbeStatus
from tests.kernel.daemon import Daemon, count
from tests.ui.browser import Browser
from tests.ui.host import Host, add
from tests.unit.support import counter, histogram, label, probe

# as a name, and as it is to be read
HOSTILE = {
    "<script>hacked()": "<script>hacked()",
    "<img src=x onerror=hacked()>": "<img src=x onerror=hacked()>",
    "&lt;&#60;": "&lt;&#60;",
    "\u202egnp.exe": "\\u{202e}gnp.exe",
    "a\u2066b\u200dc\ufeff": "a\\u{2066}b\\u{200d}c\\u{feff}",
    "\u05e9\u05dc\u05d5\u05dd 1": "\u05e9\u05dc\u05d5\u05dd 1",
    "two\nlines": "two\\nlines",
    "esc\x1b[31m": "esc\\x1b[31m",
    "\u0085\u2028": "\\x85\\u2028",
    "漢字": "漢字",
    "x" * 60: "x" * 60,
    " spaced  out ": " spaced  out ",
    "": '""',
    "__proto__": "__proto__",
}
ROWS = "[...document.querySelectorAll('#top tbody tr')]"
CELLS = f"{ROWS}.map(row => [...row.cells].map(cell => cell.textContent))"

COUNT_TIMERS = """((set, clear) => {
    window.pending = new Set();
    window.setTimeout = (call, after) => {
        const timer = set(() => { pending.delete(timer); call(); }, after);
        pending.add(timer);
        window.after = after;
        return timer;
    };
    window.clearTimeout = (timer) => { pending.delete(timer); clear(timer); };
})(setTimeout, clearTimeout)"""


def names(browser: Browser) -> list[str]:
    return [row[0] for row in browser.value(CELLS)]


def state(browser: Browser, name: str) -> list[str]:
    """Returns the texts of a probe's row."""
    row = f"[...document.querySelectorAll('#probes tbody tr')].find(row => row.innerText.startsWith('{name}'))"
    return [str(text) for text in browser.value(f"[...{row}.cells].map(cell => cell.textContent)")]


def hostile(_: int, tables: list[Series]) -> None:
    for number, name in enumerate(HOSTILE):
        add(tables[0], (2 * (number + 1),), name=name)


HOSTILE_PROBE = probe(counter("ebpf_p_events_total", label("name", "string(128)")))


def test_the_page_shows_what_the_metrics_say(browser: Browser, tmp_path: Path) -> None:
    """103 runs of a program of a hostile name, each reading a file of a hostile name: so it stands on the page."""
    times, size = 103, 1009
    comm, file = "<b onx=hacked()", '<script>hacked()"\u202e'
    binary, read = tmp_path / comm, tmp_path / file
    shutil.copy("/bin/cat", binary)
    read.write_bytes(bytes(size))
    probes: Mapping[str, Any] = {"file_io": {"max_series": 5000}, "process_execs": {"max_series": 5000}}
    with Daemon(probes) as daemon:
        for _ in range(times):
            subprocess.run([binary, read], check=True, stdout=subprocess.DEVNULL)
        samples = daemon.samples()
        assert count(samples, "ebpf_process_execs_total", comm=comm) == times
        assert count(samples, "ebpf_file_io_bytes_total", comm=comm, file=file, op="read") == times * size
        operations = count(samples, "ebpf_file_io_operations_total", comm=comm, file=file, op="read")
        url = f"http://127.0.0.1:{daemon.port}/"
        browser.open(f"{url}#process_execs")
        row = f"{ROWS}.find(row => row.cells[1].textContent === {json.dumps(comm)})"
        browser.when(row)
        assert browser.value(f"{row}.cells[3].textContent") == f"{times}"
        browser.open(f"{url}#file_io")
        shown = file.replace("\u202e", "\\u{202e}")
        row = (
            f"{ROWS}.find(row => row.cells[2].textContent === {json.dumps(shown)}"
            " && row.cells[0].textContent === 'read')"
        )
        browser.when(f"{ROWS}.length")
        type_search(browser, "<script>HACKED")
        browser.when(row)
        assert browser.value(f"{row}.cells[1].textContent") == comm
        assert browser.value(f"{row}.cells[4].title") == f"{times * size}"
        assert browser.value(f"{row}.cells[6].textContent") == f"{operations:.0f}"
        told = json.loads(daemon.get("/probes")[1])["probes"]
        samples = daemon.samples()
        for one in told:
            assert one["state"] == "running"
            runs = count(samples, "ebpf_exporter_program_runs_total", probe=one["name"])
            assert 0 < one["events_total"] <= runs
    assert browser.value("typeof hacked") == "undefined"


def type_search(browser: Browser, text: str) -> None:
    browser.value("document.getElementById('search').focus()")
    browser.press(*text)
    assert browser.value("document.getElementById('search').value") == text


def test_rates(browser: Browser) -> None:
    """Events and their cost are differences of totals over those of times; a series' rate as well."""

    def step(number: int, tables: list[Series]) -> None:
        add(tables[0], (20, 4096), name="a")
        if number >= 20:
            add(tables[0], (2000, 2_000_000), name="b")

    labels = (label("name", "comm"),)
    with Host(probe(counter("ebpf_p_events_total", *labels), counter("ebpf_p_bytes_total", *labels)), step) as host:
        browser.open(f"{host.url}#p")
        browser.when("document.querySelector('#probes td.number').textContent === '50'")
        name, how, *numbers, _ = state(browser, "p")
        assert (name, how) == ("pCounts.", "runningkprobe")
        assert numbers[:3] == ["50", "400", "0.002"]
        browser.when(f"{ROWS}[0]?.cells[1].textContent === '10'")
        heads = browser.value("[...document.querySelectorAll('#top th')].map(head => head.textContent)")
        assert heads == ["name", "events/s", "events", "bytes/s", "bytes"]
        assert browser.value(f"{ROWS}[0].cells[3].textContent") == "2.00 KiB"
        browser.when(f"{ROWS}[0].cells[0].textContent === 'b'")  # more active: it comes first
        trend = browser.value("document.querySelector('svg.trend').getAttribute('aria-label')")
        assert trend == "Last 1 min: up to 50 events a second"
        assert browser.complaints() == []


@pytest.mark.parametrize("width", [360, 1100])
def test_names_are_text(browser: Browser, width: int) -> None:
    """Whatever a label is, it is text, in a direction of its own; nothing of it runs, or makes the page wider."""
    with Host(HOSTILE_PROBE, hostile) as host:
        browser.open(f"{host.url}#p", width=width)
        browser.when(f"{ROWS}.length === {len(HOSTILE)}")
        assert sorted(names(browser)) == sorted(HOSTILE.values())
        assert browser.value(f"{ROWS}.every(row => row.cells[0].firstChild.tagName === 'BDI')")
        assert browser.value("[document.scripts.length, document.images.length]") == [1, 0]
        assert browser.value("[typeof hacked, document.querySelectorAll('#top b, #top img, #top script').length]") == [
            "undefined",
            0,
        ]
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")
        assert browser.value(f"{ROWS}.every(row => row.getBoundingClientRect().right <= innerWidth)")
        assert browser.complaints() == []


def test_reasons_are_text(browser: Browser) -> None:
    """So are the words of a compiler, wherever they stand."""
    words = '<img src=x onerror="hacked()">\u202e'
    failed = ProbeStatus("q", words, "failed", "", words, words, (Attempt(words, words, words),))
    with Host(HOSTILE_PROBE, hostile, failed) as host:
        browser.open(f"{host.url}#q")
        browser.when("document.getElementById('foot').textContent")
        shown = words.replace("\u202e", "\\u{202e}")
        assert browser.value("document.querySelector('#problems li').textContent").startswith(
            f"q has failed: {shown}It "
        )
        assert browser.value("document.querySelector('#facts pre').textContent").count(shown) == 4
        assert browser.value("[document.images.length, typeof hacked]") == [0, "undefined"]
        assert browser.value("document.getElementById('foot').textContent").startswith("There are no series")
        assert browser.complaints() == []


def test_thousands_of_series(browser: Browser) -> None:
    """Of many series the most active are rows; all of them are searched."""

    def step(_: int, tables: list[Series]) -> None:
        for number in range(4321):
            add(tables[0], (number + 1,), name=f"n{number}")

    with Host(probe(counter("ebpf_p_events_total", label("name", "comm")), max_series=5000), step) as host:
        browser.open(f"{host.url}#p")
        browser.when(f"{ROWS}.length && {ROWS}[0].cells[1].textContent !== '–'")
        assert names(browser) == [f"n{number}" for number in reversed(range(4121, 4321))]
        assert browser.value("foot.textContent") == "4,321 series, the first 200 are shown. Help."
        type_search(browser, "N432")
        browser.when(f"{ROWS}.length === 2")
        assert names(browser) == ["n4320", "n432"]
        assert browser.value("foot.textContent") == "2 of 4,321 series. Help."
        assert browser.value("said.textContent") == "2 of 4,321 series. Help."


def test_sorting(browser: Browser) -> None:
    """A click on a column's head sorts by it, another one turns it round; aria-sort says which it is."""
    amounts = {"b": 2, "a": 30, "c": 100}

    def step(number: int, tables: list[Series]) -> None:
        for name, amount in amounts.items():
            if number == 0 or name == "b":
                add(tables[0], (amount,), name=name)

    order = "[...document.querySelectorAll('#top th')].map(head => head.getAttribute('aria-sort'))"
    with Host(probe(counter("ebpf_p_events_total", label("name", "comm"))), step) as host:
        browser.open(f"{host.url}#p")
        browser.when(f"{ROWS}.length && {ROWS}[0].cells[1].textContent !== '–'")
        assert (names(browser), browser.value(order)) == (["b", "c", "a"], ["none", "descending", "none"])
        press = "document.querySelectorAll('#top th button')[{}].click()"
        browser.value(press.format(0))
        assert (names(browser), browser.value(order)) == (["a", "b", "c"], ["ascending", "none", "none"])
        browser.value(press.format(0))
        assert (names(browser), browser.value(order)) == (["c", "b", "a"], ["descending", "none", "none"])
        browser.value(press.format(2))
        assert browser.value(order) == ["none", "none", "descending"]
        assert browser.value("said.textContent") == "Sorted by events, descending"


def test_histograms(browser: Browser) -> None:
    """A histogram has a table of its own: how many, their mean, and the bounds of half and of nearly all."""

    def step(_: int, tables: list[Series]) -> None:
        for bucket, times, taken in ((0, 60, 60), (2, 40, 140)):
            add(tables[1], (times, taken), op="read", bucket=bucket)

    found = probe(
        counter("ebpf_p_events_total", label("name", "comm")),
        histogram("ebpf_p_wait_seconds", (0, 3), label("op", "comm"), scale=1e-3),
    )
    with Host(found, step) as host:
        browser.open(f"{host.url}#p")
        browser.when("document.querySelectorAll('#groups button').length === 2")
        buttons = browser.value("[...document.querySelectorAll('#groups button')].map(one => one.textContent)")
        assert buttons == ["events", "wait seconds"]
        browser.value("document.querySelectorAll('#groups button')[1].click()")
        browser.when(f"{ROWS}.length && {ROWS}[0].cells[1].textContent !== '–'")
        heads = browser.value("[...document.querySelectorAll('#top th')].map(head => head.textContent)")
        assert heads == ["op", "per second", "count", "mean", "p50", "p99"]
        assert browser.value(CELLS)[0][3:] == ["2 ms", "≤ 1 ms", "≤ 4 ms"]
        assert browser.value(CELLS)[0][:2] == ["read", "50"]


def test_keys(browser: Browser) -> None:
    """Without a mouse: a probe is chosen, searched and left, and the focus is where one goes on."""
    focused = "(document.activeElement.id || document.activeElement.textContent)"
    with Host(HOSTILE_PROBE, hostile) as host:
        browser.open(host.url)
        browser.when("document.querySelector('#probes tbody button')")
        browser.value("document.querySelector('nav a:last-child').focus()")
        browser.press("Tab")
        assert browser.value(focused) == "p"
        browser.press("Enter")
        browser.when(f"{focused} === 'chosen' && {ROWS}.length")
        assert browser.value("document.querySelector('#probes tbody button').ariaExpanded") == "true"
        browser.press("/")
        browser.press("x")
        assert (browser.value(focused), browser.value("search.value")) == ("search", "x")
        browser.press("Escape")
        assert (browser.value(focused), browser.value("search.value")) == ("search", "")
        browser.press("Escape")
        browser.when(f"{focused} === 'p' && document.getElementById('series').hidden")
        assert browser.value("document.querySelector('#probes tbody button').ariaExpanded") == "false"


def test_everything_has_a_name(browser: Browser) -> None:
    """What a screen reader finds to act on says what it is, on a narrow screen as well; tables are tables."""
    for width in (1100, 360):
        with Host(HOSTILE_PROBE, hostile) as host:
            browser.open(f"{host.url}#p", width=width)
            browser.when(f"{ROWS}.length")
            found = browser.accessible()
        assert [
            role for role, name in found if role in ("button", "link", "searchbox", "table", "img") and not name
        ] == []
        assert {("searchbox", "Search series"), ("table", "Probes"), ("table", "p"), ("button", "p")} <= set(found)
        assert sum(role == "row" for role, _ in found) == 2 + 1 + len(HOSTILE)
        assert ("status", "") in found


CONTRAST = """(() => {
    const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => [0.2126, 0.7152, 0.0722].reduce((sum, by, at) => sum + by * channel(parts(color)[at]), 0);
    const ground = (node) => { for (; node; node = node.parentElement) {
        const color = getComputedStyle(node).backgroundColor;
        if ((parts(color)[3] ?? 1) === 1) return color;
    } };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const poor = [];
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
        const [one, other] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (other + 0.05);
        if (ratio < 4.5) poor.push([node.textContent.slice(0, 20), node.className, ratio]);
    }
    return poor;
})()"""


def test_light_and_dark(browser: Browser) -> None:
    """The page follows the system; all text has the contrast of WCAG 2.1 (1.4.3: 4.5), whatever its state."""
    states = ("starting", "degraded", "failed", "disabled", "ended")
    others = [ProbeStatus(state, "Counts.", state, "kprobe", "a reason") for state in states]
    grounds = []
    for dark in (False, True):
        with Host(HOSTILE_PROBE, hostile, *others) as host:
            browser.open(f"{host.url}#p", dark=dark)
            browser.when(f"{ROWS}.length")
            assert browser.value(CONTRAST) == []
            grounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(246, 247, 249)", "rgb(16, 21, 28)"]


def test_what_is_wrong(browser: Browser) -> None:
    """The banner names what is wrong, and what to do; the worst is said to a screen reader, and that it is over."""
    others = (
        ProbeStatus("xdp", "Counts.", "degraded", "xdp", "there is no default route: name the interfaces"),
        ProbeStatus("opens", "Counts.", "disabled", "", "it took 7.5 % of a core"),
    )

    def step(_: int, tables: list[Series]) -> None:
        for name in "abc":
            add(tables[0], (1,), name=name)

    few = probe(counter("ebpf_p_events_total", label("name", "comm")), max_series=2)
    with Host(few, step, *others) as host:
        host.health.config_good = False
        browser.open(host.url)
        browser.when("document.querySelectorAll('#problems li').length")
        found = browser.value(
            "[...document.querySelectorAll('#problems li')].map(one => [one.className, one.innerText])"
        )
        assert [(how, text.split("\n")[0]) for how, text in found] == [
            ("bad", "The config could not be read again; the former one goes on."),
            ("", "xdp is degraded: there is no default route: name the interfaces"),
            ("bad", "opens is disabled: it took 7.5 % of a core"),
            ("", "p: all series are taken; what is less active counts under (other)."),
        ]
        assert "ebpf-exporter check" in found[0][1]
        assert "ebpf-exporter doctor" in found[1][1]
        assert browser.value("document.title").startswith("⚠ ")
        assert browser.value("said.textContent").startswith("The config could not be read again")
        host.health.config_good = True
        del host.health.statuses["opens"]
        browser.when("said.textContent === 'No problems any more.'")
        assert not browser.value("document.title").startswith("⚠")


def test_away_and_back(browser: Browser) -> None:
    """While nobody answers the page says so, and keeps what it has; it goes on by itself."""
    with Host(HOSTILE_PROBE, hostile) as host:
        browser.open(f"{host.url}#p")
        browser.when(f"{ROWS}.length")
        browser.value(COUNT_TIMERS)
        host.vanish()
        browser.when("live.textContent === 'No answer' && pending.size")
        assert browser.value("window.after") == 2000  # however long no answer was waited for
        assert browser.value("document.querySelector('#problems li').textContent").startswith(
            "The exporter does not answer"
        )
        assert browser.value("said.textContent") == browser.value(
            "document.querySelector('#problems li span').textContent"
        )
        assert len(names(browser)) == len(HOSTILE)
        reads = host.reads
        host.answer()
        browser.when("live.textContent.startsWith('Live')")
        assert browser.value("document.getElementById('problems').hidden")
        assert host.reads > reads


def test_a_new_exporter(browser: Browser) -> None:
    """After a kill -9, and a start on the same port, the page goes on with the new one's values."""
    first = Daemon({"process_execs": {}})
    with first:
        browser.open(f"http://127.0.0.1:{first.port}/#process_execs")
        browser.when("live.textContent.startsWith('Live')")
        first.kill()
        browser.when("live.textContent === 'No answer'")
    with Daemon({"file_opens": {}}, listen=[f"127.0.0.1:{first.port}"]):
        browser.when("document.querySelector('#probes tbody button').textContent === 'file_opens'")
        assert browser.value("[live.textContent.startsWith('Live'), series.hidden]") == [True, True]


HIDE = """(Object.defineProperty(document, "hidden", { value: %s, configurable: true }),
    document.dispatchEvent(new Event("visibilitychange")))"""


def test_an_address_asks_for_probes_alone(browser: Browser) -> None:
    """What stands behind the # and is no probe's name is asked for nowhere."""
    with Host(HOSTILE_PROBE, hostile) as host:
        browser.open(f"{host.url}#../metrics")
        browser.when("live.textContent.startsWith('Live')")
        asked = browser.value("performance.getEntriesByType('resource').map(({ name }) => new URL(name).pathname)")
        assert set(asked) == {"/probes"}


def test_who_does_not_look_does_not_ask(browser: Browser) -> None:
    """A page that is paused, or behind another one, asks no more until it is looked at again."""
    with Host(HOSTILE_PROBE, hostile) as host:
        browser.open(host.url)
        browser.value(COUNT_TIMERS)
        for leave, back in (("pause.click()", "pause.click()"), (HIDE % "true", HIDE % "false")):
            browser.when("live.textContent.startsWith('Live') && pending.size === 1")
            browser.value(leave)
            assert browser.value("pending.size") == 0
            assert browser.value("live.textContent").startswith("Paused at") == ("pause" in leave)
            assert browser.value("pause.ariaPressed") == ("true" if "pause" in leave else "false")
            browser.value(back)


def test_a_password(browser: Browser) -> None:
    """Where the password is another one by now, the page says what to do."""
    with Host(HOSTILE_PROBE, hostile) as host:
        browser.open(host.url)
        browser.when("live.textContent.startsWith('Live')")
        browser.value("(window.fetch = () => Promise.resolve(new Response('', { status: 401 }))) && 0")
        browser.when("live.textContent === 'No answer'")
        assert browser.value("document.querySelector('#problems li').innerText").split("\n") == [
            "The exporter answers with status 401.",
            "Reload this page to log in.",
        ]
