"""``browserpool simulate``: a workload on a virtual clock, under our scheduler and xdist's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from pytest_browserpool.config import did_you_mean
from pytest_browserpool.simulation import figures, reading, workload, zoo


def _schedulers(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))
    for name in names:
        if name not in figures.SCHEDULERS:
            hint = did_you_mean(name, figures.SCHEDULERS)
            raise click.BadParameter(f"{name!r}{hint} is not one of {', '.join(figures.SCHEDULERS)}")
    if not names:
        raise click.BadParameter(f"name at least one of {', '.join(figures.SCHEDULERS)}")
    return names


@click.command
@click.argument("source", metavar="WORKLOAD.json")
@click.option(
    "--scheduler",
    "schedulers",
    default=",".join(figures.SCHEDULERS),
    show_default=True,
    callback=_schedulers,
    help="Which to simulate, separated by commas.",
)
@click.option("--seed", default=0, show_default=True, help="Of the noise, and of the search.")
@click.option("--spare", is_flag=True, help="Give xdist's schedulers only the nodes that can run every test.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything, with the traces, as one JSON object."
)
def command(source: str, schedulers: tuple[str, ...], seed: int, spare: bool, as_json: bool) -> None:
    """Simulate a workload: when would which test run where, and when would it end?

    The engine is the one that schedules real runs, and LoadScheduling and WorkStealingScheduling are xdist's
    own classes. ``zoo:NAME`` in place of a file takes a workload of the zoo that is shipped, made from the
    seed.

    Exit status: 0 it was simulated, 2 the workload or an option is wrong.

    \b
    Examples:
      browserpool simulate workload.json
      browserpool simulate zoo:setup_heavy --seed 3
      browserpool simulate workload.json --scheduler browserpool,worksteal --json
    """
    loaded = _load(source, seed)
    try:
        result = figures.simulate(loaded, schedulers, seed, spare=spare)
    except ValueError as error:
        raise workload.WorkloadError(str(error), where=source, remedy="leave out --spare") from error
    if as_json:
        click.echo(json.dumps(result))
    else:
        _show(result)


def _load(source: str, seed: int) -> workload.Workload:
    kind, colon, name = source.partition(":")
    if kind == "zoo" and colon:
        if name not in zoo.ZOO:
            raise workload.WorkloadError(
                f"unknown workload {name!r}{did_you_mean(name, zoo.ZOO)}",
                where=source,
                remedy=f"known: {', '.join(zoo.ZOO)}",
            )
        return zoo.workload(name, seed)
    return reading.read(Path(source))


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for i, title in enumerate(
        (
            "scheduler",
            "makespan s",
            "÷ bound",
            "failed",
            "launches",
            "loads",
            "migrations (useful)",
            "busy nodes",
        )
    ):
        table.add_column(title, justify="left" if i == 0 else "right")
    for name, row in result["schedulers"].items():
        busy = row["utilization"]["node"]
        share = sum(busy.values()) / len(busy)
        table.add_row(
            name,
            f"{row['makespan']:.2f}",
            f"{row['makespan'] / row['lower_bound']:.3f}" if row["lower_bound"] else "–",
            str(len(row["failed"])),
            str(row["launches"]),
            str(row["loads"]),
            f"{row['migrations']} ({row['useful_migrations']})",
            f"{share:.0%}",
        )
    # a terminal tells its width; a pipe or a CI log gets one that keeps rows on one line
    console = Console(width=None if sys.stdout.isatty() else 120, emoji=False)
    console.print(table)
