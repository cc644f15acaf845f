"""The state of a node's browsers, models and operations: it changes in transactions, and every commit is
journalled.

Pure: times are passed in, nothing is written anywhere. The rules:

- Rows change only inside a transaction. ``commit`` makes all of its changes visible at once, ``rollback``
  (and any exception inside the ``with``) none. A second transaction while one is open is refused.
- A row moves only along its table below. A commit that would break a rule between rows is refused as a whole.
- Each commit is one journal entry of plain values. A replica that applies the entries in order is equal to
  the original; an entry out of order is refused.
- An operation counts once, however often it was tried: it is counted when it ends, and ends once.

Rules between rows: a model is loading or loaded only in a browser that is ready or retiring; a running
operation sits on no seat or on a browser that is not gone. When a browser goes, its models are released and
its operations are left without a seat, in the same transaction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar


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


Row = BrowserState | ModelState | OperationState | Totals
R = TypeVar("R", BrowserState, ModelState, OperationState)

TABLES: Mapping[str, type[Row]] = {
    "browsers": BrowserState,
    "models": ModelState,
    "operations": OperationState,
    "totals": Totals,
}
_NAME: Mapping[type[Row], str] = {kind: name for name, kind in TABLES.items()}

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
}
"""Table → status (None: no row yet) → statuses that may follow."""

_ENDED = {"browsers": "gone", "models": "released"}
_FINISHED = frozenset({"done", "failed"})


_FIELDS: Mapping[type[Row], tuple[str, ...]] = {
    kind: tuple(f.name for f in dataclasses.fields(kind)) for kind in TABLES.values()
}

_Change = tuple[str, str, Row | None]
"""Table, key, and the row after the change: None where it was forgotten."""


def _lower(row: Row) -> dict[str, Any]:
    # the rows are flat, and the general Plain.to_plain is ten times slower: this runs for every operation
    return {name: getattr(row, name) for name in _FIELDS[type(row)]}


def _raise(table: str, plain: Mapping[str, Any]) -> Row:
    kind = TABLES[table]
    return kind(**{name: plain[name] for name in _FIELDS[kind] if name in plain})


class State:
    """The committed state. One event loop owns it; it is not thread-safe."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Row]] = {name: {} for name in TABLES}
        self._rows["totals"][""] = Totals()
        self._open: Transaction | None = None
        self._journal: list[tuple[int, float, list[_Change]]] = []
        self.number = 0
        """Number of the last commit."""
        self.at = float("-inf")

    # -- reading --

    @property
    def browsers(self) -> Mapping[str, BrowserState]:
        """Instance → browser."""
        return dict(self._rows["browsers"])  # type: ignore[arg-type]

    @property
    def models(self) -> Mapping[str, ModelState]:
        """Key → model in a browser."""
        return dict(self._rows["models"])  # type: ignore[arg-type]

    @property
    def operations(self) -> Mapping[str, OperationState]:
        """Id → operation."""
        return dict(self._rows["operations"])  # type: ignore[arg-type]

    @property
    def totals(self) -> Totals:
        """Operations that ended."""
        return self._rows["totals"][""]  # type: ignore[return-value]

    def to_plain(self) -> dict[str, Any]:
        """Everything as builtins: equal states have equal plain forms."""
        tables = {name: {key: _lower(rows[key]) for key in sorted(rows)} for name, rows in self._rows.items()}
        return {"number": self.number, "tables": tables}

    # -- changing --

    def begin(self, at: float) -> Transaction:
        """Open a transaction.

        Raises:
            StateError: one is open already, or ``at`` lies before the last commit.
        """
        if self._open is not None:
            raise StateError("a transaction is open already; transactions do not nest")
        if at < self.at:
            raise StateError(f"time ran backwards: {at} after {self.at}")
        self._open = Transaction(self, at)
        return self._open

    @contextmanager
    def transaction(self, at: float) -> Iterator[Transaction]:
        """``begin`` and ``commit``; any exception inside rolls back and goes on its way."""
        opened = self.begin(at)
        try:
            yield opened
        except BaseException:
            opened.rollback()
            raise
        opened.commit()

    def drain(self) -> list[dict[str, Any]]:
        """The journal entries since the last ``drain``, oldest first, as plain values.

        Each is ``{"number": int, "at": seconds, "changes": [[table, key, row or None], ...]}``; numbers count
        from 1 without gaps.
        """
        entries, self._journal = self._journal, []
        return [
            {
                "number": number,
                "at": at,
                "changes": [
                    [table, key, None if row is None else _lower(row)] for table, key, row in changes
                ],
            }
            for number, at, changes in entries
        ]

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Take over an entry of another state's journal.

        Raises:
            StateError: it is not the next one, it names an unknown table, or a transaction is open here.
        """
        if self._open is not None:
            raise StateError("a transaction is open")
        if entry["number"] != self.number + 1:
            raise StateError(f"journal entry {entry['number']} after {self.number}")
        changes: list[_Change] = []
        for table, key, plain in entry["changes"]:
            if table not in TABLES:
                raise StateError(f"journal entry {entry['number']} names the table {table!r}")
            changes.append((table, key, None if plain is None else _raise(table, plain)))
        self._take(changes, entry["number"], entry["at"])

    def _take(self, changes: list[_Change], number: int, at: float) -> None:
        for table, key, row in changes:
            if row is None:
                self._rows[table].pop(key, None)
            else:
                self._rows[table][key] = row
        self.number, self.at = number, at

    def _close(self, changes: list[_Change], at: float) -> None:
        """Called by the open transaction, once: no changes mean a rollback."""
        self._open = None
        if changes:
            self._take(changes, self.number + 1, at)
            self._journal.append((self.number, at, changes))


class Transaction:
    """Changes that are not visible outside until ``commit``. Reads inside see them."""

    def __init__(self, state: State, at: float) -> None:
        self._state, self.at = state, at
        self._changed: dict[tuple[str, str], Row | None] = {}
        self._is_open = True

    # -- browsers --

    def launching(self, instance: str, name: str) -> None:
        """A browser is being started."""
        self._put(BrowserState(instance=instance, name=name, since=self.at))

    def ready(self, instance: str) -> None:
        """It answers."""
        self._move(self._get(BrowserState, instance), "ready")

    def retiring(self, instance: str, reason: str) -> None:
        """It takes nothing new."""
        self._move(self._get(BrowserState, instance), "retiring", reason=reason)

    def gone(self, instance: str, reason: str) -> None:
        """Its process is gone, and with it its models; its operations have no seat any more."""
        self._move(self._get(BrowserState, instance), "gone", reason=reason)
        for model in self._all(ModelState):
            if model.instance == instance and model.status != "released":
                self._move(model, "released")
        for operation in self._all(OperationState):
            if operation.instance == instance and operation.status == "running":
                self._put(dataclasses.replace(operation, instance=""))

    # -- models --

    def loading(self, instance: str, model: str, backend: str) -> str:
        """A model is being loaded; returns its key."""
        row = ModelState(instance=instance, model=model, backend=backend, since=self.at)
        self._put(row)
        return row.key

    def loaded(self, key: str) -> None:
        """Its session is there."""
        self._move(self._get(ModelState, key), "loaded")

    def released(self, key: str) -> None:
        """Its session is gone."""
        self._move(self._get(ModelState, key), "released")

    # -- operations --

    def started(self, operation: str, kind: str, instance: str) -> None:
        """The first attempt of an operation."""
        self._put(OperationState(operation=operation, kind=kind, instance=instance, since=self.at))

    def tried_again(self, operation: str, instance: str, *, degraded: bool = False) -> None:
        """A further attempt of the same operation."""
        row = self._get(OperationState, operation)
        self._move(
            row, "running", instance=instance, attempts=row.attempts + 1, degraded=row.degraded or degraded
        )

    def finished(self, operation: str, *, ok: bool) -> None:
        """It has its answer, or was given up. It counts now, once."""
        row = self._get(OperationState, operation)
        self._move(row, "done" if ok else "failed", instance="")
        self._count(ok=ok, attempts=row.attempts, degraded=row.degraded)

    def ran(self, operation: str, *, ok: bool = True) -> None:
        """A whole operation that met no fault and so never needed a row: the cheap way for warm calls.

        Many may go into one transaction: nothing but the totals changes.
        """
        if self._read("operations", operation) is not None:
            raise StateError(f"operations {operation!r}: it has a row; say finished")
        self._count(ok=ok, attempts=1, degraded=False)

    def _count(self, *, ok: bool, attempts: int, degraded: bool) -> None:
        self._must_be_open()
        totals = self._read("totals", "")
        assert isinstance(totals, Totals)
        self._changed["totals", ""] = Totals(
            done=totals.done + ok,
            failed=totals.failed + (not ok),
            retried=totals.retried + (attempts > 1),
            degraded=totals.degraded + (ok and degraded),
            attempts=totals.attempts + attempts,
        )

    def forget_ended(self) -> None:
        """Drop gone browsers, released models and ended operations; the totals keep counting them."""
        for name in ("browsers", "models", "operations"):
            for key, row in self._merged(name).items():
                status = getattr(row, "status", "")
                if status == _ENDED.get(name) or status in _FINISHED:
                    self._changed[name, key] = None

    # -- ends --

    def commit(self) -> None:
        """Make it all visible and journal it. Where nothing changed there is no entry.

        Raises:
            StateError: a rule between rows would be broken; the transaction is then rolled back.
        """
        self._must_be_open()
        try:
            self._check()
        except StateError:
            self.rollback()
            raise
        self._is_open = False
        changes = [(table, key, row) for (table, key), row in self._changed.items()]
        self._state._close(changes, self.at)

    def rollback(self) -> None:
        """Forget it all."""
        self._must_be_open()
        self._is_open = False
        self._state._close([], self.at)

    # -- inside --

    def _must_be_open(self) -> None:
        if not self._is_open:
            raise StateError("this transaction has ended")

    def _read(self, table: str, key: str) -> Row | None:
        if (table, key) in self._changed:
            return self._changed[table, key]
        return self._state._rows[table].get(key)

    def _merged(self, table: str) -> dict[str, Row]:
        rows = dict(self._state._rows[table])
        for (name, key), row in self._changed.items():
            if name == table and row is not None:
                rows[key] = row
            elif name == table:
                rows.pop(key, None)
        return rows

    def _all(self, kind: type[R]) -> list[R]:
        return list(self._merged(_NAME[kind]).values())  # type: ignore[arg-type]

    def _get(self, kind: type[R], key: str) -> R:
        row = self._read(_NAME[kind], key)
        if row is None:
            raise StateError(f"no row {key!r} in {_NAME[kind]}")
        return row  # type: ignore[return-value]

    def _move(self, row: R, status: str, **fields: Any) -> None:
        self._put(dataclasses.replace(row, status=status, since=self.at, **fields))

    def _put(self, row: R) -> None:
        self._must_be_open()
        table = _NAME[type(row)]
        before = self._read(table, row.key)
        status = getattr(before, "status", None)
        if row.status not in MOVES[table][status]:
            raise StateError(f"{table} {row.key!r}: {status or 'no row'} → {row.status}")
        self._changed[table, row.key] = row

    def _check(self) -> None:
        """The rules between rows, for those that changed: a browser that goes changes what depends on it."""
        for row in self._changed.values():
            if isinstance(row, ModelState) and row.status != "released":
                browser = self._read("browsers", row.instance)
                if getattr(browser, "status", "") not in ("ready", "retiring"):
                    raise StateError(f"model {row.key!r} is {row.status} in a browser that is not ready")
            if isinstance(row, OperationState) and row.status == "running" and row.instance:
                browser = self._read("browsers", row.instance)
                if getattr(browser, "status", "gone") == "gone":
                    raise StateError(f"operation {row.key!r} runs in {row.instance!r}, which is gone")
