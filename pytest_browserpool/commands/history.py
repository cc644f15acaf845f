"""``browserpool history``: what is in the history, from the latest runs down to single operations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pytest_browserpool.commands import history_scheduling
from pytest_browserpool.commands.asking import answer, db_option, json_option, run_argument

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@click.group(invoke_without_command=True)
@db_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many runs.")
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
        _hand_on(context, context.invoked_subcommand)
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


def _hand_on(context: click.Context, name: str) -> None:
    """What stands before the command is meant for it."""
    given = {
        option: value
        for option, value in context.params.items()
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE
    }
    command = history.get_command(context, name)
    taken = {parameter.name for parameter in command.params} if command is not None else set(given)
    if left := sorted(set(given) - taken):
        raise click.UsageError(f"browserpool history {name} takes no --{left[0]}", context)
    context.default_map = {name: given}


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
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="How many operations."
)
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


for scheduling in history_scheduling.COMMANDS:
    history.add_command(scheduling)

command = history
