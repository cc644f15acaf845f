"""Expected seconds of launches, loads and runs: learned, shrunk from the specific to the general, robust to
outliers.

Everything is kept in logarithms, because times differ by factors. Each level of the ladder

    backend prior → browser × backend → + type → + model (any browser) → browser × backend × model

is the weighted mean of what was measured there and of the level above, the level above counting as ``k``
measurements. What history says of a session takes the place of the ladder above it. A measured value is first
brought to a node of speed 1 and a test of scale 1.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping

from pytest_browserpool.placement.history import History, Sample, Session
from pytest_browserpool.placement.policy import (
    LAUNCH_PRIOR_OTHER_S,
    LAUNCH_PRIOR_S,
    LOAD_PRIOR_S,
    OTHER_PRIOR_S,
    RUN_PRIOR_S,
)

WINDOW = 21
"""Measurements kept per key: enough for a steady middle, few enough to follow a machine that slows down."""
HISTORY_WEIGHT = 12.0
"""History counts as at most so many measurements: a dozen live ones on this very machine weigh as much."""
K_SPECIFIC, K_MODEL, K_TYPE, K_BROWSER, K_SPEED = 0.3, 0.7, 2.0, 1.0, 2.0
"""Weights of the level above, in measurements: models differ by factors of 100 and one measurement tells
nearly all; types and browsers differ less than the models within them; a node's speed is within a factor of 2
or so."""
OTHERS = 8
"""Nodes that a measurement is compared with: their mean is good enough, and the cost stays constant."""
LEAST_S = 1e-4
"""Seconds below which a measured time is taken to be this: a logarithm wants something above zero."""


class Stat:
    """A robust mean of the last ``WINDOW`` values: the mean of their middle half."""

    __slots__ = ("_middle", "order", "values")

    def __init__(self) -> None:
        self.order: deque[float] = deque()
        self.values: list[float] = []
        self._middle: float | None = None

    def add(self, value: float) -> None:
        self.order.append(value)
        insort(self.values, value)
        if len(self.order) > WINDOW:
            old = self.order.popleft()
            del self.values[bisect_left(self.values, old)]
        self._middle = None

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def middle(self) -> float:
        if self._middle is None:
            cut = len(self.values) // 4
            kept = self.values[cut : len(self.values) - cut]
            self._middle = sum(kept) / len(kept)
        return self._middle


def _shrunk(stat: Stat | None, above: float, k: float) -> float:
    if stat is None or not stat.n:
        return above
    return (stat.n * stat.middle + k * above) / (stat.n + k)


def _known(sample: Sample) -> tuple[float, float]:
    """Log of what history says, and its weight in measurements."""
    return math.log(max(sample.value, LEAST_S)), min(sample.count, HISTORY_WEIGHT)


class Ladder:
    """Estimates of one quantity (runs, or loads) per session, in seconds."""

    def __init__(self, prior: Mapping[str, float], history: Mapping[Session, Sample]) -> None:
        self.prior = {name: math.log(value) for name, value in prior.items()}
        self.history = {session: _known(sample) for session, sample in history.items()}
        self.hints: dict[str, float] = {}
        self.stats: dict[tuple[str, ...], Stat] = {}
        self.cells: dict[Session, dict[str, Stat]] = {}
        """Session → node → what was measured there, not brought to speed 1."""

    def measured(self, session: Session) -> bool:
        """Whether anything is known of this very session."""
        return session in self.stats or session in self.history

    def log_estimate(self, session: Session, kind: str) -> float:
        """Log of the expected seconds of ``session`` whose model is of type ``kind``."""
        known = self.history.get(session)
        specific = self.stats.get(session)
        if known is not None:
            return _shrunk(specific, known[0], known[1])
        return _shrunk(specific, self._for_model(session, kind), K_SPECIFIC)

    def _for_type(self, session: Session, kind: str) -> float:
        browser, backend, _ = session
        above = self.prior.get(backend, math.log(OTHER_PRIOR_S))
        above = _shrunk(self.stats.get((backend,)), above, K_BROWSER)
        above = _shrunk(self.stats.get((browser, backend)), above, K_BROWSER)
        return _shrunk(self.stats.get(("type", browser, backend, kind)), above, K_TYPE)

    def _for_model(self, session: Session, kind: str) -> float:
        model = session[2]
        if model in self.hints:
            return self.hints[model]
        return self._for_type(session, kind) + _shrunk(
            self.stats.get(("model", "", "", "", model)), 0.0, K_MODEL
        )

    def observe(self, session: Session, kind: str, seconds: float) -> None:
        """Learn from ``seconds`` on a node of speed 1 with a test of scale 1."""
        value = math.log(max(seconds, LEAST_S))
        browser, backend, model = session
        if session not in self.stats:
            # the general levels hold one value per session, so that a much-run model does not speak for all
            for key in ((backend,), (browser, backend), ("type", browser, backend, kind)):
                self._add(key, value)
        self._add(session, value)
        # against the level above as it now is, or its own share in that would count twice
        self._add(("model", "", "", "", model), value - self._for_type(session, kind))

    def _add(self, key: tuple[str, ...], value: float) -> None:
        self.stats.setdefault(key, Stat()).add(value)


class CostModel:
    """Expected seconds of everything, live. ``version`` grows with each measurement."""

    def __init__(self, history: History | None) -> None:
        history = history or History()
        self.runs = Ladder(RUN_PRIOR_S, history.runs)
        self.loads = Ladder(LOAD_PRIOR_S, history.loads)
        self.known_scales = history.scales
        self.known_speeds = history.speeds
        self.known_launches: dict[tuple[str, str], tuple[float, float]] = {
            key: _known(sample) for key, sample in history.node_launches.items()
        }
        for browser, sample in history.launches.items():
            self.known_launches["", browser] = _known(sample)
        self.launches: dict[tuple[str, str], Stat] = {}
        self.speeds: dict[str, Stat] = {}
        self._log_speeds: dict[str, float] = {}
        self.hosts: dict[str, str] = {}
        self.trying: set[Session] = set()
        self.version = 0

    def run(self, session: Session, kind: str) -> float:
        """Seconds of an average warm test of ``session`` on a node of speed 1."""
        return math.exp(self.runs.log_estimate(session, kind))

    def try_out(self, session: Session) -> None:
        """A first test is on its way to ``session``: no need for a second node to find out."""
        if not self.runs.measured(session):
            self.trying.add(session)

    def load(self, session: Session, kind: str) -> float:
        """Seconds to load and first run the model of ``session`` on a node of speed 1."""
        return math.exp(self.loads.log_estimate(session, kind)) if session[2] else 0.0

    def launch(self, browser: str, node: str = "") -> float:
        """Seconds to launch ``browser`` on ``node``, were its speed 1."""
        if not browser:
            return 0.0
        prior = (math.log(LAUNCH_PRIOR_S.get(browser, LAUNCH_PRIOR_OTHER_S)), K_SPECIFIC)
        above, k = self.known_launches.get(("", browser), prior)
        general = _shrunk(self.launches.get(("", browser)), above, k)
        for place in (node, self.hosts.get(node, "")):
            known = self.known_launches.get((place, browser))
            if place and known is not None:
                return math.exp(_shrunk(self.launches.get((node, browser)), *known))
        return math.exp(_shrunk(self.launches.get((node, browser)), general, K_BROWSER))

    def speed(self, node: str) -> float:
        """The node's speed: 2 takes half the time."""
        return math.exp(self.log_speed(node))

    def log_speed(self, node: str) -> float:
        """Log of the node's speed; kept until something is measured there."""
        found = self._log_speeds.get(node)
        if found is None:
            known = self.known_speeds.get(node) or self.known_speeds.get(self.hosts.get(node, ""))
            above, k = _known(known) if known else (0.0, K_SPEED)
            found = self._log_speeds[node] = _shrunk(self.speeds.get(node), above, k)
        return found

    def scale(self, test: str) -> float | None:
        """The test's warm time over that of an average test of its session, if history knows it."""
        sample = self.known_scales.get(test)
        return max(sample.value, 1e-6) if sample else None

    def observe_launch(self, node: str, browser: str, seconds: float) -> None:
        """Learn from a launch. What it says of the node's speed is left out: launches wait for the disk."""
        value = math.log(max(seconds * self.speed(node), LEAST_S))
        for place in ("", node):
            self.launches.setdefault((place, browser), Stat()).add(value)
        self.version += 1

    def observe_load(self, node: str, session: Session, kind: str, seconds: float) -> None:
        """Learn from a load."""
        self._observe_speed(node, self.loads, session, kind, seconds)
        self.loads.observe(session, kind, seconds * self.speed(node))

    def observe_run(self, node: str, session: Session, kind: str, scale: float, seconds: float) -> None:
        """Learn from a warm test."""
        self._observe_speed(node, self.runs, session, kind, seconds / scale)
        self.runs.observe(session, kind, seconds / scale * self.speed(node))
        self.trying.discard(session)

    def _observe_speed(self, node: str, ladder: Ladder, session: Session, kind: str, seconds: float) -> None:
        """What tells a fast node from a light session is how long *other* nodes took for it (or history)."""
        self.version += 1
        value = math.log(max(seconds, LEAST_S))
        cell = ladder.cells.setdefault(session, {})
        others = [
            stat.middle + self.log_speed(name)
            for name, stat in itertools.islice(cell.items(), OTHERS)
            if name != node
        ]
        if session in ladder.history:
            others.append(ladder.log_estimate(session, kind))
        if others:
            self.speeds.setdefault(node, Stat()).add(sum(others) / len(others) - value)
            self._log_speeds.pop(node, None)
        cell.setdefault(node, Stat()).add(value)

    def hint(self, model: str, seconds: float) -> None:
        """The user expects a test of ``model`` to take ``seconds``: the prior of its runs."""
        self.runs.hints[model] = math.log(max(seconds, LEAST_S))
        self.version += 1
