"""What is believed of a time before and after measuring it: a mixed model of logarithms, robust and cheap.

Times differ by factors, so everything is kept in logarithms. The time of a session (browser, backend, model) on a
node of speed 1 is

    prior(backend) + backend + browser on that backend + type of model there + model + what is the session's own

where each effect is shrunk towards none by its variance (best linear unbiased prediction; the variances below), and
a measurement adds the noise of single tests, whose variance is itself measured. So a session that nobody tried is
judged by its model in other browsers and by its browser with other models, and says how far it may be off.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pytest_browserpool.placement.history import Sample, Session
from pytest_browserpool.placement.policy import OTHER_PRIOR_S

WINDOW = 21
"""Measurements kept per key: enough for a steady middle, few enough to follow a machine that slows down."""
HISTORY_WEIGHT = 12.0
"""History counts as at most so many measurements: a dozen live ones on this very machine weigh as much."""
VAR_EFFECT: Mapping[str, float] = {"backend": 1.0, "browser": 0.1, "type": 0.1, "model": 1.0}
"""Variances of the shared effects: models differ by factors of 100, backends by factors of 10, browsers and types
on the whole by little."""
VAR_SESSION = 0.36
"""Of what is a session's own: the same model took 1.5 × as long in another browser on wasm, 3 to 8 × on WebGPU."""
VAR_AGED = 0.04
"""Of what earlier runs measured, beside today, when it is doubted (``Ladder.doubting``): by a fifth or so."""
SWEEPS = 3
"""Rounds of the fit, which goes on from the last one: it has settled to a few per cent."""
NOISE_GUESS = 4.0
"""Measurements that the first guess of a noise stands for."""
NOISE_CLIP = 9.0
"""A deviation counts as at most so many variances: an outlier must not make everything look like noise."""
NOISE_MOST = 2.0
"""The mean of such times is 2.7 times their median; where they seem to differ more, it is by outliers."""
OTHERS = 8
"""Nodes whose measurements of a session are looked at: their mean is good enough, and the cost stays constant."""
LEAST_S = 1e-4
"""Seconds below which a measured time is taken to be this: a logarithm wants something above zero."""


class Stat:
    """A robust mean of the last ``WINDOW`` values: the mean of their middle half."""

    __slots__ = ("_middle", "n", "order", "values")

    def __init__(self) -> None:
        self.order: deque[float] = deque()
        self.values: list[float] = []
        self.n = 0
        self._middle: float | None = None

    def add(self, value: float) -> None:
        self.order.append(value)
        insort(self.values, value)
        if len(self.order) > WINDOW:
            old = self.order.popleft()
            del self.values[bisect_left(self.values, old)]
        else:
            self.n += 1
        self._middle = None

    @property
    def middle(self) -> float:
        if self._middle is None:
            cut = len(self.values) // 4
            kept = self.values[cut : len(self.values) - cut]
            self._middle = sum(kept) / len(kept)
        return self._middle


