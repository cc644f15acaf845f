"""A node's browsers, models and operations as transactions (``recovery.state``), each commit told to the controller."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pytest_browserpool.recovery.state import State
from pytest_browserpool.recovery.transaction import Transaction

ENDED_ROWS = 64
"""Ended rows kept before they are forgotten: each is in the journal already, and forgetting costs an entry."""


_process, _operations = uuid.uuid4().hex[:20], itertools.count(1)


def _operation_id() -> str:
    """Unique among processes and runs: what is random is drawn once, because each warm call would pay for it."""
    return f"{_process}{next(_operations):012x}"


@dataclass(slots=True)
class Operation:
    """One call or load, however often it is tried: it keeps its id, and counts once."""

    kind: str
    id: str = field(default_factory=_operation_id)
    attempts: int = 1


class Journal:
    """Thread-safe: the pool's events come from the loop, calls from the test's thread.

    What a warm call without a fault changes is one number; those are committed together, when the test ends.
    """

    def __init__(self, emit: Callable[[dict[str, Any]], None]) -> None:
        self.state = State()
        self._emit = emit
        self._lock = threading.Lock()
        self._sessions: Counter[tuple[str, str, str]] = Counter()
        """(instance, model, backend) → its sessions: of other options or shapes there may be several."""
        self._clean: list[tuple[str, bool]] = []
        """Operations that met no fault: id, and whether they came out well."""

    @contextmanager
    def change(self) -> Iterator[Transaction]:
        """A transaction; its commit goes to the controller at once.

        Raises:
            StateError: a rule of ``recovery.state`` would be broken: a defect of ours. Nothing changed.
        """
        with self._lock:
            with self.state.transaction(max(time.time(), self.state.at)) as opened:
                yield opened
            for entry in self.state.drain():
                self._emit({"kind": "journal", "entry": entry})

    # -- browsers and models --

    def launched(self, instance: str, name: str) -> None:
        with self.change() as tx:
            tx.launching(instance, name)
            tx.ready(instance)

    def closed(self, instance: str, reason: str) -> None:
        """Its process is gone. Its sessions went with it, in the same transaction."""
        if not self._lives(instance):
            return  # it never became ready
        with self.change() as tx:
            tx.gone(instance, reason)
        for key in [key for key in self._sessions if key[0] == instance]:
            del self._sessions[key]

    def circuit(self, browser: str, status: str) -> None:
        """The circuit breaker of this browser name opened or closed."""
        with self.change() as tx:
            tx.circuit(browser, status)

    def session_made(self, instance: str, model: str, backend: str) -> None:
        key = (instance, model, backend)
        self._sessions[key] += 1
        if self._sessions[key] == 1 and self._lives(instance):
            with self.change() as tx:
                tx.loaded(tx.loading(instance, model, backend))

    def session_gone(self, instance: str, model: str, backend: str) -> None:
        key = (instance, model, backend)
        self._sessions[key] -= 1
        if self._sessions[key] > 0:
            return
        del self._sessions[key]
        row = self.state.models.get(f"{instance}|{backend}|{model}")
        if row is not None and row.status == "loaded":
            with self.change() as tx:
                tx.released(row.key)

    def _lives(self, instance: str) -> bool:
        row = self.state.browsers.get(instance)
        return row is not None and row.status != "gone"

    # -- operations --

    def met_fault(self, operation: Operation, instance: str) -> None:
        """It is under way and cannot go on where it is: from now on it has a row of its own."""
        if operation.id not in self.state.operations:
            with self.change() as tx:
                tx.started(operation.id, operation.kind, instance if self._lives(instance) else "")

    def tried_again(self, operation: Operation, *, degraded: bool) -> None:
        """A further attempt is begun; where, is in the fault's own record."""
        operation.attempts += 1
        row = self.state.operations.get(operation.id)
        if row is not None and row.status == "running":  # a load is done, and its first use is what fails
            with self.change() as tx:
                tx.tried_again(operation.id, "", degraded=degraded)

    def ended(self, operation: Operation, *, ok: bool) -> None:
        """It has its answer or was given up; it counts now, once: a recovered load is told of twice."""
        row = self.state.operations.get(operation.id)
        if row is None:
            self._clean.append((operation.id, ok))
        elif row.status == "running":
            with self.change() as tx:
                tx.finished(operation.id, ok=ok)

    def settle(self) -> None:
        """At the end of a test: counts what met no fault, and forgets what has ended."""
        clean, self._clean = self._clean, []
        if not clean and self._ended() <= ENDED_ROWS:
            return
        with self.change() as tx:
            for operation, ok in clean:
                tx.ran(operation, ok=ok)
            if self._ended() > ENDED_ROWS:
                tx.forget_ended()

    def _ended(self) -> int:
        tables = (self.state.browsers, self.state.models, self.state.operations)
        statuses = [row.status for table in tables for row in table.values()]
        return sum(status in ("gone", "released", "done", "failed") for status in statuses)
