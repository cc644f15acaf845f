"""Counting migrations: tests that ran elsewhere than first planned, and whether that ended sooner."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_browserpool.placement.state import NodePlan, Test

KEPT = 10_000
"""Moves kept for the record between two readings: more than a second brings."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One migration that is over; times on the engine's clock."""

    test: str
    at: float
    """When it was sent."""
    home: str
    node: str
    expected_there_s: float | None
    """Seconds from then to its end in its old place; None where that could not run it any more."""
    took_s: float | None
    """None: its node was lost with it."""


class Migrations:
    """A migration is a test sent to another node than its first plan had, while that node was still there.

    It is useful if the test ended before the time at which it was expected to end in its old place, had it
    been put at the end of the queue there when it was sent.
    """

    def __init__(self) -> None:
        self.count = 0
        self.useful = 0
        self.over: deque[Move] = deque(maxlen=KEPT)
        """Migrations that are over, until somebody takes them out."""
        self._open: dict[str, tuple[float, str, str, float | None]] = {}
        """Test → when it was sent, its home, its node, and the seconds expected at home."""

    def settle(self, tests: Iterable[Test]) -> None:
        """The plan as it stands is the first plan of ``tests``."""
        for test in tests:
            test.home = test.node

    def sent(self, test: Test, node: NodePlan, nodes: Mapping[str, NodePlan], now: float) -> None:
        """``test`` goes to ``node`` now."""
        home = nodes.get(test.home) if test.home is not None and test.home != node.id else None
        if home is None:
            return
        self.count += 1
        there = min(
            (home.setup(s) + test.scale * home.unit(s) for s in test.kind.options[home.profile]), default=None
        )
        expected = max(home.finish, now) + there - now if there is not None else None
        self._open[test.nodeid] = (now, home.id, node.id, expected)

    def finished(self, test: Test, now: float) -> None:
        """``test`` ended."""
        move = self._open.pop(test.nodeid, None)
        if move is None:
            return
        at, home, node, expected = move
        took = now - at
        if expected is not None and took < expected:
            self.useful += 1
        self.over.append(
            Move(test=test.nodeid, at=at, home=home, node=node, expected_there_s=expected, took_s=took)
        )
