"""The engine's books: kinds of tests, and for each node what is warm, what runs, what is planned and how long
it takes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_browserpool.placement.beliefs import Belief
from pytest_browserpool.placement.cost import CostModel
from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.policy import FIRST_RUN_SHARE, FIRST_RUN_SHARE_OTHER
from pytest_browserpool.values import ModelNeeds, NodeCapabilities


@dataclass(slots=True, eq=False)
class Test:
    """One test. ``scale``: its warm time over its session's typical one."""

    __test__ = False

    index: int
    nodeid: str
    kind: Kind
    scale: float = 1.0
    done: bool = False
    lost_on: tuple[str, ...] = ()
    home: str | None = None
    """The node that the first plan gave it to."""
    node: str | None = None
    """The node that it is planned on or runs on."""

    def __lt__(self, other: Test) -> bool:
        return (self.scale, -self.index) < (other.scale, -other.index)


@dataclass(slots=True, eq=False)
class Pool:
    """Kinds that can run in the same sessions, whatever their priority."""

    waiting: int = 0
    """Tests that were not sent yet."""
    sent: int = 0


@dataclass(slots=True, eq=False)
class Kind:
    """Tests that are alike to the scheduler: the same needs."""

    index: int
    needs: ModelNeeds | None
    priority: int
    model: str
    type: str
    key: tuple[str, int] | None
    absent: frozenset[int] = frozenset()
    """Node profiles that did not collect these tests."""
    options: dict[int, tuple[Session, ...]] = field(default_factory=dict)
    """Node profile → sessions that such a node can give."""
    pool: Pool = field(default_factory=Pool)
    waiting: int = 0
    """Tests that were not sent yet."""
    counted: frozenset[str] = frozenset()
    """The browsers that were counted as wanted for it, while any waits."""
    tests: list[Test] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Batch:
    """Tests of one kind that one node will run in one session, the longest last."""

    kind: Kind
    session: Session
    tests: list[Test] = field(default_factory=list)
    work: float = 0.0
    """Sum of the tests' scales."""


