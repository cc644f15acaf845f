"""The report's pages in real browsers: they draw, complain of nothing, run nothing of a test's, and can be used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from bench_support import Bench

from pytest_browserpool.artefacts import charts
from pytest_browserpool.node.lease import leased
from pytest_browserpool.report import render
from pytest_browserpool.report.compare import compare
from pytest_browserpool.report.view import build_view

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))
import report_samples

WATCH = """
window.troubles = [];
addEventListener("error", (event) => troubles.push(String(event.message)));
addEventListener("unhandledrejection", (event) => troubles.push(String(event.reason)));
for (const level of ["error", "warn"]) console[level] = (...words) => troubles.push(words.join(" "));
"""


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    charts.fetch()


def opened(page: Any, html: str, directory: Path) -> None:
    (directory / "page.html").write_text(html, encoding="utf-8")
    page.add_init_script(WATCH)
    page.set_viewport_size({"width": 1200, "height": 900})
    page.goto((directory / "page.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.bp-plot svg').length > 0", timeout=20_000)


def shown(page: Any) -> int:
    found: int = page.evaluate("document.querySelectorAll('#bp-tests tbody tr:not([hidden])').length")
    return found


def column(page: Any, number: int) -> list[str]:
    script = (
        "(n) => [...document.querySelectorAll('#bp-tests tbody tr')].map((row) => row.cells[n].dataset.v)"
    )
    found: list[str] = page.evaluate(script, number)
    return found


def fits_a_narrow_screen(page: Any) -> None:
    """Wide tables scroll by themselves, the page does not."""
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_of_a_run_draws_filters_and_sorts(bench: Bench, kind: str, tmp_path: Path) -> None:
    rows = report_samples.sample_run()
    with leased(bench.node, browsers=[kind]) as page:
        opened(page, render.page(build_view(rows, [f"told {report_samples.EVIL}"])), tmp_path)
        drawn = page.evaluate(
            "[...document.querySelectorAll('.bp-plot')].map((e) => [e.dataset.chart, e.querySelectorAll('svg').length])"
        )
        assert {name for name, count in drawn if count} >= {
            "timeline-0", "panel-utilization", "panel-memory", "panel-queue", "latency", "expected", "forecast"
        }  # fmt: skip
        assert all(count for _, count in drawn)
        assert shown(page) == 60

        page.locator(".bp-spans rect[aria-label*=': passed in']").first.click()  # a bar of one test
        assert shown(page) == 1
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert shown(page) >= 1
        assert page.evaluate("document.activeElement.getAttribute('aria-label')")
        page.get_by_role("button", name="All tests again").click()
        assert shown(page) == 60

        page.locator(".bp-rows rect").first.click()  # a model in a browser
        assert 0 < shown(page) < 60
        page.keyboard.press("Escape")
        assert shown(page) == 60

        page.locator("#bp-search").fill("sample-vad_ firefox")
        assert 0 < shown(page) < 60
        page.locator("#bp-search").fill("")
        page.get_by_role("button", name="Duration").last.click()
        seconds = [float(value) for value in column(page, 6)]
        assert seconds == sorted(seconds)

        fits_a_narrow_screen(page)
        assert page.title() == "Run sample-run – pytest-browserpool"  # no test's script ran
        assert page.evaluate("troubles") == []


def test_two_runs_are_drawn_side_by_side(bench: Bench, tmp_path: Path) -> None:
    views = [build_view(report_samples.sample_run(seed=seed)) for seed in (7, 8)]
    with leased(bench.node, browsers=["chromium"]) as page:
        opened(page, render.comparison(compare(*views)), tmp_path)
        assert page.evaluate("document.querySelectorAll('.bp-plot svg').length") == 3
        page.locator(".bp-rows rect").first.click()
        assert 0 < shown(page) < page.evaluate("BP.data.tests.length")
        assert page.evaluate("troubles") == []


def test_a_click_filters_pytest_htmls_own_table(
    bench: Bench, tmp_path: Path, pytester: pytest.Pytester
) -> None:
    """The run section as the plugin puts it into pytest-html's page."""
    pytester.makepyfile(test_x="def test_one(): pass\ndef test_two(): assert 0\ndef test_three(): pass")
    done = pytester.runpytest_subprocess(
        "--browserpool", "-p", "no:cacheprovider", "--html=page.html", timeout=120
    )
    done.assert_outcomes(passed=2, failed=1)
    with leased(bench.node, browsers=["chromium"]) as page:
        opened(page, (pytester.path / "page.html").read_text(encoding="utf-8"), tmp_path)
        visible = (
            "document.querySelectorAll('#results-table tbody.results-table-row:not(.bp-left-out)').length"
        )
        assert page.evaluate(visible) == 3
        page.locator(".bp-spans rect[role=button]").nth(
            1
        ).focus()  # too narrow to be hit: the tests took no time
        page.keyboard.press("Enter")
        assert page.evaluate(visible) == 1
        page.locator("th[data-column-type=duration]").click()  # pytest-html draws its rows anew
        page.wait_for_function(f"{visible} === 1", timeout=5000)
        page.get_by_role("button", name="All tests again").click()
        assert page.evaluate(visible) == 3
        fits_a_narrow_screen(page)
        assert page.evaluate("troubles") == []
