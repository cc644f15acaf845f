"""A transaction of a node's state: changes that nobody else sees until they are all there, and the rules between rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pytest_browserpool.recovery.rows import (
    MOVES,
    TABLE_OF,
    BrowserState,
    Change,
    CircuitState,
    ModelState,
    OperationState,
    Row,
    StateError,
    Totals,
)

R = TypeVar("R", BrowserState, ModelState, OperationState, CircuitState)

_ENDED = {"browsers": "gone", "models": "released"}
_FINISHED = frozenset({"done", "failed"})


class Transaction:
    """Changes that are not visible outside until ``commit``. Reads inside see them. ``State.begin`` makes one."""

    def __init__(
        self,
        rows: Mapping[str, Mapping[str, Row]],
        at: float,
        close: Callable[[list[Change]], None],
    ) -> None:
        """``rows``: what is committed, by table and key. ``close`` is called once: no changes mean a rollback."""
        self._rows, self.at, self._close = rows, at, close
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

    def circuit(self, browser: str, status: str) -> None:
        """The circuit breaker of the browsers of this name opened, or closed."""
        self._put(CircuitState(browser=browser, status=status, since=self.at))

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
        self._close(changes)

    def rollback(self) -> None:
        """Forget it all."""
        self._must_be_open()
        self._is_open = False
        self._close([])

    # -- inside --

    def _must_be_open(self) -> None:
        if not self._is_open:
            raise StateError("this transaction has ended")

    def _read(self, table: str, key: str) -> Row | None:
        if (table, key) in self._changed:
            return self._changed[table, key]
        return self._rows[table].get(key)

    def _merged(self, table: str) -> dict[str, Row]:
        rows = dict(self._rows[table])
        for (name, key), row in self._changed.items():
            if name == table and row is not None:
                rows[key] = row
            elif name == table:
                rows.pop(key, None)
        return rows

    def _all(self, kind: type[R]) -> list[R]:
        return list(self._merged(TABLE_OF[kind]).values())  # type: ignore[arg-type]

    def _get(self, kind: type[R], key: str) -> R:
        row = self._read(TABLE_OF[kind], key)
        if row is None:
            raise StateError(f"no row {key!r} in {TABLE_OF[kind]}")
        return row  # type: ignore[return-value]

    def _move(self, row: R, status: str, **fields: Any) -> None:
        self._put(dataclasses.replace(row, status=status, since=self.at, **fields))

    def _put(self, row: R) -> None:
        self._must_be_open()
        table = TABLE_OF[type(row)]
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
