"""How commands that show tables print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 200
"""Columns where no terminal tells its width: rows of a table stay on one line in a log."""


def console() -> Console:
    """A console on standard output as it is now."""
    from rich.console import Console

    # emoji: a test's id may have :100: in it, and is to be pasted
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, highlight=False, emoji=False)
