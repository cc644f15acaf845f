"""Waiting for a condition instead of for a time: a busy machine takes longer, and a deadline ends what never comes."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds for anything that must happen: hundred times what it takes on an idle machine."""


def until(
    happened: Callable[[], object],
    what: str | Callable[[], object],
    seconds: float = PATIENCE,
    *,
    pause: float = 0.05,
) -> None:
    """Returns once ``happened()`` is true. ``what``: what was waited for, or what to show, where it never is."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(pause)
