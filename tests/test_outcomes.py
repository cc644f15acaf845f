"""Reports reach the reporters once, in order, and not before they are final."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_browserpool.outcomes import ReportGate


class Reporters:
    """What was passed on, as ``test phase outcome``."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.gate = ReportGate(lambda node, rep: self.seen.append(said(rep)))

    def runs(self, test: str, *, call: Any = "passed", teardown: Any = "passed") -> None:
        for rep in reports(test, call=call, teardown=teardown):
            self.gate.on_report("gw0", rep)


def said(rep: pytest.TestReport) -> str:
    return f"{rep.nodeid} {rep.when} {rep.outcome}"


def report(test: str, when: Any, outcome: Any = "passed") -> pytest.TestReport:
    return pytest.TestReport(test, (test, None, test), {}, outcome, None, when)


def reports(test: str, *, call: Any = "passed", teardown: Any = "passed") -> list[pytest.TestReport]:
    return [report(test, "setup"), report(test, "call", call), report(test, "teardown", teardown)]


def test_a_test_is_passed_on_when_it_is_complete_and_its_teardown_when_the_next_is() -> None:
    to = Reporters()
    to.runs("a")
    assert to.seen == []
    to.gate.on_complete("gw0")
    assert to.seen == ["a setup passed", "a call passed"]
    to.runs("b")
    assert len(to.seen) == 2
    to.gate.on_complete("gw0")
    assert to.seen[2:] == ["a teardown passed", "b setup passed", "b call passed"]
    assert to.gate.drop("gw0") == []
    assert to.seen[5:] == ["b teardown passed"]


def test_while_the_next_runs_long_the_one_before_is_settled() -> None:
    to = Reporters()
    to.runs("a")
    to.gate.on_complete("gw0")
    to.gate.settle()
    assert to.seen[2:] == [], "a wider fixture's teardown may still fail under its name"
    to.gate.on_report("gw0", report("b", "setup"))
    to.gate.settle()
    assert to.seen[2:] == ["a teardown passed"]
    assert [said(rep) for rep in to.gate.drop("gw0")] == ["b setup passed"]


def test_at_the_end_each_completed_test_is_whole() -> None:
    to = Reporters()
    to.runs("a")
    to.gate.on_complete("gw0")
    to.gate.on_report("gw0", report("b", "setup"))
    to.gate.end()
    assert to.seen == ["a setup passed", "a call passed", "a teardown passed"]
    assert len(to.gate.drop("gw0")) == 1


def test_the_error_of_a_wider_fixtures_teardown_takes_the_place_of_its_tests() -> None:
    to = Reporters()
    to.runs("a")
    to.gate.on_complete("gw0")
    to.gate.on_report("gw0", report("a", "teardown", "failed"))
    to.runs("b")
    to.gate.on_complete("gw0")
    assert [line for line in to.seen if "teardown" in line] == ["a teardown failed"]


@pytest.mark.parametrize(
    ("call", "teardown", "passed"),
    [("passed", "passed", True), ("failed", "passed", False), ("passed", "failed", False)],
)
def test_only_what_passed_cannot_end_the_run(call: str, teardown: str, passed: bool) -> None:
    to = Reporters()
    assert not to.gate.passed("gw0")
    to.runs("a", call=call, teardown=teardown)
    assert to.gate.passed("gw0") is passed
