"""``browserpool verify``: read the whole history and its copies, and repair what is damaged if asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_browserpool.commands.asking import db_option, json_option
from pytest_browserpool.errors import HistoryError

if TYPE_CHECKING:
    from pytest_browserpool.store.inventory import Found, Stock


@click.command
@click.option(
    "--repair",
    is_flag=True,
    help="Set a damaged history aside, restore the best copy, merge spooled rows, renew the copies.",
)
@click.option(
    "--copies",
    type=click.IntRange(min=1),
    help="Files that should hold the history, itself included; without it as many as the last run kept.",
)
@click.option(
    "--salvage",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Repair, then read out of FILE, such as a damaged history that was set aside, what the history lacks.",
)
@db_option
@json_option
def verify(repair: bool, copies: int | None, salvage: Path | None, db: Path, as_json: bool) -> None:
    """Read every block of the history and of its copies, compare checksums, and tell what each copy lacks.

    A line for the history, for each copy that there should be, and for each that lies there from an earlier setting:
    ok, DUE (not made yet, the run was not so far), MISSING, DAMAGED, UNREADABLE (busy, or out of reach),
    STALE (lacks rows that it should have by now), UNCHECKED (its checksum file is missing), or
    EARLIER (not renewed any more, whatever its state; it does not count for the exit status).

    Nothing is ever deleted: a damaged file is kept under a new name, and FILE stays as it is.
    Exit status: 0 all is well (or was repaired), 1 something that should be there is not ok and not DUE, 2 wrong usage.

    \b
    Examples:
      browserpool verify
      browserpool verify --repair
      browserpool verify --salvage .browserpool/history.duckdb.corrupt-20260101T120000Z
    """
    from pytest_browserpool.store import integrity, inventory, spool
    from pytest_browserpool.store.flush import mend
    from pytest_browserpool.store.repair import take_from

    if not (salvage or db.exists() or integrity.existing_copies(db)):
        raise HistoryError(
            "there is no history", where=str(db), remedy="run pytest --browserpool, or give --db"
        )
    notes = mend(db, copies) if repair or salvage else []
    if salvage:
        notes += [*take_from(salvage, db), *mend(db, copies)]
    stock = inventory.take_stock(db, copies)
    spooled = len(spool.pending(db))
    if as_json:
        click.echo(json.dumps({**_plain(stock), "spooled": spooled, "notes": notes}, indent=2))
    else:
        for line in [*notes, *_lines(stock)]:
            click.echo(line)
        if spooled:
            click.echo(f"{spooled} spool files wait to be merged; the next run does it, or --repair")
    if not stock.ok:
        raise click.exceptions.Exit(1)


def _plain(stock: Stock) -> dict[str, Any]:
    """What ``--json`` prints of the files."""
    files = [
        {
            "path": str(file.path),
            "state": file.state,
            "ok": file.ok,
            "expected": file.expected,
            "detail": file.detail,
            "rows": file.rows,
            "runs": file.runs,
            "lacks": file.lacks,
        }
        for file in stock.files
    ]
    return {"ok": stock.ok, "wanted": stock.wanted, "wanted_by": stock.told_by, "files": files}


def _lines(stock: Stock) -> list[str]:
    lines = [_line(file) for file in stock.files]
    if not stock.ok:
        lines.append(
            "browserpool verify --repair repairs what can be, and renews the copies; so does the next run"
        )
    if earlier := [file for file in stock.files if not file.expected]:
        names = " ".join(file.path.name for file in earlier)
        lines.append(
            f"{names}: not renewed any more, as the history is kept in {_count(stock.wanted)} now; used for a repair only "
            "where nothing newer is left. Remove what you do not want to keep."
        )
    return lines


def _line(file: Found) -> str:
    if not file.expected:
        return f"{'EARLIER':<10} {file.path}: {'' if file.ok else file.state + ', '}{file.detail}"
    return f"{'ok' if file.state == 'ok' else file.state.upper():<10} {file.path}: {file.detail}"


def _count(files: int) -> str:
    return "1 file" if files == 1 else f"{files} files"


command = verify
