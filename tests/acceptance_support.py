"""Runs pytest as a user does, in a process of its own, and reads what it reported in three places."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

DEADLINE = 240.0
"""Seconds for one run: the runs take two to five; ten times that and more on a busy machine."""


@dataclass
class Reported:
    """What one run said: on the terminal, in JUnit XML, in the HTML report."""

    result: pytest.RunResult
    directory: Path

    @property
    def terminal(self) -> dict[str, int]:
        return dict(self.result.parseoutcomes())

    @property
    def output(self) -> str:
        return self.result.stdout.str()

    @property
    def junit(self) -> dict[str, list[str]]:
        """Test name → its outcomes, one for each ``<testcase>``."""
        found: dict[str, list[str]] = {}
        for case in ET.parse(self.directory / "junit.xml").getroot().iter("testcase"):
            kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            found.setdefault(case.get("name", "(no name)"), []).append(kinds[0] if kinds else "passed")
        return found

    @property
    def html(self) -> dict[str, list[str]]:
        """Test name → its outcomes, one for each row."""
        text = (self.directory / "report.html").read_text()
        blob = re.search(r'data-jsonblob="([^"]*)"', text)
        assert blob is not None
        tests = json.loads(html.unescape(blob.group(1)))["tests"]
        found: dict[str, list[str]] = {}
        for rows in tests.values():
            for row in rows:
                name = row["testId"].split("::", 1)[-1].removesuffix("::setup").removesuffix("::teardown")
                found.setdefault(name, []).append(row["result"].lower())
        return found

    def total(self) -> int:
        return sum(
            count
            for word, count in self.terminal.items()
            if word in ("passed", "failed", "skipped", "errors", "error")
        )

    def once(self) -> Counter[str]:
        """JUnit's outcomes counted, after seeing that XML and HTML have each test exactly once."""
        assert {name: len(kinds) for name, kinds in self.junit.items() if len(kinds) != 1} == {}
        rows = {name: [kind for kind in kinds if kind != "rerun"] for name, kinds in self.html.items()}
        assert {name: len(kinds) for name, kinds in rows.items() if len(kinds) != 1} == {}
        assert set(self.junit) == set(self.html)
        return Counter(kinds[0] for kinds in self.junit.values())


class Runner:
    """``run("-n", "2")`` runs pytest with ``--browserpool`` in the test's own directory."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
            monkeypatch.delenv(name, raising=False)
        pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def suite(self, **modules: str) -> None:
        """Write test modules: ``test_x="..."``."""
        self.pytester.makepyfile(**modules)

    def __call__(self, *arguments: str, active: bool = True, reports: bool = True) -> Reported:
        args = ["-p", "no:cacheprovider", *(["--browserpool"] if active else []), *arguments]
        if reports:
            args += ["--junitxml=junit.xml", "--html=report.html", "--self-contained-html"]
        result = self.pytester.runpytest_subprocess(*args, timeout=DEADLINE)
        return Reported(result, self.pytester.path)
