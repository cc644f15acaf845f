"""``browserpool report``: the run section of the HTML report, made later from the history."""

from __future__ import annotations

from pathlib import Path

import click

from pytest_browserpool.commands.history import db_option


@click.command
@click.argument("run", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; browserpool-RUN.html if left out.",
)
@db_option
def report(run: str | None, output: Path | None, db: Path) -> None:
    """Write an HTML page about RUN (an id or its beginning; the last run if left out): one file, no network.

    \b
    Examples:
      browserpool report
      browserpool report 20260101T120000Z -o nightly.html
    """
    from pytest_browserpool.report import render
    from pytest_browserpool.report.view import build_view
    from pytest_browserpool.store import queries
    from pytest_browserpool.store.connect import reading

    with reading(db) as con:
        run_id = queries.find_run(con, run)
        rows = queries.rows_of_run(con, run_id)
    output = output or Path(f"browserpool-{run_id}.html")
    output.write_text(render.page(build_view(rows)), encoding="utf-8")
    click.echo(str(output))


command = report
