"""The HTML report: what is in it, and what Chromium makes of it. Without Chromium those tests skip."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("plotly")
pytest.importorskip("jinja2")
pytest.importorskip("scipy")

from kabench import LoadPlan, compare, run
from kabench.agent import AgentOptions
from kabench.comparison.thresholds import BROKEN, Outcome
from kabench.report.html import _as_script, html_of_comparison, html_of_run
from tests.comparison.figures import agent_run, result_of

if TYPE_CHECKING:
    from pathlib import Path

    from kabench.comparison.record import Comparison
    from kabench.result import RunResult

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")

PLAN = LoadPlan(duration_s=3.2, concurrency=8, delay_s=0.0, agent_options=AgentOptions(max_sockets=4))

WATCH = """<script>
window.seen = [];
window.gives_up_at = Date.now() + 50000;  // as the page's clock has it, which stands still while the page is at work
addEventListener("error", function (event) { seen.push("error: " + event.message); }, true);
addEventListener("unhandledrejection", function (event) { seen.push("rejection: " + event.reason); });
addEventListener("securitypolicyviolation", function (event) { seen.push("outside: " + event.blockedURI); });
console.error = console.warn = function () { seen.push("console: " + Array.from(arguments).join(" ")); };
addEventListener("load", function look() {
  var drawn = Array.from(document.querySelectorAll(".chart")).every(function (chart) {
    var svg = chart.querySelector("svg.main-svg");
    return svg && svg.getBoundingClientRect().width > 0;
  });
  if (!drawn && Date.now() < gives_up_at) { setTimeout(look, 50); return; }
  setTimeout(function () {
    var root = document.documentElement;
    ACT
    root.dataset.found = JSON.stringify({
      seen: seen,
      loaded: performance.getEntriesByType("resource").map(function (entry) { return entry.name; }),
      charts: Array.from(document.querySelectorAll(".chart")).map(function (chart) {
        var drawn = chart.querySelector("svg.main-svg");
        return [chart.id, chart.querySelectorAll(".trace").length, drawn ? drawn.getBoundingClientRect().width : 0];
      }),
      width: [root.scrollWidth, innerWidth],
      theme: root.dataset.theme,
      ink: getComputedStyle(document.body).color,
      open: document.querySelectorAll("details[open]").length
    });
  }, 300);
});
</script>"""


class Elements(HTMLParser):
    """What links out of a page there are, and its tables and charts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tables = 0
        self.charts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [value for name in ("src", "href", "action", "data") if (value := given.get(name))]
        self.tables += tag == "table"
        if (given.get("id") or "").startswith("chart-"):
            self.charts.append(str(given["id"]))


@pytest.fixture(scope="module")
def result() -> RunResult:
    return run(PLAN, ["keepalive", "plain"])


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    plan = LoadPlan(requests=30, concurrency=6, delay_s=0.0)
    return compare(plan, ["keepalive", "plain", "keepalive"], trials=2)


def opened(page: str, folder: Path, *options: str, act: str = "") -> dict[str, Any]:
    """What Chromium found when it opened the page."""
    path = folder / "page.html"
    path.write_text(page.replace("<head>", "<head>" + WATCH.replace("ACT", act), 1), "utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=60000",
            *(options or ("--window-size=1100,900",)),
            "--dump-dom",
            f"file://{path}",
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@needs_chromium
def test_a_run_opens_without_errors_and_loads_nothing(result: RunResult, tmp_path: Path) -> None:
    found = opened(html_of_run(result), tmp_path)
    assert found["seen"] == []
    assert found["loaded"] == []
    assert [chart for chart, *_ in found["charts"]] == [
        "chart-percentiles",
        "chart-over-time",
        "chart-histogram",
        "chart-phases",
    ]
    assert all(traces >= 2 and width > 700 for _, traces, width in found["charts"])


@needs_chromium
def test_a_comparison_opens_without_errors_and_loads_nothing(comparison: Comparison, tmp_path: Path) -> None:
    found = opened(html_of_comparison(comparison), tmp_path)
    assert found["seen"] == []
    assert found["loaded"] == []
    assert [chart for chart, *_ in found["charts"]][:2] == ["chart-trials", "chart-percentiles"]
    assert all(traces >= 3 for _, traces, _ in found["charts"])


@needs_chromium
def test_it_can_be_read_on_a_narrow_screen(comparison: Comparison, tmp_path: Path) -> None:
    found = opened(html_of_comparison(comparison), tmp_path, "--window-size=500,900")
    scrolled, inner = found["width"]
    assert scrolled <= inner
    assert all(width <= inner for _, _, width in found["charts"])


@needs_chromium
def test_it_is_dark_where_people_like_it_dark_and_light_on_paper(result: RunResult, tmp_path: Path) -> None:
    page = html_of_run(result)
    dark = opened(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert (dark["theme"], dark["ink"]) == ("dark", "rgb(230, 234, 239)")
    act = """
    dispatchEvent(new Event('beforeprint'));
    seen.push(root.dataset.theme, document.querySelectorAll("details[open]").length);
    dispatchEvent(new Event('afterprint'));
    """
    printed = opened(page, tmp_path, "--blink-settings=preferredColorScheme=0", act=act)
    assert printed["seen"] == ["light", 4]  # on paper, with the table behind each chart
    assert (printed["theme"], printed["open"]) == ("dark", 0)


@needs_chromium
def test_the_button_changes_the_theme(result: RunResult, tmp_path: Path) -> None:
    found = opened(html_of_run(result), tmp_path, act="document.getElementById('theme').click();")
    assert found["theme"] == "dark"
    assert found["seen"] == []


def test_nothing_in_it_leads_outside(result: RunResult, comparison: Comparison) -> None:
    for page in (html_of_run(result), html_of_comparison(comparison)):
        elements = Elements(page)
        assert elements.addresses == ["data:,"]
        assert "default-src 'none'" in page


def test_every_chart_has_a_table_behind_it(result: RunResult) -> None:
    elements = Elements(html_of_run(result))
    assert len(elements.charts) == 4
    assert elements.tables == 1 + 4


def test_what_people_wrote_is_nothing_but_text() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    page = html_of_run(result_of([agent_run(evil, errors={evil: 1})], name=evil), [Outcome(evil, evil, evil, BROKEN)])
    assert "<script>alert(1)" not in page
    assert not set("<>&") & set(_as_script({"x": evil}))
    assert html.escape(evil) in page


def test_a_record_without_histograms_and_series_is_a_page_all_the_same() -> None:
    page = html_of_run(result_of([agent_run("keepalive")]))
    assert Elements(page).charts == []
    assert "1000.00/s" in page


def test_a_comparison_without_a_whole_trial_is_a_page_all_the_same(comparison: Comparison) -> None:
    empty = comparison.__class__(
        **{name: getattr(comparison, name) for name in comparison.__slots__} | {"runs": [], "trials": [], "metrics": []}
    )
    assert "3 agents" in html_of_comparison(empty) or Elements(html_of_comparison(empty)).charts == []


def test_broken_thresholds_and_intervals_are_in_it(comparison: Comparison) -> None:
    page = html_of_comparison(comparison, [Outcome("p99>5ms", "plain", "9.000 ms", BROKEN)])
    assert "p99&gt;5ms: plain has 9.000 ms" in page
    assert page.count('<svg role="img"') == 12
    assert "req_per_socket" in page
