"""``browserpool report``: the run section of the HTML report, made later from the history; or two runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pytest_browserpool.commands.asking import (
    db_option,
    json_option,
    known_runs,
    run_argument,
    tell_what_waits,
)


@click.command
@run_argument
@click.option(
    "--compare",
    "other",
    metavar="RUN2",
    shell_complete=known_runs,
    help="Show RUN2 beside RUN: what changed from RUN to RUN2.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; browserpool-RUN.html if left out.",
)
@db_option
@json_option
def report(run: str | None, other: str | None, output: Path | None, db: Path, as_json: bool) -> None:
    """Write an HTML page about RUN (an id or its beginning; the last run if left out): one file, no network.

    The chart library is fetched once, with npm, where it is not here yet. --json prints the path and what the page
    is about.

    Exit status: 0 written, 1 there is no such run or the history cannot be read, 2 wrong usage.

    \b
    Examples:
      browserpool report
      browserpool report 20260101T120000Z -o nightly.html
      browserpool report 20260101 --compare 20260102
    """
    from pytest_browserpool.errors import HistoryError
    from pytest_browserpool.report import render
    from pytest_browserpool.report.compare import compare
    from pytest_browserpool.report.view import build_view
    from pytest_browserpool.store import queries
    from pytest_browserpool.store.connect import reading

    with reading(db) as con:
        runs = [queries.find_run(con, wanted) for wanted in ([run, other] if other else [run])]
        views = [build_view(queries.rows_of_run(con, run_id)) for run_id in runs]
    tell_what_waits(db)
    _bring_charts()
    html = render.comparison(compare(*views)) if other else render.page(views[0])
    output = output or Path(f"browserpool-{'-'.join(runs)}.html")
    try:
        output.write_text(html, encoding="utf-8")
        size = output.stat().st_size
    except OSError as error:
        raise HistoryError(
            f"the report cannot be written to {output}: {error.strerror or error}",
            remedy="name another place with -o",
        ) from error
    click.echo(json.dumps({"path": str(output), "runs": runs, "bytes": size}) if as_json else str(output))


def _bring_charts() -> None:
    """Fetch the chart library if need be; without it the page has its tables, and says what is missing."""
    from pytest_browserpool.artefacts import charts
    from pytest_browserpool.errors import BrowserPoolError

    try:
        charts.fetch()
    except BrowserPoolError as error:
        click.echo(f"the page will have no charts: {error}", err=True)


command = report
