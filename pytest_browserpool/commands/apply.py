"""``browserpool apply``: sets what the analysis recommends for the next runs, and takes it back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_browserpool.commands.asking import db_option, json_option, tell_what_waits
from pytest_browserpool.errors import ConfigurationError, HistoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_browserpool.analysis.gain import Came
    from pytest_browserpool.analysis.recommend import Recommendation
    from pytest_browserpool.preferences import AppliedChange


@click.command
@click.argument("ids", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Show what would be set, and set nothing.")
@click.option("--undo", is_flag=True, help="Take the last apply back.")
@click.option("--since", help="As of browserpool analyze: which runs are looked at.")
@db_option
@json_option
def apply(
    ids: tuple[str, ...], dry_run: bool, undo: bool, since: str | None, db: Path, as_json: bool
) -> None:
    """Set what browserpool analyze recommends (all of it, or the recommendations IDS) for the next runs.

    It is written to history.applied.toml beside the history; the next pytest --browserpool reads it, says so in a
    line, and uses it where markers and options leave it open.

    Exit status: 0 set, undone, or nothing to do; 1 no history, or nothing to undo; 2 an id that is not recommended.

    \b
    Examples:
      browserpool apply --dry-run
      browserpool apply
      browserpool apply prefer/vad
      browserpool apply --undo
    """
    from pytest_browserpool import applied

    path = applied.path_of(db)
    if undo:
        if ids or dry_run:
            raise click.UsageError("--undo takes the last apply back as a whole; give it alone")
        _undo(path, as_json=as_json)
        return
    old = applied.read(path)
    made, came = _recommended(db, since, old)
    chosen, already = _chosen(made, ids, old)
    changes = [each.applied(time.time()) for each in chosen]
    if changes and not dry_run:
        applied.write(path, applied.merged(old, changes))
    if as_json:
        told = [each.to_plain() for each in changes]
        plain = {"file": str(path), "written": bool(changes) and not dry_run, "applied": told}
        click.echo(json.dumps({**plain, "already_set": [each.id for each in already]}, indent=2))
        return
    from pytest_browserpool.analysis.examine import came_line

    for each in already:
        click.echo(f"already set  {each.title}   [{each.id}]")
    if chosen or not already:
        _say(chosen, path, dry_run=dry_run)
    if came:
        click.echo("applied before:")
    for one in came:
        click.echo(f"     {came_line(one)}")


def _recommended(
    db: Path, since: str | None, old: Sequence[AppliedChange]
) -> tuple[list[Recommendation], Sequence[Came]]:
    from pytest_browserpool import findings
    from pytest_browserpool.store.connect import reading

    with reading(db) as con:
        tell_what_waits(db)
        found = findings.look(con, since=since, changes=old)
    return [each for each in found.recommendations if each.appliable], found.came


def _chosen(
    made: list[Recommendation], ids: tuple[str, ...], old: Sequence[AppliedChange]
) -> tuple[list[Recommendation], list[AppliedChange]]:
    """What to set, and what of ``ids`` is set already."""
    by_id, there = {each.id: each for each in made}, {each.id: each for each in old}
    for wanted in ids:
        if wanted not in by_id and wanted not in there:
            raise ConfigurationError(
                f"{wanted!r} is not recommended",
                remedy=f"one of {', '.join(by_id)}" if by_id else "browserpool analyze says what is, and why",
            )
    if not ids:
        return made, []
    return [by_id[each] for each in ids if each in by_id], [there[each] for each in ids if each not in by_id]


def _say(chosen: list[Recommendation], path: Path, *, dry_run: bool) -> None:
    from pytest_browserpool.analysis.examine import gain_words

    if not chosen:
        click.echo("nothing to apply: browserpool analyze says what is known, and what is missing")
    for each in chosen:
        click.echo(f"{'would set' if dry_run else 'set'}  {each.title}{gain_words(each)}   [{each.id}]")
        click.echo(f"     because {each.evidence}")
    if chosen:
        click.echo(
            f"nothing was written (--dry-run); it would go to {path}"
            if dry_run
            else f"written to {path}; the next pytest --browserpool uses it. browserpool apply --undo takes it back"
        )


def _readable(path: Path) -> tuple[AppliedChange, ...]:
    """What the file says; nothing where somebody broke it, which is what undo may be wanted for."""
    from pytest_browserpool import applied

    try:
        return applied.read(path)
    except ConfigurationError:
        return ()


def _undo(path: Path, *, as_json: bool) -> None:
    from pytest_browserpool import applied

    before = _readable(path)
    if not applied.undo(path):
        raise HistoryError("nothing to undo: nothing was applied", where=str(path))
    now = _readable(path)
    gone = [change.title for change in before if change not in now]
    back = [change.title for change in now if change not in before]
    if as_json:
        click.echo(json.dumps({"file": str(path), "gone": gone, "back": back}, indent=2))
        return
    for title in gone:
        click.echo(f"no longer set: {title}")
    for title in back:
        click.echo(f"set again: {title}")
