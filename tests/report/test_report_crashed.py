"""A worker that dies: its test is in the terminal, the HTML report and the JUnit XML once."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from pytest_browserpool.report.crashed import CrashedTests, close_crashed_row

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(CrashedTests(config), "crashed")

@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    close_crashed_row(report)
    {again}
"""

TESTS = """
import os, pathlib, signal, pytest

@pytest.mark.parametrize("i", range(4))
def test_sound(i):
    pass

def test_kills_its_worker():
    if {dies}:
        os.kill(os.getpid(), signal.SIGKILL)

def test_fails():
    assert 0
"""


def run(
    pytester: pytest.Pytester, *, again: bool
) -> tuple[pytest.RunResult, list[dict[str, object]], ET.Element]:
    flag = pytester.path / "was_here"
    dies = f"not pathlib.Path({str(flag)!r}).exists() and (pathlib.Path({str(flag)!r}).touch() or True)"
    pytester.makeconftest(
        CONFTEST.format(
            again="report.outcome = 'rerun'; sched.mark_test_pending(crashitem)" if again else "pass"
        )
    )
    pytester.makepyfile(TESTS.format(dies=dies if again else "True"))
    result = pytester.runpytest_subprocess(
        "-p",
        "no:browserpool",
        "-n",
        "2",
        "--html=r.html",
        "--self-contained-html",
        "--junitxml=r.xml",
        timeout=120,
    )
    page = (pytester.path / "r.html").read_text(encoding="utf-8")
    blob = re.search(r'data-jsonblob="([^"]*)"', page)
    assert blob is not None
    tests = json.loads(html.unescape(blob[1]))["tests"]
    rows = [row for group in tests.values() for row in group]
    return result, rows, ET.parse(pytester.path / "r.xml").getroot()


def names(root: ET.Element) -> list[str | None]:
    return sorted(case.get("name") or "" for case in root.iter("testcase"))


def test_a_crashed_test_is_shown_once(pytester: pytest.Pytester) -> None:
    result, rows, root = run(pytester, again=False)
    result.assert_outcomes(passed=4, failed=2)
    crashed = [row for row in rows if "test_kills_its_worker" in str(row["testId"])]
    assert [row["result"] for row in crashed] == ["Failed"]
    assert "crashed while running" in str(crashed[0]["log"])
    assert len(rows) == 6
    assert names(root) == sorted(
        [*(f"test_sound[{i}]" for i in range(4)), "test_fails", "test_kills_its_worker"]
    )
    suite = next(root.iter("testsuite"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "0")


def test_a_crashed_test_that_runs_again_is_shown_with_its_outcome(pytester: pytest.Pytester) -> None:
    result, rows, root = run(pytester, again=True)
    result.assert_outcomes(passed=5, failed=1)
    mine = [row["result"] for row in rows if "test_kills_its_worker" in str(row["testId"])]
    assert sorted(mine) == ["Passed", "Rerun"]
    assert names(root) == sorted(
        [*(f"test_sound[{i}]" for i in range(4)), "test_fails", "test_kills_its_worker"]
    )
    suite = next(root.iter("testsuite"))
    assert (suite.get("tests"), suite.get("failures")) == ("6", "1")
