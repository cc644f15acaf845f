"""Firefox without the order to end itself when one of its content processes dies, which processes those are, and its home."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

from pytest_browserpool.browsers.wrapper import script

EXECUTABLE = "BROWSERPOOL_FIREFOX"
"""Environment variable: what the wrapper becomes."""

WRAPPER = f"""#!/bin/sh
# Playwright sets this variable whatever environment it is given. With it Firefox shuts down when a page's process dies.
unset MOZ_CRASHREPORTER_SHUTDOWN
exec "${EXECUTABLE}" "$@"
"""


def wrapper(folder: Path) -> Path | None:
    """The script that Playwright starts in place of Firefox, or None: there a Firefox goes with its page, and is seen as a
    crashed browser."""
    return script(folder, "firefox", WRAPPER)


def home(folder: Path) -> dict[str, str]:
    """Variables for a Firefox that would refuse to start: one of root's takes no home that is another user's, which is what
    a job's container has that got its home from the host. ``folder`` is its home then; the cache stays where it was."""
    given = os.environ.get("HOME", "")
    try:
        owner = os.stat(given).st_uid
    except OSError:
        return {}
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or owner == 0:
        return {}
    return {"HOME": str(folder), "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or f"{given}/.cache"}


def content_processes(main: psutil.Process | None) -> list[psutil.Process]:
    """Those that hold pages. Reads the process table: call it from a thread."""
    found = []
    with contextlib.suppress(psutil.Error, OSError):
        for process in main.children(recursive=True) if main is not None else ():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "-contentproc" in words and words[-1] == "tab":
                    found.append(process)
    return found
