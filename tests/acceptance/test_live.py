"""The live view on a real terminal, the lines in a log, and nothing where nothing is wanted."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from acceptance_support import DEADLINE

SOON = """
from pytest_browserpool.report import live
live.SHOWN_AFTER = 0.5
live.LINE_EVERY = 1.0
"""
SUITE = """
import time, pytest
@pytest.mark.parametrize("i", range(8))
def test_sleeps(i): time.sleep(0.8)
"""
COMMAND = [sys.executable, "-m", "pytest", "--browserpool", "-p", "no:cacheprovider"]


@pytest.fixture(autouse=True)
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makeconftest(SOON)
    pytester.makepyfile(SUITE)


def on_a_terminal(*arguments: str, prompt: bytes = b"", typed: bytes = b"") -> str:
    """What pytest writes to a terminal of 100 columns and 40 lines, where somebody types an answer two seconds after a
    prompt."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [*COMMAND, *arguments]
    environment = os.environ | {"TERM": "xterm"}
    process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=environment)
    os.close(inner)
    written, ends, types = b"", time.monotonic() + DEADLINE, None
    try:
        while time.monotonic() < ends:
            if types is None and prompt and prompt in written:
                types = time.monotonic() + 2.0
            if types is not None and time.monotonic() > types:
                os.write(outer, typed)
                types = ends
            if not select.select([outer], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(outer, 65536)
            except OSError:  # the other end is closed: this is how Linux says it
                break
            if not piece:
                break
            written += piece
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        os.close(outer)
    return written.decode()


def test_a_terminal_has_lines_below_that_are_gone_at_the_end() -> None:
    with ThreadPoolExecutor() as at_once:  # the suite mostly waits
        quietly = at_once.submit(on_a_terminal, "-n2", "-q")
        written = on_a_terminal("-n2")
        quiet = quietly.result()
    drawn = written.count("\x1b[J")
    assert drawn > 3
    assert re.search(r"gw[01].*test_sleeps\[\d\]", written)
    assert re.search(r"\d of 8 tests", written)
    assert "end in" in written
    after = written[written.rindex("\x1b[J") :]
    assert " of 8 tests" not in after  # taken away before pytest's last words
    assert "8 passed" in after

    assert "\x1b[J" not in quiet, "-q is quiet"
    assert "of 8 tests" not in quiet
    assert "8 passed" in quiet


def in_a_log(*arguments: str) -> str:
    """What pytest writes to a file."""
    command = [*COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout


def test_a_log_has_a_line_now_and_then() -> None:
    with ThreadPoolExecutor() as at_once:
        quietly = at_once.submit(in_a_log, "-n2", "-q")
        output = in_a_log("-n2")
        quiet = quietly.result()
    told = [line for line in output.splitlines() if line.startswith("browserpool: ")]
    assert told
    assert all(re.search(r"\d of 8 tests .*nodes? busy", line) for line in told)
    assert "\x1b" not in output
    assert "browserpool:" not in quiet
    assert "8 passed" in quiet


SPOKEN = """
import sys, time
def test_speaks():
    print("said in the test")
    time.sleep(3.0)
    print("and said later", file=sys.stderr)
    sys.stdout.flush()
def test_tells(capfd):
    print("for capfd")
    time.sleep(1.5)
    assert capfd.readouterr().out == "for capfd\\n"
"""


def test_without_n_a_terminal_has_the_lines_too_and_the_tests_output_is_theirs(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / pytester.makepyfile(SPOKEN)).rename(pytester.path / "test_spoken.py")
    with ThreadPoolExecutor() as at_once:
        quietly = at_once.submit(on_a_terminal, "-q")
        log = at_once.submit(in_a_log)
        openly = at_once.submit(on_a_terminal, "-s")
        written = on_a_terminal("-rP")
        quiet, told, spoken = quietly.result(), log.result(), openly.result()
    assert written.count("\x1b[J") > 3
    assert re.search(r"main.*test_speaks", written)
    assert re.search(r"\d of \d+ tests", written)
    after = written[written.rindex("\x1b[J") :]
    assert "passed" in after
    sections = re.findall(r"Captured std(?:out|err) call -+[^\n]*\n([^\n]*)\r\n([-=_])", after)
    assert [text.strip() for text, _ in sections] == ["said in the test", "and said later"]

    assert "\x1b[J" not in quiet
    assert "\x1b[J" not in spoken, "with -s the terminal is the tests'"
    assert "\x1b" not in told
    assert re.search(r"^browserpool: \d of \d+ tests .*of 1 node busy$", told, re.MULTILINE)


STOPS = """
import time
def test_stops():
    time.sleep(2.0)
    breakpoint()
def test_goes_on(): time.sleep(2.0)
"""


def test_a_debugger_has_the_terminal_to_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(STOPS)
    written = on_a_terminal(prompt=b"(Pdb)", typed=b"c\n")
    before, meanwhile = written.split("(Pdb)", 1)
    at_the_prompt, after = meanwhile.split("PDB continue", 1)
    assert re.search(r"main.*test_stops", before)
    assert "\x1b" not in at_the_prompt, "nothing is drawn while somebody types"
    assert re.search(r"main.*test_goes_on", after)
    assert "2 passed" in after
