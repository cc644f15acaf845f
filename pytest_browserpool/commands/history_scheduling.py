"""The part of ``browserpool history`` that tells what the scheduler knew, foresaw, moved and measured."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_browserpool.commands.asking import answer, db_option, json_option, run_argument

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@click.command("applied")
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


@click.command("learned")
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


@click.command("forecasts")
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


@click.command("moved")
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


@click.command("metrics")
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


COMMANDS = (applied_command, forecasts_command, learned_command, metrics_command, moved_command)
