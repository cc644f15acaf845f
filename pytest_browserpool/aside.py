"""What a node does for the controller beside the running test: prewarm, retire, resize."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pytest_browserpool import markers
from pytest_browserpool.link import Message

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node

KINDS = ("prewarm", "retire", "pool")
"""Of the messages that are for here."""


class Aside:
    """One thread, one directive after the other. A failure costs nothing but the head start: the test that comes will launch
    and load by itself, and report what is wrong."""

    def __init__(
        self,
        node: Callable[[], Node],
        items: Callable[[], Mapping[str, pytest.Item]],
        send: Callable[[Message], None],
    ) -> None:
        """``items``: this node's collection by node id. ``send``: for the controller, which notes a failure."""
        self._node, self._items, self._send = node, items, send
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="browserpool-directives")

    def submit(self, message: Message) -> None:
        """Returns at once; carries out nothing once ``close`` was called."""
        with contextlib.suppress(RuntimeError):  # the executor was shut down: the run is over
            self._thread.submit(self._try, message)

    def close(self) -> None:
        """Nothing more is begun; what is under way ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _try(self, message: Message) -> None:
        try:
            self._carry_out(message)
        except Exception as error:  # noqa: BLE001  see the class
            self._send(
                {
                    "kind": "aside_failed",
                    "directive": message["kind"],
                    "browser": message.get("browser", ""),
                    "error": str(error),
                }
            )

    def _carry_out(self, message: Message) -> None:
        if message["kind"] == "retire":
            self._node().retire(message["browser"])
            return
        if message["kind"] == "pool":
            self._node().resize(message["size"], message["most"], frozenset(message["soon"]))
            return
        item = self._items().get(message["test"] or "")
        request = markers.request_for(item) if item is not None else None
        self._node().prewarm(message["browser"], message["backend"], request)
