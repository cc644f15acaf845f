"""What the engine knows: nodes that are up, kinds of tests, who can run what, and what waits for a node to come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pytest_browserpool.placement.cost import CostModel
from pytest_browserpool.placement.eligibility import needs_browser, sessions_on, why_not
from pytest_browserpool.placement.events import LaunchObserved, LoadObserved, RunObserved
from pytest_browserpool.placement.history import History, Session
from pytest_browserpool.placement.limits import excluded
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.placement.sharing import Prices
from pytest_browserpool.placement.state import Estimates, Kind, NodePlan, Pool, Test
from pytest_browserpool.preferences import preferred
from pytest_browserpool.values import ModelNeeds, NodeCapabilities, TestNeeds


class Book:
    """Nodes, kinds, tests and estimates. It keeps them consistent and decides nothing."""

    def __init__(self, config: EngineConfig, history: History | None) -> None:
        self.config = config
        self.costs = CostModel(history, doubting=config.learn)
        self.estimates = Estimates(self.costs)
        self.estimated_at = -1
        self.nodes: dict[str, NodePlan] = {}
        self.capabilities: dict[str, NodeCapabilities] = {}
        self.profiles: dict[tuple[object, ...], int] = {}
        self.examples: list[NodeCapabilities] = []
        self.lacking: list[frozenset[str]] = []
        """By profile: the tests that such nodes did not collect."""
        self.profile_of: dict[str, int] = {}
        self.limited: set[str] = set()
        """Nodes that leave some of their browsers to others."""
        self.kinds: list[Kind] = []
        self.pools: dict[tuple[object, ...], Pool] = {}
        self.tests: dict[str, Test] = {}
        self.refused: set[Session] = set()
        self.unplaced: dict[int, list[Test]] = {}
        self.limits: dict[str, int] = {}
        self.held: Counter[str] = Counter()
        self.flying: Counter[Session] = Counter()
        """Session → tests that run in it now."""
        self.waiting: Counter[int] = Counter()
        self.wanted: Counter[str] = Counter()
        """Browser → kinds with waiting tests that could use it somewhere."""
        self.unwanted: set[str] = set()
        """Browsers that were wanted and are no more: they may be retired."""
        self.more = config.expected_nodes
        self.remaining = 0
        self._prices: Prices | None = None

    @property
    def prices(self) -> Prices:
        """What a second of work is worth between the nodes that are up."""
        if self._prices is None:
            self._prices = Prices(list(self.nodes.values()))
        return self._prices

    # -- nodes -----------------------------------------------------------------------------------------------

    def add_node(
        self, capabilities: NodeCapabilities, now: float, lacks: frozenset[str] = frozenset()
    ) -> NodePlan:
        profile = self._profile(capabilities, lacks)
        machine = capabilities.machine or capabilities.host
        self.costs.machines[capabilities.node] = machine
        self.costs.hosts[capabilities.node] = self.costs.hosts[machine] = capabilities.host
        node = NodePlan(capabilities, profile, self.estimates)
        node.busy_until = now
        node.recount()
        self.nodes[node.id] = node
        self._prices = None
        self.capabilities[node.id] = capabilities
        self.profile_of[node.id] = profile
        if self.more is not None:
            self.more = max(0, self.more - 1)
        return node

    def limit_browsers(self) -> None:
        """Leave each browser to as many nodes as the config says. Before anything is planned."""
        here = [self.capabilities[name] for name in self.nodes]
        for name, browsers in excluded(here, self.config.browser_nodes).items():
            full, node = self.capabilities[name], self.nodes[name]
            rest = replace(full, browsers=tuple(b for b in full.browsers if b.name not in browsers))
            node.profile = self.profile_of[name] = self._profile(rest, self.lacking[node.profile])
            self.limited.add(name)

    def lift_limits(self) -> None:
        """Every node may use all its browsers again: what was left to one that is gone must not be lost with it."""
        for name in self.limited & self.nodes.keys():
            node = self.nodes[name]
            node.profile = self.profile_of[name] = self._profile(
                self.capabilities[name], self.lacking[node.profile]
            )
        self.limited.clear()

    def _profile(self, capabilities: NodeCapabilities, lacks: frozenset[str]) -> int:
        """The number of what a node can do: nodes that can do the same share it."""
        signature = (
            capabilities.memory_gib,
            lacks,
            tuple((b.name, b.family, tuple(sorted(b.usable))) for b in capabilities.browsers),
        )
        profile = self.profiles.setdefault(signature, len(self.profiles))
        if profile == len(self.examples):
            self.examples.append(capabilities)
            self.lacking.append(lacks)
            # a kind of which a later node lacks some tests is kept from it altogether: nodes that come later
            # replace others and collect the same, so splitting kinds would buy nothing
            for index in {self.tests[name].kind.index for name in lacks if name in self.tests}:
                self.kinds[index].absent |= {profile}
            for kind in self.kinds:
                self._set_options(kind, profile)
        return profile

    def remove_node(self, node: NodePlan) -> list[Test]:
        """Forget ``node``; the tests that were planned there."""
        del self.nodes[node.id]
        self._prices = None
        self.estimates.warm.subtract(node.warm)
        orphans = [t for batch in node.batches.values() for t in batch.tests]
        for test in orphans:
            test.node = test.home = None
        return orphans

    # -- tests -----------------------------------------------------------------------------------------------

    def add_tests(self, tests: Iterable[TestNeeds]) -> list[Test]:
        kinds: dict[tuple[object, ...], Kind] = {}
        durations: dict[str, list[float]] = {}
        added: list[Test] = []
        for item in tests:
            kind = self._kind(kinds, item.needs, self._absent(item.nodeid))
            test = Test(len(self.tests), item.nodeid, kind)
            self.tests[item.nodeid] = test
            added.append(test)
            if item.needs is not None and item.needs.expected_duration:
                durations.setdefault(kind.model, []).append(item.needs.expected_duration)
        self.remaining += len(added)
        for model, values in durations.items():
            self.costs.hint(model, sum(values) / len(values))
        for test in added:
            test.scale = self._scale(test, durations)
        return added

    def _absent(self, nodeid: str) -> frozenset[int]:
        return frozenset(profile for profile, lacks in enumerate(self.lacking) if nodeid in lacks)

    def _set_options(self, kind: Kind, profile: int) -> None:
        if kind.waiting:
            self.wanted.subtract(kind.counted)
        if profile in kind.absent:
            kind.options[profile] = ()
        else:
            kind.options[profile] = sessions_on(
                self.examples[profile],
                kind.needs,
                self.refused,
                every_backend=self.config.learn,
                preferred=preferred(self.config.preferences, kind.needs),
            )
        if kind.waiting:
            self._want(kind)

    def _kind(
        self, kinds: dict[tuple[object, ...], Kind], needs: ModelNeeds | None, absent: frozenset[int]
    ) -> Kind:
        plain = needs if needs is not None else ModelNeeds()
        browser = needs_browser(needs)
        signature = (
            browser,
            plain.session_key if browser else "",
            plain.type if browser else "",
            plain.browsers,
            plain.backends,
            plain.min_memory,
            plain.priority,
            plain.concurrency_key,
            absent,
        )
        kind = kinds.get(signature)
        if kind is None:
            kind = kinds[signature] = self._new_kind(needs, plain, browser, absent)
        return kind

    def _new_kind(
        self, needs: ModelNeeds | None, plain: ModelNeeds, browser: bool, absent: frozenset[int]
    ) -> Kind:
        kind = Kind(
            index=len(self.kinds),
            needs=needs,
            priority=plain.priority,
            model=plain.session_key if browser else "",
            type=(plain.type or "") if browser else "",
            key=plain.concurrency_key,
            absent=absent,
            pool=self.pools.setdefault(
                (browser, plain.session_key, plain.browsers, plain.backends, plain.min_memory, absent), Pool()
            ),
        )
        self.kinds.append(kind)
        if kind.model and kind.type:
            self.estimates.types[kind.model] = kind.type
        if kind.key is not None:
            name, n = kind.key
            self.limits[name] = min(n, self.limits.get(name, n))
        for profile in range(len(self.examples)):
            self._set_options(kind, profile)
        return kind

    def _scale(self, test: Test, durations: dict[str, list[float]]) -> float:
        known = self.costs.scale(test.nodeid)
        if known is not None:
            return known
        needs = test.kind.needs
        if needs is not None and needs.expected_duration:
            values = durations[test.kind.model]
            return max(needs.expected_duration * len(values) / sum(values), 1e-6)
        return 1.0

    def refuse(self, session: Session) -> list[Kind]:
        """Note that ``session`` does not work; the kinds that had it as an option."""
        self.refused.add(session)
        touched = []
        for kind in self.kinds:
            if kind.model == session[2] and any(session in options for options in kind.options.values()):
                for profile in range(len(self.examples)):
                    self._set_options(kind, profile)
                touched.append(kind)
        return touched

    def candidates(self, kind: Kind) -> list[NodePlan]:
        """The nodes that are up and can run ``kind``."""
        return [n for n in self.nodes.values() if kind.options[n.profile]]

    def reasons(self, kind: Kind) -> tuple[str, ...]:
        """Why no node can run ``kind``, a line per node that was ever up."""
        lines = []
        for name, capabilities in self.capabilities.items():
            reason = why_not(capabilities, kind.needs, self.refused)
            if self.profile_of[name] in kind.absent:
                reason = f"{name}: did not collect it"
            elif not reason:
                reason = f"{name}: lost"
            lines.append(reason)
        return tuple(lines) or ("no node came up",)

    # -- estimates -------------------------------------------------------------------------------------------

    def measured(self, event: RunObserved | LoadObserved | LaunchObserved) -> None:
        """Take in what a launch, a load or a run on a node that is up took."""
        node, costs = self.nodes[event.node], self.costs
        if isinstance(event, LaunchObserved):
            costs.observe_launch(event.node, event.browser, event.seconds)
            node.warm_up(event.browser, None)
            return
        session = (event.browser, event.backend, event.model)
        kind = self.estimates.types.get(event.model, "")
        if isinstance(event, LoadObserved):
            costs.observe_load(event.node, session, kind, event.seconds)
            node.warm_up(event.browser, session)
        else:
            test = self.tests.get(event.test)
            costs.observe_run(event.node, session, kind, test.scale if test else 1.0, event.seconds)

    def refresh(self) -> bool:
        """Bring every ledger up to what has been measured since; whether anything was."""
        if self.estimated_at == self.costs.version:
            return False
        self.estimated_at = self.costs.version
        self.costs.fit(self.estimates.types)
        self.estimates.clear()
        for node in self.nodes.values():
            node.recount()
        return True

    @property
    def batches(self) -> int:
        return sum(len(n.batches) for n in self.nodes.values())

    def wait(self, test: Test, change: int) -> None:
        """Count ``test`` among those that wait to be sent (+1), or no more (−1)."""
        kind = test.kind
        self.waiting[kind.priority] += change
        kind.pool.waiting += change
        before, kind.waiting = kind.waiting, kind.waiting + change
        if before == 0:
            self._want(kind)
        elif kind.waiting == 0:
            self.wanted.subtract(kind.counted)
            self.unwanted |= {b for b in kind.counted if not self.wanted[b]}

    def _want(self, kind: Kind) -> None:
        kind.counted = frozenset(s[0] for options in kind.options.values() for s in options)
        self.wanted.update(kind.counted)
        self.unwanted -= kind.counted

    def is_free(self, kind: Kind) -> bool:
        """Whether a test of ``kind`` may start as far as its concurrency key goes."""
        return kind.key is None or self.held[kind.key[0]] < self.limits[kind.key[0]]

    def withdraw(self, nodes: Sequence[NodePlan]) -> dict[int, list[Test]]:
        """Take everything unsent out of the plans of ``nodes``: kind → tests."""
        tests: dict[int, list[Test]] = {}
        for node in nodes:
            for batch in list(node.batches.values()):
                chosen = list(batch.tests)
                tests.setdefault(batch.kind.index, []).extend(chosen)
                node.take(batch, chosen)
        return tests
