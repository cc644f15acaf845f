"""What the commands that read the history share: their options, opening it, printing what it answers."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pytest_browserpool import options
from pytest_browserpool.commands.project import configured_history

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duckdb import DuckDBPyConnection

DEFAULT_DB = Path(options.DEFAULT_DB)
"""Where ``pytest --browserpool`` writes, under the rootdir; commands look under the current directory and those above it."""


def _nearest(context: click.Context, parameter: click.Parameter, given: Path) -> Path:
    """The history of the project that the current directory is in, where ``--db`` names none."""
    if context.get_parameter_source(str(parameter.name)) is not ParameterSource.DEFAULT:
        return given
    if (configured := configured_history(Path.cwd())) is not None:
        return configured
    if given.exists():
        return given
    above = (directory / given for directory in Path.cwd().parents)
    return next((path for path in above if path.exists()), given)


db_option = click.option(
    "--db",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_DB,
    show_default=True,
    callback=_nearest,
    help="The history, a DuckDB file; without it that of the project around this directory, as its browserpool_db says.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def known_runs(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """For shell completion: the last runs whose id begins so; none where the history cannot be read."""
    from pytest_browserpool.errors import HistoryError
    from pytest_browserpool.store import queries
    from pytest_browserpool.store.connect import reading

    try:
        with reading(context.params.get("db") or DEFAULT_DB, deadline=1.0) as con:
            runs = [str(row["run_id"]) for row in queries.latest_runs(con, 50)]
    except HistoryError:
        return []
    return [run for run in runs if run.startswith(incomplete)]


run_argument = click.argument("run", required=False, shell_complete=known_runs)
"""RUN of the commands: an id or its beginning; completed from the history."""


def printed(rows: Sequence[dict[str, Any]], *, as_json: bool, columns: Sequence[str]) -> None:
    """Print ``rows`` as a JSON list with everything, or as a table of ``columns``."""
    if as_json:
        click.echo(json.dumps(rows, default=_plain, indent=2))
        return
    from rich.table import Table

    from pytest_browserpool.commands.output import console

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        number = any(isinstance(row[name], (int, float)) and not isinstance(row[name], bool) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_words(row[name]) for name in columns))
    console().print(table if rows else "nothing recorded")


def _plain(value: Any) -> str:
    return value.isoformat() + "Z" if isinstance(value, datetime) else str(value)


def _words(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return escape(str(value))


def answer(
    db: Path,
    question: Callable[[DuckDBPyConnection], list[dict[str, Any]]],
    *,
    as_json: bool,
    columns: Sequence[str],
) -> None:
    """Open the history, ask, print. Raises HistoryError where that cannot be."""
    from pytest_browserpool.store.connect import reading

    with reading(db) as con:
        rows = question(con)
    tell_what_waits(db)
    printed(rows, as_json=as_json, columns=columns)


def tell_what_waits(db: Path) -> None:
    """Say on standard error that an answer may lack the latest rows: those that lie in spool files."""
    from pytest_browserpool.store import spool

    if count := len(spool.pending(db)):
        files = "a spool file" if count == 1 else f"{count} spool files"
        click.echo(
            f"the latest rows of a run that goes on, or was killed, lie in {files}: they come into the history soon, "
            "or with browserpool verify --repair",
            err=True,
        )
