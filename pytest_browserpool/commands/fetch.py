"""``browserpool fetch``: brings every model of a lock file here, so that the run itself needs no network."""

from __future__ import annotations

from pathlib import Path

import click

from pytest_browserpool.artefacts.pins import default_cache
from pytest_browserpool.commands import find_rootdir, readable_size
from pytest_browserpool.errors import BrowserPoolError
from pytest_browserpool.models import sources
from pytest_browserpool.models.lock import FILE_NAME, LockFile


@click.command
@click.option(
    "--lock",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The lock file (default: {FILE_NAME} of the project).",
)
@click.option("--verify", is_flag=True, help="Hash every cached model again; fetch anew what is damaged.")
def fetch(lock: Path | None, verify: bool) -> None:
    """Fetch every model of a lock file into the cache.

    Exit status: 0 all are there, 1 one could not be fetched or is not what was pinned, 2 no usable lock file.

    \b
    Example:
      browserpool fetch --lock browserpool.lock
    """
    path = lock or find_rootdir() / FILE_NAME
    if not path.is_file():
        raise click.UsageError(
            f"there is no lock file {path}: name one with --lock, or run the suite once to make it"
        )
    file, cache = LockFile(path), default_cache()
    if verify:
        for sha256 in cache.drop_damaged():
            click.echo(f"damaged   {sha256}")
    failed = 0
    for source in sorted(file.entries()):
        try:
            here = sources.is_cached(source, lock=file, cache=cache)
            stored = sources.resolve_file(source, lock=file, cache=cache)
        except BrowserPoolError as error:
            failed += 1
            click.echo(f"failed    {source}\n{error}", err=True)
        else:
            click.echo(f"{'here' if here else 'fetched':9} {source} ({readable_size(stored.size)})")
    if failed:
        raise click.exceptions.Exit(1)
