"""A pytest plugin for all runners in Python: when each test begins and how it ends, in the process that runs it."""

from __future__ import annotations

import pytest
from suite import record


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    record("begin", test=item.callspec.params["case"].id, browser=item.callspec.params["case"].browser)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown" and not hasattr(report, "node"):
        record("end", test=report.nodeid)
