"""An analysis as ``browserpool analyze`` prints it: what matters first, then the tables behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from pytest_browserpool.analysis.best import BEST, OPEN, TIE, Best
from pytest_browserpool.analysis.examine import (
    Analysis,
    came_line,
    gain_words,
    regression_line,
    top_recommendation,
)
from pytest_browserpool.analysis.recommend import count_of, factor, short

if TYPE_CHECKING:
    from rich.console import Console

    from pytest_browserpool.analysis.intervals import Interval
    from pytest_browserpool.analysis.regress import Comparison

COLOURS = {"critical": "bold red", "major": "red", "moderate": "yellow", "minor": "yellow", "notice": "dim"}


def show(found: Analysis, console: Console) -> None:
    """Print everything; a part that has nothing to say says so in a line."""
    if not found.runs:
        console.print("no finished run with tests in this window")
        return
    console.print(f"[bold]{count_of(found.runs, 'run')}[/bold], {found.first} to {found.last}")
    top = top_recommendation(found)
    if top:
        console.print(f"[bold]what matters most[/bold]: {escape(top)}")
    _changes(found.comparison, console)
    _best(found.models, "model", console)
    _best(found.types, "type", console)
    _nodes(found, console)
    _faults(found, console)
    _recommendations(found, console)
    for came in found.came:
        console.print(f"  {escape(came_line(came))}")


def _title(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def _changes(comparison: Comparison, console: Console) -> None:
    _title(console, "changes for the worse")
    if not comparison.before or not comparison.after:
        console.print("  not enough data: one more run, and it can be compared with this one")
        return
    before, after = count_of(len(comparison.before), "run"), count_of(len(comparison.after), "run")
    what = f"{before} before with {after} since, {count_of(comparison.compared, 'comparison')}"
    for change in comparison.regressions:
        colour = COLOURS[change.severity]
        console.print(f"  [{colour}]{change.severity:<9}[/{colour}] {escape(regression_line(change))}")
    if not comparison.regressions:
        console.print(f"  none that shows: {what}")
    else:
        console.print(f"  ({what}; all together wrong with 5 % at most)")
    if any(change.provisional for change in comparison.regressions):
        console.print(
            "  a notice is one run against one: the machine alone may have done it. Run again to know"
        )
    if comparison.more_runs:
        console.print(
            f"  not enough data to trust changes between runs: {count_of(comparison.more_runs, 'more run')}"
        )
    better = [f"{regression_line(change)}" for change in comparison.improvements]
    for line in better:
        console.print(f"  [green]better[/green]    {escape(line)}")


def _best(found: Sequence[Best], word: str, console: Console) -> None:
    if not found:
        return
    _title(console, f"best way to run each {word}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        (word, "left"),
        ("way", "left"),
        ("a call", "right"),
        ("times the best", "left"),
        ("", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for best in found:
        calls = milliseconds(best.typical_ms) if not best.of_type else ""
        table.add_row(escape(short(best.subject)), str(best.way), calls, "", escape(verdict_words(best)))
        for rival in best.rivals:
            typical = milliseconds(rival.typical_ms) if not best.of_type else ""
            word_ = (
                "slower" if rival.slower else "as good" if rival.ratio.within() else _more(rival.more_blocks)
            )
            table.add_row("", str(rival.way), typical, ratio_words(rival.ratio), word_)
        for way in best.apart:
            table.add_row("", str(way), "", "", "never in one run with it")
    console.print(table)


def verdict_words(best: Best) -> str:
    """The verdict on one subject, in a few words."""
    if best.verdict == BEST:
        return f"best ({count_of(best.blocks, 'run')} beside others)"
    if best.verdict == TIE:
        return "best, and others are within 10 % of it"
    if best.verdict == OPEN:
        runs = "hundreds more runs" if best.more_runs is None else count_of(best.more_runs, "more run")
        return f"looks best; not enough data: {runs} would probably do"
    return "no other way was measured in the same runs"


def _more(blocks: int | None) -> str:
    return "not settled" if blocks is None else f"not settled: {count_of(blocks, 'more run')}"


def ratio_words(ratio: Interval) -> str:
    """``1.42 (1.30 – 1.55)``; without limits where there are none."""
    if not ratio.known:
        return f"{factor(ratio.middle)} (? – ?)"
    return f"{factor(ratio.middle)} ({factor(ratio.low)} – {factor(ratio.high)})"


def milliseconds(value: float) -> str:
    return (
        f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"
    )


def _nodes(found: Analysis, console: Console) -> None:
    spread = found.spread
    if spread is not None:
        _title(console, "load over nodes")
        runs = count_of(spread.runs, "run")
        console.print(f"  {spread.nodes} nodes, {runs}: idle {share(spread.idle)} of the time")
        console.print(f"  the busiest has {share(spread.busiest)} more work than the mean")
        if spread.longest:
            long = f"{100 * spread.longest_share:.0f} % of the run"
            console.print(f"  the longest test takes {long}: {escape(short(spread.longest))}")
        if not spread.enough:
            console.print(f"  not enough data: {count_of(3 - spread.runs, 'more run')}")
    if found.mix:
        _title(console, "browsers in a run")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("browser", "of test time", "nodes", "launches", "in tests", "in set-up", "runs"):
            table.add_column(name, justify="left" if name in ("browser", "of test time") else "right")
        for part in found.mix:
            numbers = (
                f"{part.nodes:g}",
                f"{part.launches:g}",
                f"{part.busy_s:.1f} s",
                f"{part.setup_s:.1f} s",
            )
            table.add_row(escape(part.browser), share(part.share), *numbers, str(part.runs))
        console.print(table)


def share(interval: Interval) -> str:
    """``34 % (27 – 42)``; ``–`` of tests that took no time at all."""
    if math.isnan(interval.middle):
        return "–"
    limits = f" ({100 * interval.low:.0f} – {100 * interval.high:.0f})" if interval.known else ""
    return f"{100 * interval.middle:.0f} %{limits}"


def _faults(found: Analysis, console: Console) -> None:
    if not found.flaky:
        return
    _title(console, "tests that met a fault")
    for each in found.flaky:
        limits = f"{100 * each.low:.1f} – {100 * each.high:.1f} %"
        words = f"  {each.browser}: {each.faulty} of {count_of(each.tests, 'test')} ({limits})"
        if each.faulty:
            words += f" in {count_of(each.runs, 'run')}: {', '.join(each.kinds)}"
        if each.worse:
            words += "; more than the other browsers"
        elif not each.enough:
            words += "; too few tests to say more"
        console.print(escape(words))
        if each.models:
            names = ", ".join(short(model) for model in each.models)
            console.print(escape(f"    in some runs and not in others: {names}"))


def _recommendations(found: Analysis, console: Console) -> None:
    _title(console, "what to do")
    for made in found.recommendations:
        how = "[green]apply[/green] " if made.appliable else "advice"
        console.print(f"  {how}  {escape(made.title + gain_words(made))}")
        console.print(f"          [dim]{escape(made.evidence)}[/dim]")
    if any(made.appliable for made in found.recommendations):
        console.print("  browserpool apply --dry-run shows what would be set")
    elif not found.recommendations:
        console.print("  nothing that the data supports")
    if found.came:
        _title(console, "what was applied, and what came of it")
