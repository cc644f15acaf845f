"""``browserpool verify``: read the whole history and its copies, and repair what is damaged if asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pytest_browserpool.commands.asking import db_option, json_option
from pytest_browserpool.errors import HistoryError


@click.command
@click.option(
    "--repair", is_flag=True, help="Set a damaged history aside, restore the good copy, merge spooled rows."
)
@click.option(
    "--copies", default=2, show_default=True, help="Files that should hold the history, itself included."
)
@db_option
@json_option
def verify(repair: bool, copies: int, db: Path, as_json: bool) -> None:
    """Read every block of the history and of its copies, and compare checksums.

    Nothing is ever deleted: a damaged file is kept under a new name.
    Exit status: 0 all is well (or was repaired), 1 something is damaged or missing.

    \b
    Examples:
      browserpool verify
      browserpool verify --repair
    """
    from pytest_browserpool.store import integrity
    from pytest_browserpool.store.flush import mend

    if not db.exists() and not integrity.existing_copies(db):
        raise HistoryError(
            "there is no history", where=str(db), remedy="run pytest --browserpool, or give --db"
        )
    notes = mend(db, copies) if repair else []
    findings = examine(db)
    if as_json:
        click.echo(
            json.dumps({"files": findings["files"], "spooled": findings["spooled"], "notes": notes}, indent=2)
        )
    else:
        for note in notes:
            click.echo(note)
        for file in findings["files"]:
            click.echo(f"{'ok     ' if file['ok'] else 'DAMAGED'} {file['path']}: {file['detail']}")
        if findings["spooled"]:
            click.echo(
                f"{findings['spooled']} spool files wait to be merged; the next run does it, or --repair"
            )
    if not all(file["ok"] for file in findings["files"]):
        raise click.exceptions.Exit(1)


def examine(db: Path) -> dict[str, Any]:
    """What ``--json`` prints: each file with ``ok`` and ``detail``, and how many spool files wait."""
    from pytest_browserpool.store import integrity, spool

    found = []
    if db.exists():
        found.append(integrity.examine(db))
    else:
        found.append(integrity.Health(path=db, ok=False, detail="missing"))
    found += [integrity.examine(copy, checksum=True) for copy in integrity.existing_copies(db)]
    files = [
        {"path": str(h.path), "ok": h.ok, "detail": h.detail, "rows": h.rows, "runs": h.runs} for h in found
    ]
    return {"files": files, "spooled": len(spool.pending(db))}


command = verify
