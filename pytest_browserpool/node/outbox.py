"""What a node has to tell, in as few messages as may be: each costs both ends a tenth of a millisecond and more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_browserpool.values import Plain

Message = dict[str, Any]

BATCH = 256
"""Rows held back at most: a message per call would cost each warm call a tenth of a millisecond."""


class Outbox:
    """Thread-safe. ``send`` takes one message, which may stand for several (``link.each_of``)."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._rows: list[tuple[str, Plain]] = []
        self._together: list[Message] | None = None

    def emit(self, message: Message) -> None:
        """Sends ``message``, or keeps it for the one that ``together`` sends."""
        self._emit([message])

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is emitted meanwhile, by any thread, goes as one message at the end."""
        with self._lock:
            self._together = []
        try:
            yield
        finally:
            with self._lock:
                messages, self._together = self._together or [], None
            self._emit(messages)

    def row(self, table: str, record: Plain) -> None:
        """Queues a row; sent in batches, and made plain only then: a warm call must not pay for it."""
        with self._lock:
            self._rows.append((table, record))
            full = len(self._rows) >= BATCH
        if full:
            self.flush()

    def flush(self) -> None:
        """Sends the rows that are queued."""
        with self._lock:
            rows, self._rows = self._rows, []
        self._emit([{"kind": "record", "table": table, "row": record.to_plain()} for table, record in rows])

    def _emit(self, messages: list[Message]) -> None:
        with self._lock:
            if self._together is not None:
                self._together += messages
                return
        if messages:
            self._send({"kind": "several", "parts": messages} if len(messages) > 1 else messages[0])
