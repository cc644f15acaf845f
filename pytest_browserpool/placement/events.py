"""What the placement engine hears (events) and what it says (commands).

``at`` is seconds on any monotonic clock; the engine never reads one. Commands are returned by
``PlacementEngine.handle`` in the order in which they must be carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_browserpool.values import NodeCapabilities, TestNeeds

# -- events --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NodeUp:
    """A node is ready for tests. ``capabilities.node`` is its id."""

    at: float
    capabilities: NodeCapabilities
    lacks: frozenset[str] = frozenset()
    """Tests that this node did not collect (they depend on its machine), so that it cannot run them."""


@dataclass(frozen=True, kw_only=True)
class NodeLost:
    """A node is gone. What it ran and held must run elsewhere."""

    at: float
    node: str
    reason: str = ""
    replaced: bool = False
    """Another node will come up in its place, so that tests which only it could run may still wait."""


@dataclass(frozen=True, kw_only=True)
class AllNodesKnown:
    """No node beyond those heard of will come up, but for ``more`` that are still expected."""

    at: float
    more: int = 0


@dataclass(frozen=True, kw_only=True)
class TestsCollected:
    """The tests of this run, once, before any is run."""

    __test__ = False

    at: float
    tests: tuple[TestNeeds, ...]


@dataclass(frozen=True, kw_only=True)
class TestStarted:
    """A node began a test."""

    __test__ = False

    at: float
    node: str
    test: str


@dataclass(frozen=True, kw_only=True)
class TestFinished:
    """A node ended a test, whatever its outcome. ``seconds`` is the whole test with its set-up."""

    __test__ = False

    at: float
    node: str
    test: str
    seconds: float
    ok: bool | None = None
    """False: the infrastructure failed under it (a failing assertion is not meant); None: not known."""


@dataclass(frozen=True, kw_only=True)
class LaunchObserved:
    """A node launched a browser in ``seconds``."""

    at: float
    node: str
    browser: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LoadObserved:
    """A node loaded (and first ran) ``model`` (a ``ModelNeeds.model_key``) in a browser on a backend in
    ``seconds``."""

    at: float
    node: str
    browser: str
    backend: str
    model: str
    seconds: float
    test: str = ""


@dataclass(frozen=True, kw_only=True)
class SessionMade:
    """A session was made ahead of its test, as ``Prewarm`` asked. What that took is no measure of a load: the first run,
    which compiles, is still to come."""

    at: float
    node: str
    browser: str
    backend: str
    model: str


@dataclass(frozen=True, kw_only=True)
class RunObserved:
    """The part of a test that is neither launch nor load took ``seconds`` on this browser and backend."""

    at: float
    node: str
    browser: str
    backend: str
    model: str
    seconds: float
    test: str = ""


@dataclass(frozen=True, kw_only=True)
class SessionGone:
    """A warm session was evicted or lost: ``model`` None means that the whole browser went."""

    at: float
    node: str
    browser: str
    backend: str | None = None
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class BackendRefusedThere:
    """Measured: this model does not run on this backend in this browser (no node was placed on it, or an
    operator lacks)."""

    at: float
    browser: str
    backend: str
    model: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Time passed."""

    at: float


Event = (
    NodeUp
    | NodeLost
    | AllNodesKnown
    | TestsCollected
    | TestStarted
    | TestFinished
    | LaunchObserved
    | LoadObserved
    | RunObserved
    | SessionMade
    | SessionGone
    | BackendRefusedThere
    | Tick
)

# -- commands ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Why a test goes where it goes; stored as it is."""

    expected_s: float
    breakdown: Mapping[str, float] = field(default_factory=dict)
    """queue, launch, load, run: seconds."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """The factors of the capability score by name, and ``score``."""
    alternatives: tuple[Mapping[str, Any], ...] = ()
    """At most five: {"node", "browser", "backend", "expected_s", "score"}."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Send ``test`` to ``node``, to be run in ``browser`` on ``backend`` (both None for a test without
    needs)."""

    node: str
    test: str
    browser: str | None = None
    backend: str | None = None
    decision: Decision | None = None


@dataclass(frozen=True, kw_only=True)
class Prewarm:
    """Tell ``node`` what comes next, so that it can launch and load while it still runs something."""

    node: str
    browser: str
    backend: str | None = None
    test: str | None = None


@dataclass(frozen=True, kw_only=True)
class Retire:
    """Tell ``node`` that nothing more will need ``browser``."""

    node: str
    browser: str


@dataclass(frozen=True, kw_only=True)
class Unrunnable:
    """No node can ever run ``test``; ``reasons`` has one line per node."""

    test: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Abandoned:
    """``test`` was running on each of ``nodes`` when that node was lost; it is not tried again."""

    test: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shutdown:
    """``node`` will get nothing more."""

    node: str


Command = Run | Prewarm | Retire | Unrunnable | Abandoned | Shutdown
