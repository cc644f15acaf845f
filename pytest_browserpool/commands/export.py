"""``browserpool export``: the history as Parquet files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pytest_browserpool.commands.asking import db_option, json_option, tell_what_waits


@click.command
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--run", "runs", multiple=True, help="Only this run (an id or its beginning); repeatable.")
@db_option
@json_option
def export(directory: Path, runs: tuple[str, ...], db: Path, as_json: bool) -> None:
    """Write the history to DIRECTORY as Parquet: a file for each table, and for the views most questions start from.

    Files that are there are replaced.

    Exit status: 0 written, 1 the history or the directory cannot be used, 2 wrong usage.

    \b
    Examples:
      browserpool export history-parquet
      browserpool export one-run --run 20260101T120000Z
      python -c "import pandas; print(pandas.read_parquet('history-parquet/operations.parquet').describe())"
    """
    from pytest_browserpool.store import queries
    from pytest_browserpool.store.connect import reading
    from pytest_browserpool.store.export import export as write

    with reading(db) as con:
        tell_what_waits(db)
        wanted = [queries.find_run(con, run) for run in runs] or None
        written = write(con, directory, wanted)
    if as_json:
        click.echo(json.dumps([{"path": str(file.path), "rows": file.rows} for file in written], indent=2))
        return
    for file in written:
        click.echo(f"{file.rows:>9}  {file.path}")


command = export
