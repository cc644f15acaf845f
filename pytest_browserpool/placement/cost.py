"""Expected seconds of launches, loads and runs, and the speeds of nodes: learned live, from earlier runs and from
priors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from pytest_browserpool.placement.beliefs import LEAST_S, OTHERS, Ladder, Noise, Stat, remembered
from pytest_browserpool.placement.history import History, Session
from pytest_browserpool.placement.policy import (
    LAUNCH_PRIOR_OTHER_S,
    LAUNCH_PRIOR_S,
    LOAD_PRIOR_S,
    RUN_PRIOR_S,
)

VAR_SPEED = 0.16
"""Variance of the log of the speeds of nodes before anything is known: within a factor of 2 or so."""
NOISE_RUN, NOISE_KNOWN, NOISE_LOAD, NOISE_LAUNCH = 0.3, 0.06, 0.06, 0.1
"""First guesses of the variance of single measurements; then it is measured. Tests of one model differ by more than
two loads of it; where history knows how long each test takes, by less."""
K_BROWSER, K_LAUNCH = 1.0, 0.3
"""Weights of the level above, in launches: of the browser anywhere, and of the prior."""


def _shrunk(stat: Stat | None, above: float, k: float) -> float:
    if stat is None or not stat.n:
        return above
    return (stat.n * stat.middle + k * above) / (stat.n + k)


class CostModel:
    """Expected seconds of everything, live. ``version`` grows with each measurement."""

    def __init__(self, history: History | None, *, doubting: bool = False) -> None:
        """``doubting``: earlier runs may be wrong about today."""
        history = history or History()
        self.runs = Ladder(
            RUN_PRIOR_S, history.runs, NOISE_KNOWN if history.scales else NOISE_RUN, self.log_speed
        )
        self.loads = Ladder(LOAD_PRIOR_S, history.loads, NOISE_LOAD, self.log_speed)
        self.runs.doubting = doubting
        self.known_scales = history.scales
        self.known_speeds = history.speeds
        self.known_launches: dict[tuple[str, str], tuple[float, float]] = {
            key: remembered(sample) for key, sample in history.node_launches.items()
        }
        for browser, sample in history.launches.items():
            self.known_launches["", browser] = remembered(sample)
        self.launches: dict[tuple[str, str], Stat] = {}
        self.launched: dict[str, dict[str, Stat]] = {}
        """Browser → machine → its launches there, not brought to speed 1."""
        self.launch_noise = Noise(NOISE_LAUNCH)
        self.speeds: dict[str, tuple[Stat, Stat, Stat]] = {}
        """Machine → how much faster than others it ran, loaded and launched."""
        self._log_speeds: dict[str, float] = {}
        self.hosts: dict[str, str] = {}
        """Node or machine → its host's name, which earlier runs knew it by."""
        self.machines: dict[str, str] = {}
        """Node → its machine."""
        self.version = 0

    def machine(self, node: str) -> str:
        """Where ``node`` is. Nodes of one machine are equally fast: what one of them measured slower, the others were
        in its way."""
        return self.machines.get(node) or node

    def run(self, session: Session, kind: str) -> float:
        """Seconds of an average warm test of ``session`` on a node of speed 1."""
        return self.runs.seconds(session, kind)

    def load(self, session: Session, kind: str) -> float:
        """Seconds to load and first run the model of ``session`` on a node of speed 1."""
        return self.loads.seconds(session, kind) if session[2] else 0.0

    def launch(self, browser: str, node: str = "") -> float:
        """Seconds to launch ``browser`` on ``node``, were its speed 1."""
        if not browser:
            return 0.0
        prior = (math.log(LAUNCH_PRIOR_S.get(browser, LAUNCH_PRIOR_OTHER_S)), K_LAUNCH)
        above, k = self.known_launches.get(("", browser), prior)
        general = _shrunk(self.launches.get(("", browser)), above, k)
        machine = self.machine(node)
        for place in (node, self.hosts.get(node, "")):
            known = self.known_launches.get((place, browser))
            if place and known is not None:
                return math.exp(_shrunk(self.launches.get((machine, browser)), *known))
        return math.exp(_shrunk(self.launches.get((machine, browser)), general, K_BROWSER))

    def speed(self, node: str) -> float:
        """The node's speed: 2 takes half the time."""
        return math.exp(self.log_speed(node))

    def log_speed(self, node: str) -> float:
        """Log of the node's speed; kept until something is measured there."""
        machine = self.machines.get(node) or node
        found = self._log_speeds.get(machine)
        if found is None:
            known = self.known_speeds.get(node) or self.known_speeds.get(self.hosts.get(node, ""))
            total, weights = 0.0, 1.0 / VAR_SPEED
            if known:
                mean, count = remembered(known)
                weights = count / self.runs.noise.value
                total = mean * weights
            for stat, noise in zip(
                self.speeds.get(machine, ()),
                (self.runs.noise, self.loads.noise, self.launch_noise),
                strict=False,
            ):
                if stat.n:
                    weights += stat.n / noise.value
                    total += stat.middle * stat.n / noise.value
            found = self._log_speeds[machine] = total / weights
        return found

    def scale(self, test: str) -> float | None:
        """The test's warm time over that of an average test of its session, if history knows it."""
        sample = self.known_scales.get(test)
        return max(sample.value, 1e-6) if sample else None

    def observe_launch(self, node: str, browser: str, seconds: float) -> None:
        """Learn from a launch."""
        known = self.known_launches.get((node, browser)) or self.known_launches.get(("", browser))
        node = self.machine(node)
        value = math.log(max(seconds, LEAST_S))
        cell = self.launched.setdefault(browser, {})
        others = [
            stat.middle + self.log_speed(name)
            for name, stat in itertools.islice(cell.items(), OTHERS)
            if name != node
        ]
        if known:
            others.append(known[0])
        if node in cell:
            self.launch_noise.add(value - cell[node].middle, cell[node].n)
        cell.setdefault(node, Stat()).add(value)
        self._faster(node, 2, value - sum(others) / len(others) if others else None)
        for place in ("", node):
            self.launches.setdefault((place, browser), Stat()).add(value + self.log_speed(node))

    def observe_load(self, node: str, session: Session, kind: str, seconds: float) -> None:
        """Learn from a load."""
        machine = self.machine(node)
        self._faster(machine, 1, self.loads.observe(machine, session, seconds))

    def observe_run(self, node: str, session: Session, kind: str, scale: float, seconds: float) -> None:
        """Learn from a warm test."""
        machine = self.machine(node)
        self._faster(machine, 0, self.runs.observe(machine, session, seconds / scale))

    def _faster(self, machine: str, source: int, slower: float | None) -> None:
        """What tells a fast machine from a light session is how long *other* machines took for it (or history)."""
        self.version += 1
        if slower is not None:
            self.speeds.setdefault(machine, (Stat(), Stat(), Stat()))[source].add(-slower)
            self._log_speeds.pop(machine, None)

    def fit(self, types: Mapping[str, str]) -> None:
        """Bring the shared effects up to what was measured. ``types``: model → its type."""
        self.runs.fit(types)
        self.loads.fit(types)

    def hint(self, model: str, seconds: float) -> None:
        """The user expects a test of ``model`` to take ``seconds``: the prior of its runs."""
        self.runs.hints[model] = math.log(max(seconds, LEAST_S))
        self.version += 1
