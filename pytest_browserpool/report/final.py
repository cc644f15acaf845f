"""The view of the run that ends, worked out once for all who show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_browserpool.errors import HistoryError
from pytest_browserpool.report.view import RunView, build_view
from pytest_browserpool.store.rows import RunRows


class FinalView:
    """``rows`` gives the run's records so far, or None; ``warnings`` the history's troubles; ``advice`` the one
    recommendation that matters most, or None."""

    def __init__(
        self,
        rows: Callable[[], RunRows | None],
        warnings: Callable[[], Sequence[str]] = lambda: (),
        advice: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._rows, self.warnings, self._advice = rows, warnings, advice
        self._view: RunView | None = None
        self._advised: list[str | None] = []

    def __call__(self) -> RunView | None:
        """The view; None before the run has begun."""
        if self._view is None or self._view.warnings != tuple(self.warnings()):
            rows = self._rows()
            if rows is None:
                return None
            view = build_view(rows, self.warnings())
            if rows.run.finished_at is None:
                return view
            self._view = view
        return self._view

    def advice(self) -> str | None:
        """Asked for once: it reads the history. None where that cannot be read: the writer has said so then."""
        if not self._advised:
            try:
                self._advised.append(self._advice())
            except HistoryError:
                self._advised.append(None)
        return self._advised[0]
