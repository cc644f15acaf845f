"""docs/recovery.md shows the tables that the code runs on."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_browserpool.recovery.aftermath import markdown
from pytest_browserpool.recovery.limits import MOST_ATTEMPTS, URGENT_SECONDS, USUAL_SECONDS, Backoff
from pytest_browserpool.recovery.strategies import STRATEGIES
from pytest_browserpool.recovery.table import TABLE, TERMINAL, Signal, State, mermaid

PAGE = (Path(__file__).parents[2] / "docs" / "recovery.md").read_text(encoding="utf-8")


def test_the_diagram_is_the_generated_one() -> None:
    assert re.findall(r"```mermaid\n(.*?)\n```", PAGE, re.DOTALL) == [mermaid()]


def test_the_diagram_has_every_transition() -> None:
    edges = {(a, b) for a, b in re.findall(r"^ +(\w+) --> (\w+): ", mermaid(), re.MULTILINE)}
    assert edges == {(state.value, after.value) for state, row in TABLE.items() for after in row.values()}


def test_the_table_of_faults_is_the_generated_one() -> None:
    assert markdown() in PAGE


def test_numbers_and_strategies_of_the_page() -> None:
    assert f"| recovery, priorities 1 and 2 | {URGENT_SECONDS:g} s" in PAGE
    assert f"| recovery, priorities 3 to 5 | {USUAL_SECONDS:g} s" in PAGE
    assert f"| attempts | {MOST_ATTEMPTS} |" in PAGE
    assert f"{Backoff().base:g} s" in PAGE
    assert f"at most {Backoff().most:g} s" in PAGE
    for name in STRATEGIES:
        assert f"| `{name}` |" in PAGE


def test_the_table_is_sound() -> None:
    """Every state has a row, is reached from the start, and can still come to an end."""
    assert set(TABLE) == set(State)
    assert {signal for row in TABLE.values() for signal in row} == set(Signal)
    reached, todo = set(), [State.READY]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += TABLE[state].values()
    assert reached == set(State)
    for state in State:
        seen, todo = set(), [state]
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += TABLE[one].values()
        assert seen & TERMINAL, f"{state} has no way out"
    for state in TERMINAL:
        assert set(TABLE[state]) == {Signal.ECHO}


def test_the_core_imports_nothing_that_acts() -> None:
    import subprocess
    import sys

    names = "machine, strategies, breaker, limits, choice, aftermath, table, signals"
    heavy = "pytest xdist playwright duckdb asyncio anyio aiohttp numpy socket subprocess"
    code = (
        f"import sys; from pytest_browserpool.recovery import {names}; "
        f"print([m for m in {heavy.split()!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"