class Estimates:
    """Expected seconds per session at speed 1, frozen until ``clear``: sums of them stay consistent
    meanwhile."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self.types: dict[str, str] = {}
        self.unit: dict[Session, float] = {}
        self.beliefs: dict[Session, Belief] = {}
        self.load: dict[Session, float] = {}
        self.launch: dict[tuple[str, str], float] = {}
        self.warm: Counter[Session] = Counter()
        """Session → nodes where it is warm."""

    def clear(self) -> None:
        self.unit.clear()
        self.beliefs.clear()
        self.load.clear()
        self.launch.clear()

    def of_run(self, session: Session) -> float:
        """Seconds of a warm test of scale 1."""
        value = self.unit.get(session)
        if value is None:
            value = self.unit[session] = self.costs.run(session, self.types.get(session[2], ""))
        return value

    def of_belief(self, session: Session) -> Belief:
        """What is believed of ``of_run``."""
        value = self.beliefs.get(session)
        if value is None:
            value = self.beliefs[session] = self.costs.runs.belief(session, self.types.get(session[2], ""))
        return value

    def of_load(self, session: Session) -> float:
        value = self.load.get(session)
        if value is None:
            value = self.load[session] = self.costs.load(session, self.types.get(session[2], ""))
        return value

    def of_first_run(self, session: Session) -> float:
        """The part of ``of_load`` that a session which was made and never ran still has to pay."""
        return self.of_load(session) * FIRST_RUN_SHARE.get(session[1], FIRST_RUN_SHARE_OTHER)

    def of_launch(self, browser: str, node: str) -> float:
        value = self.launch.get((browser, node))
        if value is None:
            value = self.launch[browser, node] = self.costs.launch(browser, node)
        return value


class NodePlan:
    """One node's ledger: ``busy_until`` + ``load`` is the time at which it will have finished all that it was
    given."""

    def __init__(self, capabilities: NodeCapabilities, profile: int, estimates: Estimates) -> None:
        self.id = capabilities.node
        self.capabilities = capabilities
        self.machine = capabilities.machine or capabilities.host
        self.profile = profile
        self.estimates = estimates
        self.slowness = 1.0
        self.warm: set[Session] = set()
        self.made: set[Session] = set()
        """Sessions that are there and never ran: what compiles is still to come."""
        self.browsers: set[str] = set()
        self.running: Test | None = None
        self.session: Session | None = None
        self.started = 0.0
        self.expected_s = 0.0
        self.busy_until = 0.0
        self.load = 0.0
        self.batches: dict[tuple[int, Session], Batch] = {}
        self.used: dict[Session, int] = {}
        self.browser_used: dict[str, int] = {}
        self.order: list[Batch] | None = None
        self.prewarmed: Session | None = None
        self.dismissed = False

    @property
    def finish(self) -> float:
        return self.busy_until + self.load

    # -- the ledger: counts and seconds only, so that a move can be tried and undone cheaply -----------------

    def charge(self, session: Session, work: float, count: int) -> None:
        """Count ``count`` more tests of ``session`` with ``work`` together, and the set-ups that they
        bring."""
        used = self.used.get(session, 0)
        self.used[session] = used + count
        seconds = work * self.estimates.of_run(session)
        browser = session[0]
        if browser:
            if not used and session not in self.warm:
                seconds += self._to_load(session)
            n = self.browser_used.get(browser, 0)
            self.browser_used[browser] = n + count
            if not n and browser not in self.browsers:
                seconds += self.estimates.of_launch(browser, self.id)
        self.load += seconds * self.slowness

    def discharge(self, session: Session, work: float, count: int) -> None:
        """Undo a ``charge``."""
        left = self.used[session] - count
        if left:
            self.used[session] = left
        else:
            del self.used[session]
        seconds = work * self.estimates.of_run(session)
        browser = session[0]
        if browser:
            if not left and session not in self.warm:
                seconds += self._to_load(session)
            n = self.browser_used[browser] - count
            if n:
                self.browser_used[browser] = n
            else:
                del self.browser_used[browser]
                if browser not in self.browsers:
                    seconds += self.estimates.of_launch(browser, self.id)
        self.load -= seconds * self.slowness

    def setup(self, session: Session) -> float:
        """Seconds of set-up that the first further test of ``session`` would bring to this plan."""
        browser = session[0]
        if not browser or session in self.warm or session in self.used:
            return 0.0
        seconds = self._to_load(session)
        if browser not in self.browsers and browser not in self.browser_used:
            seconds += self.estimates.of_launch(browser, self.id)
        return seconds * self.slowness

    def setup_now(self, session: Session) -> tuple[float, float]:
        """(launch, load) seconds that a test of ``session`` would cost if it ran now."""
        browser = session[0]
        if not browser or session in self.warm:
            return 0.0, 0.0
        launch = 0.0 if browser in self.browsers else self.estimates.of_launch(browser, self.id)
        return launch * self.slowness, self._to_load(session) * self.slowness

    def _to_load(self, session: Session) -> float:
        """Seconds at speed 1 until a session that is not warm would be."""
        if session in self.made:
            return self.estimates.of_first_run(session)
        value = self.estimates.load.get(session)
        return value if value is not None else self.estimates.of_load(session)

    def unit(self, session: Session) -> float:
        """Seconds of an average warm test of ``session`` here."""
        # asked several times in each decision: a lookup is cheaper than a call
        value = self.estimates.unit.get(session)
        return (value if value is not None else self.estimates.of_run(session)) * self.slowness

    def warm_up(self, browser: str, session: Session | None) -> None:
        """``browser`` (and ``session``) is there, or will be before the next test begins."""
        if browser not in self.browsers:
            if browser in self.browser_used:
                self.load -= self.estimates.of_launch(browser, self.id) * self.slowness
            self.browsers.add(browser)
        if session is not None and session not in self.warm:
            if session in self.used:
                self.load -= self._to_load(session) * self.slowness
            self.made.discard(session)
            self.warm.add(session)
            self.estimates.warm[session] += 1

    def make(self, session: Session) -> None:
        """``session`` is there, and nothing ran in it yet."""
        self.warm_up(session[0], None)
        if session in self.warm or session in self.made:
            return
        before = self._to_load(session)
        self.made.add(session)
        if session in self.used:
            self.load -= (before - self._to_load(session)) * self.slowness

    def cool_down(self, browser: str, backend: str | None, model: str | None) -> None:
        """A session is gone; without ``model`` the whole browser and all its sessions."""
        gone = {s for s in self.warm if s[0] == browser and (model is None or s[1:] == (backend, model))}
        for session in {
            s for s in self.made if s[0] == browser and (model is None or s[1:] == (backend, model))
        }:
            before = self._to_load(session)
            self.made.discard(session)
            if session in self.used:
                self.load += (self._to_load(session) - before) * self.slowness
        for session in gone:
            self.warm.discard(session)
            self.estimates.warm[session] -= 1
            if session in self.used:
                self.load += self.estimates.of_load(session) * self.slowness
        if model is None and browser in self.browsers:
            self.browsers.discard(browser)
            if browser in self.browser_used:
                self.load += self.estimates.of_launch(browser, self.id) * self.slowness
        self.prewarmed = None

    # -- the plan --------------------------------------------------------------------------------------------

    def put(self, kind: Kind, session: Session, tests: Sequence[Test]) -> None:
        """Plan ``tests`` here."""
        batch = self.batches.get((kind.index, session))
        if batch is None:
            batch = self.batches[kind.index, session] = Batch(kind, session)
            self.order = None
        work = sum(t.scale for t in tests)
        if len(tests) < 8:
            for test in tests:
                insort(batch.tests, test)
        else:
            batch.tests.extend(tests)
            batch.tests.sort()
        for test in tests:
            test.node = self.id
        batch.work += work
        self.charge(session, work, len(tests))

    def take(self, batch: Batch, tests: Sequence[Test]) -> None:
        """Take ``tests`` (all of ``batch``) out of the plan."""
        work = sum(t.scale for t in tests)
        if len(tests) == len(batch.tests):
            batch.tests = []
        elif len(tests) < 8:
            for test in tests:
                at = bisect_left(batch.tests, test)
                assert batch.tests[at] is test
                del batch.tests[at]
        else:
            gone = set(tests)
            batch.tests = [t for t in batch.tests if t not in gone]
        batch.work -= work
        self.discharge(batch.session, work, len(tests))
        if not batch.tests:
            del self.batches[batch.kind.index, batch.session]
            self.order = None

    def recount(self) -> None:
        """Sum the ledger anew after estimates changed or something became warm or cold."""
        self.slowness = 1.0 / self.estimates.costs.speed(self.id)
        self.order = None
        self.used.clear()
        self.browser_used.clear()
        self.load = 0.0
        for batch in self.batches.values():
            batch.work = sum(t.scale for t in batch.tests) if len(batch.tests) < 8 else batch.work
            self.charge(batch.session, batch.work, len(batch.tests))

    def ordered(self) -> list[Batch]:
        """The batches in the order in which to run them, first last.

        Strictly by priority; then the one whose first test with its set-up takes longest, so that at the end
        of the run short ones are left, which can be shared out finely.
        """
        if self.order is None:
            batches = self.batches.values()
            self.order = sorted(batches, key=self._rank) if len(batches) > 1 else list(batches)
        return self.order

    def _rank(self, batch: Batch) -> tuple[int, bool, float, int]:
        session, kind, estimates = batch.session, batch.kind, self.estimates
        value = estimates.unit.get(session)
        unit = (value if value is not None else estimates.of_run(session)) * self.slowness
        first = batch.tests[-1].scale * unit if batch.tests else 0.0
        if session in self.warm:
            return (-kind.priority, True, first, -kind.index)
        setup = self._to_load(session) * self.slowness if session[0] else 0.0
        if session[0] and session[0] not in self.browsers:
            setup = estimates.of_launch(session[0], self.id) * self.slowness + setup
        return (-kind.priority, not estimates.warm.get(session), setup + first, -kind.index)
