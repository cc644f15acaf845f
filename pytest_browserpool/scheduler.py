"""xdist's ``Scheduling`` protocol as a thin adapter: xdist's calls become the engine's events, its
commands are sent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from pytest_browserpool.keywords import unequal_limits
from pytest_browserpool.link import Message
from pytest_browserpool.placement import events
from pytest_browserpool.values import BrowserCapabilities, ModelNeeds, NodeCapabilities, TestNeeds

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

PLACEMENT_EVENTS = {
    cls.__name__: cls
    for cls in (
        events.LaunchObserved,
        events.LoadObserved,
        events.RunObserved,
        events.SessionMade,
        events.SessionGone,
        events.BackendRefusedThere,
    )
}
"""What a node may say to the engine."""


def placement_event(kind: str, measured: Mapping[str, Any], *, node: str) -> events.Event:
    """What a node measured, as the engine hears it: under the controller's name for the node, at its clock."""
    event = PLACEMENT_EVENTS[kind]
    known = {known.name for known in fields(event)}
    given = {**measured, "node": node, "at": time.monotonic()}
    return event(**{key: value for key, value in given.items() if key in known})


Engine = Callable[[events.Event], Sequence[events.Command]]
"""``PlacementEngine.handle``."""


class Sink(Protocol):
    """Who carries out what is not between xdist and a node: the controller."""

    def tell(self, node: WorkerController, message: Message) -> None:
        """Send a directive to ``node``."""

    def decided(self, command: events.Run) -> None:
        """A test was sent."""

    def warn(self, line: str) -> None:
        """Tests contradict each other: tell the user."""

    def unrunnable(self, test: str, needs: ModelNeeds | None, reasons: Sequence[str]) -> None:
        """No node can run ``test``: report it."""

    def abandoned(self, test: str, nodes: Sequence[str], node: WorkerController) -> None:
        """``test`` was lost with each of ``nodes``: report it. ``node`` is the last of them."""

    def stopping(self) -> bool:
        """Whether the run is being ended (all is done, ``-x``, too many lost nodes): nothing more may be
        sent."""

    def replaces(self, node: WorkerController) -> bool | None:
        """Whether xdist will start another node in place of the one that is going; None: it ends the run."""


@dataclass
class _Member:
    """One node as the adapter knows it."""

    node: WorkerController
    collection: list[str] | None = None
    """Test key by index."""
    index: dict[str, int] = field(default_factory=dict)
    needs: dict[int, ModelNeeds] = field(default_factory=dict)
    capabilities: NodeCapabilities | None = None
    up: bool = False
    holds: list[str] = field(default_factory=list)
    """Tests that were sent and are not complete, oldest first."""

    @property
    def id(self) -> str:
        return str(self.node.gateway.id)


def keys_of(nodeids: Iterable[str]) -> list[str]:
    """A key for each collected test: its node id, numbered where a node id occurs more than once."""
    seen: Counter[str] = Counter()
    keys = []
    for nodeid in nodeids:
        seen[nodeid] += 1
        keys.append(nodeid if seen[nodeid] == 1 else f"{nodeid} ({seen[nodeid]})")
    return keys


