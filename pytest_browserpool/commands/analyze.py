"""``browserpool analyze``: what the history says about browsers, backends, nodes and changes."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_browserpool.commands.asking import db_option, json_option, tell_what_waits

if TYPE_CHECKING:
    from pytest_browserpool.analysis import Analysis


@click.command
@click.option(
    "--since", help="Only runs since a time (7d, 12h), a date (2026-11-01) or a run; else the last 30."
)
@click.option(
    "--against",
    help="What to compare with: a run, or a version (of a browser, onnxruntime-web or this package) that ran; "
    "else the last run is compared with those before it.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 where something became worse (notices apart).")
@db_option
@json_option
def analyze(since: str | None, against: str | None, strict: bool, db: Path, as_json: bool) -> None:
    """Say which browser and backend is best for each model, what became worse, and what to do about it.

    Ways to run a model are compared only within the same runs, and every statement has an interval at 95 %
    confidence; where there is not enough data for one, it says how many more runs would probably do.

    Exit status: 0 analysed (1 with --strict where something became worse), 1 no history, or no such run or version.

    \b
    Examples:
      browserpool analyze
      browserpool analyze --since 7d --json
      browserpool analyze --against 20261101T0900      # what changed since that run
      browserpool analyze --against 'firefox 153.0' --strict
    """
    from pytest_browserpool import applied, findings
    from pytest_browserpool.store.connect import reading

    changes = applied.read(applied.path_of(db))
    with reading(db) as con:
        tell_what_waits(db)
        found = findings.look(con, since=since, against=against, changes=changes)
    if as_json:
        click.echo(json.dumps(plain(found), indent=2))
    else:
        from pytest_browserpool.commands.analysis_text import show
        from pytest_browserpool.commands.output import console

        show(found, console())
    if strict and any(not change.provisional for change in found.comparison.regressions):
        raise click.exceptions.Exit(1)


def plain(found: Analysis) -> dict[str, Any]:
    """The analysis as JSON has it: log ratios as ratios too, limits that are not known as null."""
    from pytest_browserpool.analysis import top_recommendation

    told: dict[str, Any] = _plain(found)
    return {"top": top_recommendation(found), **told}


def _plain(value: Any) -> Any:
    from pytest_browserpool.analysis.intervals import Interval
    from pytest_browserpool.analysis.samples import Way

    if isinstance(value, Way):
        return str(value)
    if isinstance(value, Interval):
        limits = {name: _plain(getattr(value, name)) for name in ("middle", "low", "high")}
        return {**limits, "blocks": value.blocks, "method": value.method}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name)) for name in (*names, *_derived(value))}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _derived(value: object) -> tuple[str, ...]:
    """Properties that say what the fields come to."""
    kind = type(value).__name__
    return {
        "Rival": ("slower",),
        "Best": ("as_good",),
        "Came": ("verdict",),
        "Recommendation": ("appliable",),
    }.get(kind, ())
