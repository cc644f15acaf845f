"""The columns, the run section and the attachments in a real pytest-html report, made with xdist."""

from __future__ import annotations

import base64
import html
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import sys, pytest
sys.path.insert(0, {here!r})

def pytest_configure(config):
    from pytest_browserpool.report.crashed import CrashedTests
    from pytest_browserpool.report.final import FinalView
    from pytest_browserpool.report.pytest_html import HtmlReport, is_active
    if is_active(config):
        import report_samples
        config.pluginmanager.register(HtmlReport(FinalView(report_samples.sample_run, lambda: ["<b>told</b> once"])))
        config.pluginmanager.register(CrashedTests(config))

@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    from pytest_browserpool.report.crashed import close_crashed_row
    close_crashed_row(report)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if "uses" in item.name:
        report.browserpool = {{
            "browser": "chromium", "browser_version": "156.0", "backend": "webgpu", "node": "",
            "latency_ms": 12.5 if "fast" in item.name else 112.0, "recoveries": 1, "degraded": "slow" in
            item.name,
            "placement": {{"WebGPU": 3}}, "unknown_to_this_version": 1,
        }}
        if report.failed:
            report.browserpool["console"] = ["log: before", "error: <script>alert(1)</script>"]
            report.browserpool["page_errors"] = ["TypeError: x is not a function"]
            report.browserpool["screenshot"] = {picture!r}
    return report
"""

TESTS = r"""
import os, signal, pytest

def test_uses_fast(): pass
def test_uses_slow(): pass
def test_uses_and_fails(): assert 0
@pytest.mark.parametrize("v", ["<img src=x onerror=alert(1)>", "\\x"], ids=str)
def test_uses_names(v): assert 0
def test_uses_nothing_else(): pass
def test_plain(): pass
def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
@pytest.fixture
def broken(): raise RuntimeError("set-up")
def test_uses_broken_fixture(broken): pass
@pytest.mark.skip(reason="no")
def test_skipped(): pass
"""


def png(width: int = 40, height: int = 20) -> str:
    """A small plain PNG, base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = b"".join(b"\0" + b"\x30\x80\xd0" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one run with ``-n 2``; kept as a file, for the browsers' tests too."""
    import subprocess
    import sys

    directory = tmp_path_factory.mktemp("report")
    (directory / "conftest.py").write_text(CONFTEST.format(here=str(Path(__file__).parent), picture=png()))
    (directory / "test_sample.py").write_text(TESTS)
    (directory / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:browserpool", "-n", "2", "--html=r.html", "-q"]
    done = subprocess.run(
        [*command, "--self-contained-html"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "INTERNALERROR" not in done.stdout, done.stdout
    assert "4 failed, 4 passed, 1 skipped, 1 error" in done.stdout, done.stdout
    return directory / "r.html"


def rows_of(page: str) -> list[dict[str, Any]]:
    blob = re.search(r'data-jsonblob="([^"]*)"', page)
    assert blob is not None
    return [row for group in json.loads(html.unescape(blob[1]))["tests"].values() for row in group]


def row(page: str, part: str) -> dict[str, Any]:
    (found,) = [r for r in rows_of(page) if part in html.unescape(str(r["testId"]))]
    return found


def text(cell: str) -> str:
    return re.sub("<[^>]*>", "", re.sub(r"<span hidden>.*?</span>", "", cell))


def cells(page: str, part: str) -> list[str]:
    return [text(cell) for cell in row(page, part)["resultsTableRow"]]


def test_every_test_has_one_row(report: Path) -> None:
    assert len(rows_of(report.read_text())) == 10


def test_columns_say_what_ran_a_test(report: Path) -> None:
    page = report.read_text()
    heads = re.findall(r'<th class="sortable" data-column-type="(\w+)">', page)
    assert heads == ["result", "testId", "browser", "backend", "node", "latency", "recovery", "duration"]
    fast = cells(page, "test_uses_fast")
    assert fast[:4] == ["Passed", "test_sample.py::test_uses_fast", "chromium 156.0", "webgpu"]
    assert fast[4] in ("gw0", "gw1")
    assert fast[5:7] == ["12.5 ms", "1"]
    assert cells(page, "test_uses_slow")[3] == "webgpu (degraded)"
    plain = cells(page, "test_plain")
    assert plain[2:4] == ["", ""]
    assert plain[4] in ("gw0", "gw1")


def test_columns_sort_as_numbers_with_empty_ones_last(report: Path) -> None:
    page = report.read_text()
    fast, slow, plain = (
        row(page, name)["latency"] for name in ("test_uses_fast", "test_uses_slow", "test_plain")
    )
    assert fast < slow < plain  # pytest-html compares these strings


def test_a_failure_shows_console_errors_and_screenshot(report: Path) -> None:
    failed = row(report.read_text(), "test_uses_and_fails")
    console = "".join(e["content"] for e in failed["extras"] if e["format_type"] == "html")
    assert "Browser console (2)" in console
    assert "TypeError: x is not a function" in console
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in console
    assert "<script>" not in console
    (picture,) = [e for e in failed["extras"] if e["format_type"] == "image"]
    assert picture["content"] == f"data:image/png;base64,{png()}"
    assert row(report.read_text(), "test_uses_fast")["extras"] == []


def test_a_failed_setup_has_its_browser_and_console(report: Path) -> None:
    broken = row(report.read_text(), "test_uses_broken_fixture")
    assert broken["result"] == "Error"
    assert text(broken["resultsTableRow"][2]) == "chromium 156.0"
    assert len(broken["extras"]) == 3


def test_the_crashed_test_is_there(report: Path) -> None:
    assert cells(report.read_text(), "test_dies")[0] == "Failed"


def test_what_comes_from_tests_is_escaped(report: Path) -> None:
    page = report.read_text()
    named = row(page, "onerror")
    assert "&lt;img src=x onerror=alert(1)&gt;" in named["resultsTableRow"][1]
    section = page[page.index('<section class="bp"') : page.index("</section>")]
    assert "&lt;b&gt;told&lt;/b&gt; once" in section
    assert "<script>" not in section  # ours come after it
    assert "<script>document" not in page
    assert "&lt;script&gt;document.title=" in section


def test_the_run_section_is_there_once(report: Path) -> None:
    page = report.read_text()
    assert page.count('<section class="bp"') == 1
    assert "Run sample-run" in page
    assert page.count('id="bp-data"') == 1
    assert not re.search(
        r'(src|href)="(https?:)?//', page.replace('href="https://pypi.python.org/pypi/pytest-html"', "")
    )
