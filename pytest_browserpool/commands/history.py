"""``browserpool history``: what is in the history, from the latest runs down to single operations."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duckdb import DuckDBPyConnection

DEFAULT_DB = Path(".browserpool") / "history.duckdb"
"""Where ``pytest --browserpool`` writes, under the rootdir; commands look under the current directory."""

db_option = click.option(
    "--db",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_DB,
    show_default=True,
    help="The history, a DuckDB file.",
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
    printed(rows, as_json=as_json, columns=columns)


@click.group(invoke_without_command=True)
@db_option
@json_option
@click.option("--limit", default=20, show_default=True, help="How many runs.")
@click.pass_context
def history(context: click.Context, db: Path, as_json: bool, limit: int) -> None:
    """Show what earlier runs recorded. Without a command: the latest runs.

    Times are UTC. The file can also be opened with any DuckDB client; docs/history.md describes its views.

    Exit status: 0 answered, 1 there is no such history or run, or it cannot be read, 2 wrong usage.

    \b
    Examples:
      browserpool history
      browserpool history tests              # of the last run
      browserpool history latency --backend webgpu
      browserpool history --json | jq '.[0].run_id'
    """
    if context.invoked_subcommand is not None:
        return
    from pytest_browserpool.store import queries

    columns = (
        "run_id",
        "started_at",
        "duration_s",
        "exit_status",
        "tests",
        "failed",
        "launches",
        "loads",
        "faults",
    )
    answer(db, lambda con: queries.latest_runs(con, limit), as_json=as_json, columns=columns)


@history.command("tests")
@run_argument
@db_option
@json_option
def tests_command(run: str | None, db: Path, as_json: bool) -> None:
    """The tests of RUN (an id or its beginning; the last run if left out).

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history tests 20260101 --json | jq -r '.[] | select(.outcome == "failed") | .test'
    """
    from pytest_browserpool.store import queries

    columns = (
        "test",
        "outcome",
        "node",
        "browser",
        "backend",
        "model",
        "duration_s",
        "latency_ms",
        "recoveries",
    )
    answer(
        db, lambda con: queries.results_of(con, queries.find_run(con, run)), as_json=as_json, columns=columns
    )


@history.command("latency")
@click.option("--run", help="Only this run (an id or its beginning).")
@click.option("--model", help="A model's id, label, or the beginning of its sha256.")
@click.option("--browser", help="A browser's name.")
@click.option("--backend", help="webgpu, webnn, webnn-gpu, webnn-npu or wasm.")
@db_option
@json_option
def latency_command(
    run: str | None, model: str | None, browser: str | None, backend: str | None, db: Path, as_json: bool
) -> None:
    """Median and 95th percentile of loads and calls by model, browser and backend.

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history latency --model vad --backend webgpu
    """
    from pytest_browserpool.store import queries

    def ask(con: DuckDBPyConnection) -> list[dict[str, Any]]:
        run_id = queries.find_run(con, run) if run else None
        return queries.latency(con, run_id=run_id, model=model, browser=browser, backend=backend)

    columns = (
        "model",
        "browser",
        "backend",
        "kind",
        "warm",
        "operations",
        "median_ms",
        "p95_ms",
        "page_median_ms",
    )
    answer(db, ask, as_json=as_json, columns=columns)


@history.command("operations")
@run_argument
@click.option("--test", help="Only this test (a node id).")
@click.option("--limit", default=1000, show_default=True, help="How many operations.")
@db_option
@json_option
def operations_command(run: str | None, test: str | None, limit: int, db: Path, as_json: bool) -> None:
    """Single loads and calls of RUN (the last run if left out).

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history operations --test tests/test_vad.py::test_silence
    """
    from pytest_browserpool.store import queries

    def ask(con: DuckDBPyConnection) -> list[dict[str, Any]]:
        return queries.operations_of(con, queries.find_run(con, run), test, limit)

    columns = (
        "started_at",
        "test",
        "node",
        "browser",
        "backend",
        "model",
        "kind",
        "warm",
        "latency_ms",
        "page_ms",
        "ok",
    )
    answer(db, ask, as_json=as_json, columns=columns)


@history.command("faults")
@run_argument
@db_option
@json_option
def faults_command(run: str | None, db: Path, as_json: bool) -> None:
    """The faults of RUN (the last run if left out) and what was done about them.

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history faults
    """
    from pytest_browserpool.store import queries

    columns = ("kind", "node", "browser", "nodeid", "strategy", "outcome", "recovery_ms", "detail")
    answer(
        db, lambda con: queries.faults_of(con, queries.find_run(con, run)), as_json=as_json, columns=columns
    )


@history.command("journal")
@run_argument
@click.option("--node", help="Only this node.")
@db_option
@json_option
def journal_command(run: str | None, node: str | None, db: Path, as_json: bool) -> None:
    """The transactions of RUN's nodes (the last run if left out): browsers, models, recovered operations.

    Recoveries step by step, and what a node that was lost, or a run that was killed, had under way.

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history journal
    """
    from pytest_browserpool.recovery.telling import lines
    from pytest_browserpool.store import queries

    def ask(con: DuckDBPyConnection) -> list[dict[str, Any]]:
        rows = queries.journal_of(con, queries.find_run(con, run), node)
        return [
            {**row, "changes": changes, "what": "\n".join(lines(changes))}
            for row in rows
            if (changes := json.loads(row["changes"])) and any(change[2] is not None for change in changes)
        ]

    answer(db, ask, as_json=as_json, columns=("at", "node", "number", "what"))


@history.command("applied")
@db_option
@json_option
def applied_command(db: Path, as_json: bool) -> None:
    """What runs used of what browserpool apply set, and what came of it: seconds saved in a run.

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history applied
    """
    from pytest_browserpool import findings

    def ask(con: DuckDBPyConnection) -> list[dict[str, Any]]:
        return [
            {
                "id": came.change.id,
                "title": came.change.title,
                "applied_at": datetime.fromtimestamp(came.change.applied_at, UTC).replace(tzinfo=None),
                "runs": came.runs,
                "expected_s": came.change.expected_s,
                "came_s": came.saved.middle if came.saved else None,
                "verdict": came.verdict,
            }
            for came in findings.ever_applied(con)
        ]

    columns = ("id", "title", "applied_at", "runs", "expected_s", "came_s", "verdict")
    answer(db, ask, as_json=as_json, columns=columns)


@history.command("learned")
@db_option
@json_option
def learned_command(db: Path, as_json: bool) -> None:
    """What the scheduler starts from: typical seconds of launches, loads and runs in recent runs.

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history learned --json
    """
    from pytest_browserpool.store import queries

    columns = ("host", "browser", "backend", "model", "what", "median_s", "measurements")
    answer(db, queries.typical_times, as_json=as_json, columns=columns)


@history.command("forecasts")
@run_argument
@db_option
@json_option
def forecasts_command(run: str | None, db: Path, as_json: bool) -> None:
    """What the scheduler foresaw of each browser's next minute in RUN (the last run if left out), and what came.

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history forecasts
    """
    from pytest_browserpool.store import queries

    columns = (
        "at",
        "browser",
        "utilization",
        "came",
        "as_last_minute",
        "active_models",
        "overloaded",
        "confidence",
    )
    answer(
        db,
        lambda con: queries.forecasts_of(con, queries.find_run(con, run)),
        as_json=as_json,
        columns=columns,
    )


@history.command("moved")
@run_argument
@db_option
@json_option
def moved_command(run: str | None, db: Path, as_json: bool) -> None:
    """The tests of RUN (the last run if left out) that ran on another node than first planned.

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history moved
    """
    from pytest_browserpool.store import queries

    columns = ("at", "nodeid", "from_node", "to_node", "expected_there_s", "took_s", "useful")
    answer(
        db, lambda con: queries.moved_in(con, queries.find_run(con, run)), as_json=as_json, columns=columns
    )


@history.command("metrics")
@run_argument
@click.option("--name", help="Only this series, such as cpu_percent or utilization.")
@db_option
@json_option
def metrics_command(run: str | None, name: str | None, db: Path, as_json: bool) -> None:
    """The series of RUN (the last run if left out): how many samples, lowest, mean, highest and last.

    Exit status: as browserpool history.

    \b
    Example:
      browserpool history metrics --name memory_bytes
    """
    from pytest_browserpool.store import queries

    columns = ("name", "node", "browser", "samples", "lowest", "mean", "highest", "last")
    answer(
        db,
        lambda con: queries.series_of(con, queries.find_run(con, run), name),
        as_json=as_json,
        columns=columns,
    )


command = history
