"""The rows of a node's state (browsers, models, operations, circuits, totals), and the order of their statuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class StateError(RuntimeError):
    """A change that the rules do not allow: a defect of ours. Nothing changed."""


@dataclass(frozen=True, kw_only=True)
class BrowserState:
    """One browser instance: launching, ready, retiring (takes nothing new), gone."""

    instance: str
    name: str
    status: str = "launching"
    since: float = 0.0
    reason: str = ""

    @property
    def key(self) -> str:
        return self.instance


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """One model in one browser on one backend: loading, loaded, released."""

    instance: str
    model: str
    backend: str
    status: str = "loading"
    since: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.instance}|{self.backend}|{self.model}"


@dataclass(frozen=True, kw_only=True)
class OperationState:
    """One operation, whatever number of attempts it takes: running, done, failed."""

    operation: str
    kind: str
    instance: str = ""
    """Where it runs; empty while it has no seat."""
    status: str = "running"
    attempts: int = 1
    degraded: bool = False
    since: float = 0.0

    @property
    def key(self) -> str:
        return self.operation


@dataclass(frozen=True, kw_only=True)
class CircuitState:
    """The circuit breaker of one browser name: open, closed again. One that never opened has no row."""

    browser: str
    status: str = "open"
    since: float = 0.0

    @property
    def key(self) -> str:
        return self.browser


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Operations that ended, each counted once."""

    done: int = 0
    failed: int = 0
    retried: int = 0
    """Of these, those that took more than one attempt."""
    degraded: int = 0
    attempts: int = 0

    @property
    def key(self) -> str:
        return ""


Row = BrowserState | ModelState | OperationState | CircuitState | Totals

TABLES: Mapping[str, type[Row]] = {
    "browsers": BrowserState,
    "models": ModelState,
    "operations": OperationState,
    "circuits": CircuitState,
    "totals": Totals,
}
TABLE_OF: Mapping[type[Row], str] = {kind: name for name, kind in TABLES.items()}

MOVES: Mapping[str, Mapping[str | None, frozenset[str]]] = {
    "browsers": {
        None: frozenset({"launching"}),
        "launching": frozenset({"ready", "gone"}),
        "ready": frozenset({"retiring", "gone"}),
        "retiring": frozenset({"gone"}),
        "gone": frozenset(),
    },
    "models": {
        None: frozenset({"loading"}),
        "loading": frozenset({"loaded", "released"}),
        "loaded": frozenset({"released"}),
        "released": frozenset({"loading"}),
    },
    "operations": {
        None: frozenset({"running"}),
        "running": frozenset({"running", "done", "failed"}),
        "done": frozenset(),
        "failed": frozenset(),
    },
    "circuits": {
        None: frozenset({"open"}),
        "open": frozenset({"open", "closed"}),  # a failed trial opens it again
        "closed": frozenset({"open"}),
    },
}
"""Table → status (None: no row yet) → statuses that may follow."""

_FIELDS: Mapping[type[Row], tuple[str, ...]] = {
    kind: tuple(f.name for f in dataclasses.fields(kind)) for kind in TABLES.values()
}

Change = tuple[str, str, Row | None]
"""Table, key, and the row after the change: None where it was forgotten."""


def plain_of(row: Row) -> dict[str, Any]:
    """The row as builtins, as it stands in the journal."""
    # the rows are flat, and the general Plain.to_plain is ten times slower: this runs for every operation
    return {name: getattr(row, name) for name in _FIELDS[type(row)]}


def row_of(table: str, plain: Mapping[str, Any]) -> Row:
    """A row of ``table`` from the journal; fields that this version does not know are left out."""
    kind = TABLES[table]
    return kind(**{name: plain[name] for name in _FIELDS[kind] if name in plain})
