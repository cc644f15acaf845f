"""The live view: a few lines below pytest's own output on a terminal, a line now and then in a log.

The lines stand below the cursor: each write of pytest's takes them away, writes, and puts them back, all in one piece.
So pytest's half-written lines of dots stay whole. rich lays the lines out.

Under xdist the thread that writes pytest's lines draws. Where pytest runs the tests itself that thread is busy with them, so
another draws, to a handle of its own: pytest takes the usual one away from a test, for what the test prints.
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from pytest_browserpool.report.progress import NodeNow, Progress, plain_line, totals
from pytest_browserpool.report.words import duration

if TYPE_CHECKING:
    import pytest

SHOWN_AFTER = 5.0
"""Seconds until the view appears: a run that is over by then needs none."""

LINE_EVERY = 30.0
"""Seconds between lines in a log: a run of an hour has a hundred of them."""

LEAST_COLUMNS = 40
"""Of a terminal in which lines can be read; one that does not know its size says 0."""

STYLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What colours a text, and takes no room."""

MAX_NODES = 12
"""Nodes shown one by one; also at most a third of the terminal's height."""


class Below:
    """A text file that keeps lines below what is written to it. ``column`` is where the cursor is now. Thread-safe."""

    def __init__(self, file: Any, column: int = 0) -> None:
        self._file = file
        self._line = " " * column
        """What is written of the line in which the cursor is."""
        self._shown = ""
        self._at = 0
        self._left = False
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """As the file's; the lines below stay below."""
        with self._lock:
            erasing = self._erasing()
            self._line = re.split(r"[\r\n]", self._line + text)[-1]
            self._file.write(erasing + text + self._drawing(self._shown))
        return len(text)

    def show(self, lines: list[str]) -> None:
        """Put ``lines`` in place of those shown; none takes them away. Nothing after ``leave``, until ``come_back``."""
        with self._lock:
            if self._left:
                return
            shown = "\r\n".join(lines)
            self._file.write(self._erasing() + self._drawing(shown))
            self._shown = shown
            self._file.flush()

    def leave(self) -> None:
        """Take the lines away where others wrote among them and began a new line: what is left of ours goes."""
        with self._lock:
            if self._shown:
                self._file.write("\r\x1b[J")
                self._file.flush()
            self._shown = self._line = ""
            self._left = True

    def come_back(self) -> None:
        """Lines may be shown again."""
        with self._lock:
            self._left = False

    def _column(self) -> int:
        from rich.cells import cell_len

        return cell_len(STYLE.sub("", self._line))

    def _erasing(self) -> str:
        return f"\r\n\x1b[J\x1b[A\x1b[{self._at + 1}G" if self._shown else ""

    def _drawing(self, shown: str) -> str:
        if not shown:
            return ""
        self._at = self._column()
        return f"\r\n\x1b[J{shown}\x1b[{shown.count(chr(10)) + 1}A\x1b[{self._at + 1}G"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class LiveView:
    """Shows the run as it goes. ``tick`` is to be called about once a second, ``end`` once: on the main thread, or with
    ``aside`` on any other while tests run on the main thread."""

    def __init__(
        self, config: pytest.Config, *, aside: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._began = self._told = clock()
        self._terminal: Any = config.pluginmanager.getplugin("terminalreporter")
        self._quiet = self._terminal is None or config.get_verbosity() < 0
        self._below: Below | None = None
        self._usual: Any = None
        """The file that pytest wrote to."""
        self._own: TextIO | None = None
        if self._quiet or not is_interactive(self._terminal._tw._file):
            return
        if aside and config.getoption("capture") not in ("fd", "sys"):
            # what tests print would go between our lines, and who lets them print wants to read it
            self._quiet = True
            return
        writer = self._terminal._tw
        self._usual = writer._file
        if aside:
            self._own = _handle_of_our_own(self._usual)
        self._below = writer._file = Below(self._own or self._usual, writer.width_of_current_line)

    @property
    def interactive(self) -> bool:
        """Whether lines are drawn on a terminal, rather than written to a log."""
        return self._below is not None

    def tick(self, progress: Progress) -> None:
        """Show ``progress``, if it is time."""
        now = self._clock()
        if self._quiet or not progress.tests or now - self._began < SHOWN_AFTER:
            return
        if (below := self._below) is not None:
            size = os.get_terminal_size(below.fileno())
            if size.columns >= LEAST_COLUMNS:
                below.show(lines(progress, size.columns, size.lines))
        elif now - self._told >= LINE_EVERY:
            self._told = now
            self._terminal.ensure_newline()
            if (
                self._terminal._tw.width_of_current_line
            ):  # dots of xdist's nodes: pytest itself does not see them
                self._terminal.write_line("")
            self._terminal.write_line(f"browserpool: {plain_line(progress)}")

    def pause(self) -> None:
        """Leave the terminal to somebody who types there, until ``resume``. pytest has said so by then, in a line."""
        if self._below is not None:
            self._below.leave()

    def resume(self) -> None:
        """Show again."""
        if self._below is not None:
            self._below.come_back()

    def end(self) -> None:
        """Take the view away for good."""
        self._quiet = True
        if self._below is not None:
            self.resume()
            self._below.show([])
            self._terminal._tw._file = self._usual
            self._below = None
        if self._own is not None:
            self._own.close()
            self._own = None


def _handle_of_our_own(file: Any) -> TextIO:
    """The terminal behind ``file``, whatever becomes of the file's descriptor."""
    file.flush()
    return os.fdopen(os.dup(file.fileno()), "w", encoding=file.encoding, errors=file.errors, newline="")


def is_interactive(file: Any) -> bool:
    """Whether ``file`` is a terminal that a person looks at: none in CI, none that knows no cursor or only ASCII."""
    encoding = str(getattr(file, "encoding", None) or "").lower()
    return (
        encoding.startswith("utf")
        and bool(getattr(file, "isatty", lambda: False)())
        and not os.environ.get("CI")
        and os.environ.get("TERM", "dumb") != "dumb"
    )


def lines(progress: Progress, width: int, height: int) -> list[str]:
    """The view as terminal lines, none wider than ``width``."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    most = max(1, min(MAX_NODES, height // 3 - 2))
    shown = sorted(progress.nodes, key=lambda node: not node.test)[:most]
    shown.sort(key=progress.nodes.index)
    table = Table.grid(padding=(0, 2))
    for number, name in enumerate(("node", "where", "test", "seconds")):
        justify = "right" if name == "seconds" else "left"
        table.add_column(no_wrap=True, overflow="ellipsis", justify=justify, ratio=1 if number == 2 else None)  # type: ignore[arg-type]
    table.expand = True
    for node in shown:
        table.add_row(Text(node.node, style="bold"), *_cells(node))
    hidden = len(progress.nodes) - len(shown)
    file = io.StringIO()
    console = Console(
        file=file, width=width - 1, force_terminal=True, color_system="standard", highlight=False
    )
    console.print(table)
    more = f"and {hidden} more nodes · " if hidden else ""
    console.print(Text(more + totals(progress), style="cyan"), no_wrap=True, overflow="ellipsis")
    return file.getvalue().rstrip("\n").split("\n")


def _cells(node: NodeNow) -> tuple[Any, ...]:
    from rich.text import Text

    if not node.test:
        told = f"idle, {', '.join(node.browsers)} running" if node.browsers else "idle"
        return "", Text(node.doing or told, style="yellow" if node.doing else "dim"), ""
    file, _, name = node.test.partition("::")
    # what is cut off is the file
    test = Text.assemble(name or file, (f"  {file.rpartition('/')[2]}", "dim"))
    if node.doing:
        test = Text.assemble((node.doing, "yellow"), "  ", test)
    return Text(node.where or "no browser", style="dim"), test, Text(duration(node.seconds))
