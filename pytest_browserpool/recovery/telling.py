"""A node's transactions and state in words, for people who look at what happened. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_browserpool.recovery.state import State

SHORT = 12
"""Characters of a hash or an id that tell it from others of one run."""


def under_way(state: State) -> str:
    """What a node that is gone leaves behind: browsers that ran, and operations in the middle of a recovery."""
    browsers = [b.instance for b in state.browsers.values() if b.status != "gone"]
    operations = [
        f"a {row.kind} in its {_nth(row.attempts)} attempt"
        for row in state.operations.values()
        if row.status == "running"
    ]
    running = [f"{', '.join(browsers)} running"] if browsers else []
    return ", ".join([*running, *operations])


def lines(changes: Sequence[Sequence[Any]]) -> Iterator[str]:
    """One transaction: a line for each row that it changed; none for what was only forgotten."""
    for table, key, row in changes:
        if row is not None:
            yield _LINES[table](key, row)


def _browser(key: str, row: Mapping[str, Any]) -> str:
    return f"{row['name']} {key}: {row['status']}{': ' + row['reason'] if row['reason'] else ''}"


def _model(key: str, row: Mapping[str, Any]) -> str:
    return f"model {row['model'][:SHORT]} on {row['backend']} in {row['instance']}: {row['status']}"


def _operation(key: str, row: Mapping[str, Any]) -> str:
    where = f" in {row['instance']}" if row["instance"] else ""
    degraded = ", degraded" if row["degraded"] else ""
    return f"{row['kind']} {key[:SHORT]}: {row['status']}{where}, {_nth(row['attempts'])} attempt{degraded}"


def _totals(key: str, row: Mapping[str, Any]) -> str:
    return (
        f"operations so far: {row['done']} done, {row['failed']} failed, {row['retried']} of them retried, "
        f"{row['degraded']} degraded"
    )


def _circuit(key: str, row: Mapping[str, Any]) -> str:
    return f"the circuit breaker of {key}: {row['status']}"


_LINES = {
    "browsers": _browser,
    "models": _model,
    "operations": _operation,
    "circuits": _circuit,
    "totals": _totals,
}


def _nth(number: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")
