"""Two runs side by side: what changed in figures, models and tests. Pure.

A pair of runs shows what happened, not what is significant: ``browserpool analyze`` tests for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pytest_browserpool.records import TestRecord
from pytest_browserpool.report.charts import lanes_data, rounded, tests_data
from pytest_browserpool.report.lines import ModelLine
from pytest_browserpool.report.view import FAILED, PASSED, RunView

CHANGES = ("broken", "mended", "new", "gone", "slower", "quicker", "same")
"""In the order in which tests are listed."""

NOTABLE = 1.25
"""Times as long or as short that a test must take to be called slower or quicker: single runs vary by a tenth or two."""

NOTABLE_S = 0.1
"""Seconds that it must differ by on top: a quarter of five milliseconds is nothing."""


@dataclass(frozen=True, kw_only=True)
class FactPair:
    """One figure of both runs."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class ModelPair:
    """One model in one browser on one backend; milliseconds, None where the run has none."""

    model: str
    browser: str
    backend: str
    load_before: float | None
    load_after: float | None
    warm_before: float | None
    warm_after: float | None
    calls: tuple[int, int]
    nodeids: tuple[str, ...]

    @property
    def ratio(self) -> float | None:
        """Warm calls after ÷ before."""
        return self.warm_after / self.warm_before if self.warm_before and self.warm_after else None


@dataclass(frozen=True, kw_only=True)
class TestPair:
    """One test in both runs."""

    __test__ = False

    nodeid: str
    change: str
    """One of ``CHANGES``."""
    before: TestRecord | None
    after: TestRecord | None

    @property
    def difference_s(self) -> float:
        """Seconds that the test takes longer; 0 where it is in one run only."""
        return self.after.duration_s - self.before.duration_s if self.before and self.after else 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs: the first is what the second is measured by."""

    before: RunView
    after: RunView
    facts: tuple[FactPair, ...]
    models: tuple[ModelPair, ...]
    tests: tuple[TestPair, ...]

    def count(self, change: str) -> int:
        """Tests of that change."""
        return sum(pair.change == change for pair in self.tests)


def compare(before: RunView, after: RunView) -> Comparison:
    """``after`` beside ``before``."""
    tests = list(_tests(before, after))
    tests.sort(key=lambda pair: (CHANGES.index(pair.change), -abs(pair.difference_s), pair.nodeid))
    return Comparison(
        before=before,
        after=after,
        facts=_facts(before, after),
        models=_models(before, after),
        tests=tuple(tests),
    )


def _facts(before: RunView, after: RunView) -> tuple[FactPair, ...]:
    first, second = ({fact.name: fact for fact in view.facts} for view in (before, after))

    def told(name: str, facts: dict[str, Any]) -> str:
        fact = facts.get(name)
        return "–" if fact is None else f"{fact.value} ({fact.note})" if fact.note else fact.value

    return tuple(
        FactPair(name=name, before=told(name, first), after=told(name, second))
        for name in dict.fromkeys((*first, *second))
    )


def _models(before: RunView, after: RunView) -> tuple[ModelPair, ...]:
    def by_key(view: RunView) -> dict[tuple[str, str, str], ModelLine]:
        return {(line.model, line.browser, line.backend): line for line in view.models}

    first, second = by_key(before), by_key(after)
    pairs = []
    for key in sorted({*first, *second}):
        old, new = first.get(key), second.get(key)
        pairs.append(
            ModelPair(
                model=key[0],
                browser=key[1],
                backend=key[2],
                load_before=old.load_ms if old else None,
                load_after=new.load_ms if new else None,
                warm_before=old.warm_ms if old else None,
                warm_after=new.warm_ms if new else None,
                calls=(len(old.warm) if old else 0, len(new.warm) if new else 0),
                nodeids=tuple(dict.fromkeys((*(old.nodeids if old else ()), *(new.nodeids if new else ())))),
            )
        )
    return tuple(pairs)


def _tests(before: RunView, after: RunView) -> Iterable[TestPair]:
    first, second = ({test.nodeid: test for test in view.tests} for view in (before, after))
    for nodeid in dict.fromkeys((*first, *second)):
        old, new = first.get(nodeid), second.get(nodeid)
        yield TestPair(nodeid=nodeid, change=_change(old, new), before=old, after=new)


def _change(old: TestRecord | None, new: TestRecord | None) -> str:
    if old is None or new is None:
        return "new" if old is None else "gone"
    if new.outcome in FAILED and old.outcome not in FAILED:
        return "broken"
    if old.outcome in FAILED and new.outcome in PASSED:
        return "mended"
    if abs(new.duration_s - old.duration_s) < NOTABLE_S:
        return "same"
    if new.duration_s > NOTABLE * old.duration_s:
        return "slower"
    return "quicker" if old.duration_s > NOTABLE * new.duration_s else "same"


def compared_data(found: Comparison) -> dict[str, Any]:
    """What the page's script draws, with the tests in the order of the table."""
    place = {pair.nodeid: number for number, pair in enumerate(found.tests)}
    records = [pair.after or pair.before for pair in found.tests]
    return {
        "seconds": rounded(max(found.before.timeline.seconds, found.after.timeline.seconds)),
        "tests": tests_data([pair.nodeid for pair in found.tests], {r.nodeid: r for r in records if r}),
        "timelines": [lanes_data(view, place) for view in (found.before, found.after)],
        "panels": [],
        "pairs": [
            {
                "name": f"{pair.model} {pair.browser}/{pair.backend}",
                "before": rounded(pair.warm_before),
                "after": rounded(pair.warm_after),
                "tests": [place[nodeid] for nodeid in pair.nodeids if nodeid in place],
            }
            for pair in found.models
            if pair.ratio is not None
        ],
    }
