"""Counting migrations: tests that ran elsewhere than first planned, and whether that ended sooner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_browserpool.placement.state import NodePlan, Test


class Migrations:
    """A migration is a test sent to another node than its first plan had, while that node was still there.

    It is useful if the test ended before the time at which it was expected to end in its old place, had it
    been put at the end of the queue there when it was sent.
    """

    def __init__(self) -> None:
        self.count = 0
        self.useful = 0
        self._expected: dict[str, float] = {}

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
        if there is not None:
            self._expected[test.nodeid] = max(home.finish, now) + there

    def finished(self, test: Test, now: float) -> None:
        """``test`` ended."""
        expected = self._expected.pop(test.nodeid, None)
        if expected is not None and now < expected:
            self.useful += 1
