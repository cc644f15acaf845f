"""What is shown while a run goes on: words, the forecast's own error, and lines below pytest's on a real terminal."""

from __future__ import annotations

import io
import threading

import pytest

from pytest_browserpool.report.live import Below, is_interactive, lines
from pytest_browserpool.report.progress import EndForecast, NodeNow, Progress, plain_line, totals

BUSY = NodeNow(
    node="gw0",
    test="tests/test_ocr.py::test_reads[x]",
    where="firefox/wasm",
    seconds=3.21,
    doing="loading ocr in firefox",
)
IDLE = NodeNow(node="gw1", browsers=("chromium",))


def progress(*nodes: NodeNow, **changes: object) -> Progress:
    given = {"done": 12, "tests": 40, "queue": ((1, 0), (3, 27)), "left_s": 65.0, "error_s": 4.0}
    return Progress(nodes=nodes, **{**given, **changes})  # type: ignore[arg-type]


def test_the_run_in_one_line() -> None:
    assert totals(progress()) == "12 of 40 tests · waiting P3 27 · end in 1 min 05 s ± 4.0 s"
    assert totals(progress(queue=(), left_s=None)) == "12 of 40 tests"
    assert plain_line(progress(BUSY, IDLE)).endswith(
        "± 4.0 s · 1 of 2 nodes busy · gw0 loading ocr in firefox"
    )


def test_a_forecast_says_how_far_off_those_of_the_last_minute_were() -> None:
    forecast = EndForecast()
    assert forecast.error is None
    forecast.note(0.0, 100.0)
    forecast.note(2.0, 100.0)
    assert forecast.error is None  # too young to have been tried
    forecast.note(10.0, 130.0)
    assert forecast.error == 30.0
    forecast.note(80.0, 131.0)  # the old ones are forgotten
    assert forecast.error is None


def test_lines_fit_the_terminal_and_name_what_goes_on() -> None:
    found = lines(progress(BUSY, IDLE), 60, 40)
    plain = [_plain(line) for line in found]
    assert all(len(line) < 60 for line in plain)
    assert "\x1b[33mloading ocr in firefox\x1b[0m  test_rea" in found[0], "only what goes on is marked"
    assert "gw0" in plain[0]
    assert "loading ocr in firefox" in plain[0]
    assert plain[0].rstrip().endswith("3.2 s")
    assert "idle, chromium running" in plain[1]
    assert plain[-1].startswith("12 of 40 tests")


def test_of_many_nodes_the_busy_ones_are_shown() -> None:
    idle = [NodeNow(node=f"gw{n}") for n in range(1, 30)]
    plain = [_plain(line) for line in lines(progress(*idle, BUSY), 80, 24)]
    assert len(plain) <= 24 // 3
    assert any("gw0" in line for line in plain)
    assert "more nodes · 12 of 40 tests" in plain[-1]


def _plain(line: str) -> str:
    from rich.text import Text

    return Text.from_ansi(line).plain


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return True


def test_a_terminal_must_be_looked_at_and_take_every_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert is_interactive(Terminal("utf-8"))
    assert not is_interactive(Terminal("ascii"))
    assert not is_interactive(io.StringIO())
    monkeypatch.setenv("CI", "true")
    assert not is_interactive(Terminal("utf-8"))
    monkeypatch.delenv("CI")
    monkeypatch.setenv("TERM", "dumb")
    assert not is_interactive(Terminal("utf-8"))


class Screen:
    """A terminal of the few sequences that are used: what a person sees after them."""

    def __init__(self, width: int = 40) -> None:
        self.rows, self.row, self.column, self.width = [""], 0, 0, width

    def feed(self, text: str) -> None:
        import re

        for part in re.findall(r"\x1b\[\d*[A-Za-z]|.|\n|\r", text, re.DOTALL):
            if part == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif part == "\r":
                self.column = 0
            elif part.startswith("\x1b"):
                self._control(part)
            else:
                row = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = row[: self.column] + part + row[self.column + 1 :]
                self.column += 1

    def _control(self, part: str) -> None:
        number, kind = int(part[2:-1] or 1), part[-1]
        if kind == "A":
            self.row -= number
        elif kind == "G":
            self.column = number - 1
        elif kind == "J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
        else:
            pytest.fail(f"unknown sequence {part!r}")


def test_pytests_output_stays_whole_above_the_lines() -> None:
    """On a screen that interprets the sequences; the test with a real terminal is in the acceptance tests."""
    file = io.StringIO("so far ")
    file.seek(7)
    below = Below(file, 7)
    below.write("\rtest_x.py ")
    below.show(["node one", "total 1"])
    below.write(".")
    below.write("F")
    below.show(["node one again", "total 2"])
    below.write("\r\n")
    below.write("next line")
    screen = Screen()
    screen.feed(file.getvalue())
    assert screen.rows == ["test_x.py .F", "next line", "node one again", "total 2"]
    assert (screen.row, screen.column) == (1, 9)
    below.show([])
    screen = Screen()
    screen.feed(file.getvalue())
    assert [row for row in screen.rows if row] == ["test_x.py .F", "next line"]


def test_lines_among_which_others_wrote_leave_nothing_of_them() -> None:
    file = io.StringIO()
    below = Below(file)
    below.write("test_x.py .")
    below.show(["node one", "total 1"])
    file.write("\r\n>>>>>>>> debugger\r\n")  # by pytest, past us
    below.leave()
    below.show(["node one", "total 1"])  # by a thread that was about to
    file.write("(Pdb) c\r\n")
    below.come_back()
    below.show(["node one", "total 2"])
    below.write(".")
    screen = Screen()
    screen.feed(file.getvalue())
    assert screen.rows == ["test_x.py .", ">>>>>>>> debugger", "(Pdb) c", ".", "node one", "total 2"]


def test_colours_take_no_room_and_wide_characters_take_two() -> None:
    file = io.StringIO()
    below = Below(file)
    below.write("\x1b[32m試す\x1b[0m.")
    below.show(["total"])
    assert file.getvalue().endswith("\x1b[6G")


def test_two_threads_write_whole_pieces() -> None:
    file = io.StringIO()
    below = Below(file)
    lines_shown = [[f"node {n}", "total"] for n in range(200)]
    drawer = threading.Thread(target=lambda: [below.show(shown) for shown in lines_shown])
    drawer.start()
    for _ in range(200):
        below.write(".")
    drawer.join(30)
    screen = Screen(width=400)
    screen.feed(file.getvalue())
    assert screen.rows == ["." * 200, "node 199", "total"]