class BrowserPoolScheduling:
    """Sends each test to the node, browser and backend where the placement engine expects it to finish
    first."""

    def __init__(
        self,
        config: Any,
        *,
        nodes: int,
        handle: Engine,
        sink: Sink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``nodes``: how many the run begins with. ``handle``: the engine. ``config`` is there for other
        plugins."""
        self.config = config
        self._expected = nodes
        self._handle, self._sink, self._clock = handle, sink, clock
        self._members: dict[Any, _Member] = {}
        self._tests: dict[str, ModelNeeds | None] = {}
        self._left: dict[str, None] = {}
        self._nodeids: dict[str, str] = {}
        """Key → node id where they differ."""
        self._started = False
        self._going: Any = None
        self._aliases: dict[str, str] = {}
        """Keys of tests that another plugin wanted once more → their key in the collection."""

    # -- what xdist reads ------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Any]:
        return list(self._members)

    @property
    def collection_is_completed(self) -> bool:
        collected = sum(member.collection is not None for member in self._members.values())
        return self._started or collected >= self._expected

    @property
    def tests_finished(self) -> bool:
        return self._started and not self._left

    @property
    def has_pending(self) -> bool:
        return bool(self._left)

    # -- what xdist says -------------------------------------------------------------------------------------

    def add_node(self, node: WorkerController) -> None:
        self._member(node)

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        member = self._member(node)
        member.collection = keys_of(collection)
        self._nodeids.update(
            (key, nodeid) for key, nodeid in zip(member.collection, collection, strict=True) if key != nodeid
        )
        member.index = {key: index for index, key in enumerate(member.collection)}

    def schedule(self) -> None:
        """Begin, or take in a node that came later."""
        ready = [m for m in self._members.values() if m.collection is not None and not m.up]
        if not self._started:
            self._begin(ready)
            return
        for member in ready:
            self._bring_up(member)

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        member = self._members[node]
        test = self._key(member, item_index)
        if test in member.holds:
            member.holds.remove(test)
        self._left.pop(test, None)
        self.hear(events.TestFinished(at=self._clock(), node=member.id, test=test, seconds=duration))

    def mark_test_pending(self, item: str) -> None:
        """Another plugin wants an abandoned test once more: to be called in ``pytest_handlecrashitem``."""
        alias = f"{item} (again {len(self._aliases) + 1})"
        self._aliases[alias] = item
        needs = self._tests.get(item)
        self._left[alias] = None
        self.hear(events.TestsCollected(at=self._clock(), tests=(TestNeeds(nodeid=alias, needs=needs),)))

    def remove_pending_tests_from_node(self, node: WorkerController, indices: Sequence[int]) -> None:
        """A node gave back what xdist asked it for. Ours holds one test at a time, so nobody asks: a steal is a change
        of the engine's plan."""
        raise NotImplementedError(f"{self._member(node).id} was sent one test, and gave back {list(indices)}")

    def remove_node(self, node: WorkerController) -> None:
        """A node is gone. Returns nothing even when it ran a test: the engine tries that elsewhere, or
        abandons it,
        and the sink reports it then.

        Raises:
            KeyError: it is not known (xdist expects that).
        """
        member = self._members.pop(node)
        if not member.up:
            self._left_before_the_start(node, member)
            return
        self._going = node
        replaced = self._sink.replaces(node)
        if replaced is not None:
            self.hear(events.NodeLost(at=self._clock(), node=member.id, reason="lost", replaced=replaced))

    def _left_before_the_start(self, node: WorkerController, member: _Member) -> None:
        """A node that found nothing of what was asked for ends after its collection, and is not replaced."""
        if member.collection is None or self._started or self._sink.replaces(node) is not False:
            return
        self._expected -= 1
        if self.collection_is_completed:
            self.schedule()
        up = sum(other.up for other in self._members.values())
        self.hear(events.AllNodesKnown(at=self._clock(), more=max(0, self._expected - up)))

    def expect_fewer(self, more: int) -> None:
        """A node that was expected will not come; ``more`` still may."""
        if not self._started:
            self._expected -= 1
            if self.collection_is_completed and self._members:
                self.schedule()
        self.hear(events.AllNodesKnown(at=self._clock(), more=more))

    # -- what nodes say over our channel ---------------------------------------------------------------------

    def capabilities(self, node: WorkerController, capabilities: NodeCapabilities) -> None:
        self._member(node).capabilities = capabilities

    def needs(self, node: WorkerController, needs: dict[int, ModelNeeds]) -> None:
        """What the tests of ``node``'s collection need, by index; the others need no browser."""
        self._member(node).needs = needs

    def started(self, node: WorkerController, item_index: int) -> None:
        member = self._members.get(node)
        if member is not None and member.collection is not None:
            test = self._key(member, item_index)
            self.hear(events.TestStarted(at=self._clock(), node=member.id, test=test))

    def hear(self, event: events.Event) -> None:
        """Give the engine an event and carry out what it says; nothing once the run is ending."""
        if not self._sink.stopping():
            self.carry_out(self._handle(event))

    @property
    def browsers(self) -> list[BrowserCapabilities]:
        """Of all nodes."""
        told = (member.capabilities for member in self._members.values())
        return [
            browser for capabilities in told if capabilities is not None for browser in capabilities.browsers
        ]

    @property
    def collected(self) -> int:
        """Tests of all nodes together."""
        return len(self._tests)

    @property
    def unreported(self) -> list[str]:
        """Tests that neither ran nor were reported, in the order of collection."""
        if self._started:
            return [self.nodeid(key) for key in self._left]
        return list(
            dict.fromkeys(self.nodeid(key) for m in self._members.values() for key in m.collection or ())
        )

    def holds(self, node: WorkerController) -> str | None:
        """Node id of the test that ``node`` was sent and has not completed."""
        member = self._members.get(node)
        return self.nodeid(member.holds[0]) if member is not None and member.holds else None

    def nodeid(self, test: str) -> str:
        """The node id of a test that the engine or this adapter names by key."""
        key = self._aliases.get(test, test)
        return self._nodeids.get(key, key)

    # -- inside ----------------------------------------------------------------------------------------------

    def _member(self, node: WorkerController) -> _Member:
        return self._members.setdefault(node, _Member(node))

    def _key(self, member: _Member, index: int) -> str:
        """The key under which ``member`` was sent the test at ``index``."""
        assert member.collection is not None
        held = (key for key in member.holds if self._index(member, key) == index)
        return next(held, member.collection[index])

    def _index(self, member: _Member, key: str) -> int:
        return member.index[self._aliases.get(key, key)]

    def _begin(self, ready: list[_Member]) -> None:
        for member in ready:
            assert member.collection is not None
            for index, key in enumerate(member.collection):
                if key not in self._tests:
                    self._tests[key] = member.needs.get(index)
        self._left = dict.fromkeys(self._tests)
        self._started = True
        for line in unequal_limits(self._tests.values()):
            self._sink.warn(line)
        for member in ready:
            self._bring_up(member)
        tests = tuple(TestNeeds(nodeid=key, needs=needs) for key, needs in self._tests.items())
        self.hear(events.TestsCollected(at=self._clock(), tests=tests))

    def _bring_up(self, member: _Member) -> None:
        member.up = True
        capabilities = member.capabilities or NodeCapabilities(node=member.id)
        lacks = frozenset(key for key in self._tests if key not in member.index)
        self.hear(events.NodeUp(at=self._clock(), capabilities=capabilities, lacks=lacks))

    def carry_out(self, commands: Iterable[events.Command]) -> None:
        """Carry out the engine's commands, in order."""
        for command in commands:
            match command:
                case events.Run():
                    self._run(command)
                case events.Prewarm(node=node_id, browser=browser, backend=backend, test=test):
                    self._tell(
                        node_id, {"kind": "prewarm", "browser": browser, "backend": backend, "test": test}
                    )
                case events.Retire(node=node_id, browser=browser):
                    self._tell(node_id, {"kind": "retire", "browser": browser})
                case events.Unrunnable(test=test, reasons=reasons):
                    self._left.pop(test, None)
                    self._sink.unrunnable(self.nodeid(test), self._tests.get(test), reasons)
                case events.Abandoned(test=test, nodes=nodes):
                    self._left.pop(test, None)
                    self._sink.abandoned(self.nodeid(test), nodes, self._going)
                case events.Shutdown(node=node_id):
                    member = self._by_id(node_id)
                    if member is not None and not self._left:  # else another plugin wanted a test once more
                        member.node.shutdown()

    def _run(self, command: events.Run) -> None:
        member = self._by_id(command.node)
        if member is None or member.node.shutting_down:
            return  # another node gets it when this one is gone, or the run is ending
        index = self._index(member, command.test)
        member.holds.append(command.test)
        self._sink.decided(command)
        self._sink.tell(  # instead of xdist's own message, which has no place for more: one takes half of two
            member.node,
            {"kind": "run", "index": index, "browser": command.browser, "backend": command.backend},
        )

    def _tell(self, node_id: str, message: Message) -> None:
        member = self._by_id(node_id)
        if member is not None:
            self._sink.tell(member.node, message)

    def _by_id(self, node_id: str) -> _Member | None:
        return next((member for member in self._members.values() if member.id == node_id), None)