class Noise:
    """The variance of single measurements around their mean, from a first guess and then from repeated ones."""

    __slots__ = ("n", "total")

    def __init__(self, guess: float) -> None:
        self.n = NOISE_GUESS
        self.total = guess * NOISE_GUESS

    @property
    def value(self) -> float:
        return min(self.total / self.n, NOISE_MOST)

    def add(self, deviation: float, n: int) -> None:
        """A measurement was ``deviation`` off the mean of the ``n`` before it."""
        if n:
            self.total += min(deviation * deviation * n / (n + 1), NOISE_CLIP * self.value)
            self.n += 1


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of the logarithm of a time: its mean, the variance of that mean, and the variance of a single
    measurement around it."""

    mean: float
    variance: float
    noise: float


def remembered(sample: Sample) -> tuple[float, float]:
    """Log of what history says, and its weight in measurements."""
    return math.log(max(sample.value, LEAST_S)), min(sample.count, HISTORY_WEIGHT)


def _levels(session: Session, kind: str) -> tuple[tuple[str, ...], ...]:
    """What ``session`` shares with others, from the general to the specific."""
    browser, backend, model = session
    return (
        ("backend", backend),
        ("browser", browser, backend),
        ("type", browser, backend, kind),
        ("model", model),
    )


class Ladder:
    """Estimates of one quantity (runs, or loads) per session, in seconds."""

    def __init__(
        self,
        prior: Mapping[str, float],
        history: Mapping[Session, Sample],
        noise: float,
        log_speed: Callable[[str], float],
    ) -> None:
        self.prior = {name: math.log(value) for name, value in prior.items()}
        self.history = {session: remembered(sample) for session, sample in history.items()}
        self.noise = Noise(noise)
        self.log_speed = log_speed
        self.hints: dict[str, float] = {}
        self.effects: dict[tuple[str, ...], float] = {}
        self.cells: dict[Session, dict[str, Stat]] = {}
        """Session → node → what was measured there, not brought to speed 1."""
        self.by_model: dict[str, list[Session]] = {}
        """Model → its sessions of which anything is known."""
        self.doubting = False
        """Whether earlier runs may be wrong about today, and are trusted the less the more they were so far."""
        self.doubts: dict[str, float] = {}
        """Model → variance of how far earlier runs are off, by what was measured since."""
        for session in self.history:
            self.by_model.setdefault(session[2], []).append(session)

    def knows(self, session: Session) -> bool:
        """Whether ``session`` itself was measured, now or in an earlier run."""
        return session in self.cells or session in self.history

    def _seen(self, session: Session) -> tuple[float, float]:
        """Mean of the logarithms that were measured of ``session``, now and in earlier runs, and how many."""
        mean, count = self.mean(session)
        past = self.history.get(session)
        if past is None:
            return mean, count
        known = past[1]
        if self.doubting:
            noise = self.noise.value
            known = noise / (noise / known + max(VAR_AGED, self.doubts.get(session[2], 0.0)))
        return (count * mean + known * self._typical(past[0])) / (count + known), count + known

    def _doubt(self, session: Session) -> None:
        """Where ``session`` is today beside what earlier runs say: so far off may its model be in others, too."""
        mean, count = self.mean(session)
        off = (mean - self._typical(self.history[session][0])) ** 2 - 2 * self.noise.value / count
        self.doubts[session[2]] = max(off, self.doubts.get(session[2], 0.0))

    def mean(self, session: Session) -> tuple[float, int]:
        """What was measured of ``session``, brought to speed 1, and the number of measurements behind it."""
        cell = self.cells.get(session)
        if not cell:
            return 0.0, 0
        total, count, log_speed = 0.0, 0, self.log_speed
        for node, stat in itertools.islice(cell.items(), OTHERS):
            n = stat.n
            total += n * (stat.middle + log_speed(node))
            count += n
        return (total / count if count else 0.0), count

    def belief(self, session: Session, kind: str) -> Belief:
        """Of the log of the seconds of ``session``, whose model is of type ``kind``."""
        noise = self.noise.value
        mean, count = self._seen(session)
        if session in self.history:
            # what was measured before takes the place of what others suggest
            return Belief(mean, noise / count, noise)
        base, variance = self._above(session, kind)
        if not count:
            return Belief(base, variance, noise)
        mine = count / noise
        # the levels above have heard of this session too: only its own part is left open
        own = mine / (mine + 1.0 / VAR_SESSION)
        return Belief(base + (mean - base) * own, 1.0 / (mine + 1.0 / variance), noise)

    def apart(self, one: Session, other: Session, more: float = 0.0, more_other: float = 0.0) -> float:
        """Variance of the difference between the logarithms of two sessions of one model, once each was measured so many
        times more.

        Less than the sum of both variances: what is not known of the model they share, and it drops out as far as both
        were measured alike.
        """
        own, share = self._own(one, more)
        own_other, share_other = self._own(other, more_other)
        weights = 1.0 / VAR_EFFECT["model"]
        if one[2] not in self.hints:
            for session in dict.fromkeys((one, other, *self.by_model.get(one[2], ()))):
                count = self._seen(session)[1]
                count += more if session == one else more_other if session == other else 0.0
                if count:
                    weights += 1.0 / (VAR_SESSION + self.noise.value / count)
            own += (share - share_other) ** 2 / weights
        return own + own_other

    def _own(self, session: Session, more: float) -> tuple[float, float]:
        """Variance of what is a session's own were its model known, and the share of a measurement that it takes, after
        ``more`` measurements."""
        count = self._seen(session)[1] + more
        if session in self.history:
            return self.noise.value / count, 1.0
        share = VAR_SESSION * count / (VAR_SESSION * count + self.noise.value)
        return VAR_SESSION * (1.0 - share), share

    def _above(self, session: Session, kind: str) -> tuple[float, float]:
        """The sum of the effects that ``session`` shares with others, and the variance of what it may differ."""
        model = session[2]
        if model in self.hints:
            return self._typical(self.hints[model]), VAR_SESSION
        weights = 1.0 / VAR_EFFECT["model"]
        for other in self.by_model.get(model, ()):
            if other != session:
                weights += 1.0 / (VAR_SESSION + self.noise.value / self._seen(other)[1])
        base = self._prior(session) + sum(self.effects.get(key, 0.0) for key in _levels(session, kind))
        return base, VAR_SESSION + 1.0 / weights

    def _prior(self, session: Session) -> float:
        return self._typical(self.prior.get(session[1], math.log(OTHER_PRIOR_S)))

    def _typical(self, mean: float) -> float:
        """Beliefs are about the mean of logarithms; guesses and histories say how long it takes on average."""
        return mean - self.noise.value / 2

    def seconds(self, session: Session, kind: str) -> float:
        """Expected seconds of ``session`` on a node of speed 1."""
        belief = self.belief(session, kind)
        return math.exp(belief.mean + belief.noise / 2)

    def fit(self, types: Mapping[str, str]) -> None:
        """Tell apart what is due to the backend, the browser, the type and the model, each effect shrunk towards
        none: a browser that had only heavy models so far is not slow. ``types``: model → its type."""
        noise, rows = self.noise.value, []
        for session in dict.fromkeys((*self.history, *self.cells)):
            mean, weight = self._seen(session)
            levels = _levels(session, types.get(session[2], ""))
            rows.append((levels, mean - self._prior(session), 1.0 / (VAR_SESSION + noise / weight)))
        members: dict[tuple[str, ...], list[int]] = {}
        for i, (levels, _, _) in enumerate(rows):
            for key in levels:
                members.setdefault(key, []).append(i)
        effects = {key: self.effects.get(key, 0.0) for key in members}
        left = [value - sum(effects[key] for key in levels) for levels, value, _ in rows]
        for _ in range(SWEEPS):
            for key, those in members.items():
                old, weights = effects[key], 1.0 / VAR_EFFECT[key[0]]
                total = 0.0
                for i in those:
                    weights += rows[i][2]
                    total += rows[i][2] * (left[i] + old)
                new = effects[key] = total / weights
                for i in those:
                    left[i] += old - new
        self.effects = effects

    def observe(self, node: str, session: Session, seconds: float) -> float | None:
        """Learn from ``seconds`` on ``node`` with a test of scale 1; how much slower than others it was, as a
        logarithm."""
        value = math.log(max(seconds, LEAST_S))
        cell = self.cells.get(session)
        if cell is None:
            cell = self.cells[session] = {}
            if session not in self.history:
                self.by_model.setdefault(session[2], []).append(session)
        here = cell.get(node)
        if here is None:
            here = cell[node] = Stat()
        else:
            self.noise.add(value - here.middle, here.n)
        others = [
            stat.middle + self.log_speed(name)
            for name, stat in itertools.islice(cell.items(), OTHERS)
            if name != node
        ]
        if session in self.history:
            others.append(self._typical(self.history[session][0]))
        here.add(value)
        if self.doubting and session in self.history:
            self._doubt(session)
        return value - sum(others) / len(others) if others else None
