"""The whole analysis of one window of runs, and the one line of it that matters most. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_browserpool.analysis import best, flaky, nodes, recommend, regress
from pytest_browserpool.analysis.gain import Came
from pytest_browserpool.analysis.intervals import LEAST_BLOCKS
from pytest_browserpool.analysis.recommend import Recommendation, count_of, factor, short
from pytest_browserpool.analysis.samples import Samples
from pytest_browserpool.preferences import AppliedChange

LOUD = ("critical", "major")
"""Severities that go before any recommendation."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What ``browserpool analyze`` prints."""

    runs: int
    first: str
    last: str
    """Ids of the first and the last run of the window; empty without runs."""
    comparison: regress.Comparison
    models: tuple[best.Best, ...]
    types: tuple[best.Best, ...]
    spread: nodes.Spread | None
    mix: tuple[nodes.Portion, ...]
    flaky: tuple[flaky.Flaky, ...]
    recommendations: tuple[Recommendation, ...]
    came: tuple[Came, ...] = ()


def examine(
    samples: Samples, before: Sequence[str], after: Sequence[str], came: Sequence[Came] = ()
) -> Analysis:
    """Everything about the runs of ``samples``; changes are those from the runs ``before`` to the runs ``after``."""
    models = best.of_models(samples.calls)
    types = best.of_types(samples.calls)
    spread = nodes.spread(samples.runs, samples.shares)
    faults = flaky.browsers(samples.faulty)
    applied = {each.change.id: _sets(each.change) for each in came}
    return Analysis(
        runs=len(samples.runs),
        first=samples.runs[0].run if samples.runs else "",
        last=samples.runs[-1].run if samples.runs else "",
        comparison=regress.compare(samples, before, after),
        models=tuple(models),
        types=tuple(types),
        spread=spread,
        mix=tuple(nodes.mix(samples.shares)),
        flaky=tuple(faults),
        recommendations=tuple(
            made
            for made in recommend.recommendations(samples, models, types, spread, faults)
            if applied.get(made.id) != _sets(made)
        ),
        came=tuple(came),
    )


def _sets(what: AppliedChange | Recommendation) -> tuple[object, ...]:
    """What it sets: another way for the same model, another size of the pool is something new to recommend."""
    return what.prefer, what.max_browsers, dict(what.nodes)


def top_recommendation(analysis: Analysis) -> str | None:
    """One line: what matters most, or None where nothing does.

    In this order: a change for the worse that is major or critical, an applied recommendation that made things worse,
    the gain that came of one in its first three runs, the recommendation with the largest gain, any other regression,
    advice.
    """
    regressions = [c for c in analysis.comparison.regressions if not c.provisional]
    for change in regressions:
        if change.severity in LOUD:
            return regression_line(change)
    for came in analysis.came:
        if came.saved is not None and came.saved.known and came.saved.high < 0:
            return f"{came.change.title}: was applied and costs {-came.saved.middle:.1f} s a run; browserpool apply --undo"
    for came in analysis.came:
        if came.saved is not None and came.saved.blocks <= LEAST_BLOCKS:
            return came_line(came)
    for made in analysis.recommendations:
        if made.appliable:
            return f"{made.title}: {made.evidence}{gain_words(made)}; browserpool apply"
    for change in regressions:
        return regression_line(change)
    for made in analysis.recommendations:
        return f"{made.title} ({made.evidence})"
    return None


def regression_line(change: regress.Change) -> str:
    """A change in words: what, where, by how much, how sure."""
    where = short(change.subject) + (f" on {change.way}" if change.way else "")
    if change.metric == "errors":
        return f"{where}: {100 * change.before:.1f} % of tests met a fault, now {factor(change.ratio.middle)} × as many"
    word = "time per test" if change.metric == "throughput" else change.metric
    limits = (
        f" ({factor(change.ratio.low)} – {factor(change.ratio.high)})"
        if math.isfinite(change.ratio.low)
        else ""
    )
    since = count_of(change.runs_before, "earlier run")
    return f"{where}: {word} is {factor(change.ratio.middle)} × what it was{limits}, against {since}"


def came_line(came: Came) -> str:
    """One applied change: what was promised and what came."""
    expected = came.change.expected_s
    promised = f"expected to save {expected:.1f} s a run" if expected is not None else "no gain was promised"
    if came.saved is None:
        return f"{came.change.title}: {promised}; {came.verdict}"
    word, brought = ("saved", came.saved) if came.saved.middle >= 0 else ("cost", -came.saved)
    limits = f"{brought.low:.1f} – {brought.high:.1f}, " if brought.known else ""
    told = f"{word} {brought.middle:.1f} s a run ({limits}{count_of(brought.blocks, 'run')})"
    return f"{came.change.title}: {promised}, {told}: {came.verdict}"


def gain_words(made: Recommendation) -> str:
    """``, about 12 s a run (9 – 15)``, or ``up to`` where no limits are known; nothing where no gain can be said."""
    if made.gain_s is None:
        return ""
    if made.gain_low_s is None or made.gain_high_s is None:
        return f", up to {made.gain_s:.1f} s a run"
    return f", about {made.gain_s:.1f} s a run ({max(0.0, made.gain_low_s):.1f} – {made.gain_high_s:.1f})"
