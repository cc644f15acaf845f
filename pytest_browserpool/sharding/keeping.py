"""How much of cut models is kept on disk, and what goes first."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

MANIFEST = "shards.json"
"""In the folder of each cut; its time of change is when the cut was used last."""

NEW = ".new-"
"""How the folder begins in which a cut is being written, or one is being removed."""

KEPT_BYTES = 8 << 30
"""A dozen cuts of a model of 600 MB: the speeds that browsers show move its cut for some runs until it settles."""

KEPT_SECONDS = 24 * 3600.0
"""What was used so lately stays, whatever it takes: longer than a run, which reads a shard's file again when it is lost."""


def used(place: Path) -> None:
    """The cut in ``place`` was just used."""
    with contextlib.suppress(
        OSError
    ):  # of another user, or not to be written: then it is never removed from here either
        os.utime(place / MANIFEST)


def tidy(folder: Path, now: float | None = None) -> None:
    """Removes cuts that were not used for ``KEPT_SECONDS``, the longest unused first, until the rest takes ``KEPT_BYTES`` at
    most; and what a process that died left half written. ``now`` in seconds since the epoch.

    What cannot be removed stays: several processes share the folder.
    """
    before = (time.time() if now is None else now) - KEPT_SECONDS
    cuts: list[tuple[float, int, Path]] = []
    for place in folder.iterdir():
        with contextlib.suppress(OSError):  # another process is removing it
            if place.name.startswith(NEW) and place.stat().st_mtime < before:
                shutil.rmtree(place, ignore_errors=True)
            elif (place / MANIFEST).is_file():
                size = sum(file.stat().st_size for file in place.iterdir())
                cuts.append(((place / MANIFEST).stat().st_mtime, size, place))
    total = sum(size for _, size, _ in cuts)
    for last, size, place in sorted(cuts):
        if total <= KEPT_BYTES or last >= before:
            return
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=folder, prefix=NEW) as aside:
            place.rename(Path(aside) / place.name)  # at once, so that nobody finds a part of it
            total -= size
