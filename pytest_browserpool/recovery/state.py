"""The state of a node's browsers, models and operations: it changes in transactions, and every commit is journalled.

Pure: times are passed in, nothing is written anywhere. The rules:

- Rows change only inside a transaction. ``commit`` makes all of its changes visible at once, ``rollback``
  (and any exception inside the ``with``) none. A second transaction while one is open is refused.
- A row moves only along its table in ``rows.py``. A commit that would break a rule between rows is refused as a whole.
- Each commit is one journal entry of plain values. A replica that applies the entries in order is equal to
  the original; an entry out of order is refused.
- An operation counts once, however often it was tried: it is counted when it ends, and ends once.

Rules between rows: a model is loading or loaded only in a browser that is ready or retiring; a running
operation sits on no seat or on a browser that is not gone. When a browser goes, its models are released and
its operations are left without a seat, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pytest_browserpool.recovery.rows import (
    TABLES,
    BrowserState,
    Change,
    ModelState,
    OperationState,
    Row,
    StateError,
    Totals,
    plain_of,
    row_of,
)
from pytest_browserpool.recovery.transaction import Transaction


class State:
    """The committed state. One event loop owns it; it is not thread-safe."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Row]] = {name: {} for name in TABLES}
        self._rows["totals"][""] = Totals()
        self._open: Transaction | None = None
        self._journal: list[tuple[int, float, list[Change]]] = []
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
        tables = {
            name: {key: plain_of(rows[key]) for key in sorted(rows)} for name, rows in self._rows.items()
        }
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
        self._open = Transaction(self._rows, at, lambda changes: self._close(changes, at))
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
                    [table, key, None if row is None else plain_of(row)] for table, key, row in changes
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
        changes: list[Change] = []
        for table, key, plain in entry["changes"]:
            if table not in TABLES:
                raise StateError(f"journal entry {entry['number']} names the table {table!r}")
            changes.append((table, key, None if plain is None else row_of(table, plain)))
        self._take(changes, entry["number"], entry["at"])

    def _take(self, changes: list[Change], number: int, at: float) -> None:
        for table, key, row in changes:
            if row is None:
                self._rows[table].pop(key, None)
            else:
                self._rows[table][key] = row
        self.number, self.at = number, at

    def _close(self, changes: list[Change], at: float) -> None:
        """Called by the open transaction, once: no changes mean a rollback."""
        self._open = None
        if changes:
            self._take(changes, self.number + 1, at)
            self._journal.append((self.number, at, changes))
