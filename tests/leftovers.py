"""What a run leaves behind: browser processes that live on, files in its temporary directory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from waiting import until

from pytest_browserpool.browsers.processes import MARK


@contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory of a run's own; short, because sockets of browsers lie below it, whose paths end at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bp-") as directory:
        yield Path(directory)


def processes(tmpdir: Path) -> list[str]:
    """Living processes of browsers whose work directory is below ``tmpdir``."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if MARK in environment and environment.get("TMPDIR", "").startswith(str(tmpdir)):
            found.append(f"{process.pid} {process.name()}")
    return found


def files(tmpdir: Path) -> list[str]:
    """Profiles and the like of browsers that lie in ``tmpdir``."""
    ours = ("browserpool-", "playwright", "org.chromium", "rust_moz")
    return [p.name for p in tmpdir.iterdir() if p.name.startswith(ours)]


GONE_SECONDS = 15.0
"""The guardian learns at once that its node is gone, and kills; this is far more than that takes on a busy machine."""


def assert_nothing_left(tmpdir: Path, seconds: float = GONE_SECONDS) -> None:
    """The run that had ``tmpdir`` has ended or been killed: its browsers and their files go, too."""

    def remains() -> list[str]:
        return processes(tmpdir) + files(tmpdir)

    until(lambda: not remains(), remains, seconds, pause=0.2)
