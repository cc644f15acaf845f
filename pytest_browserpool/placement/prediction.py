"""What the next minute will bring, per browser, and how good such forecasts have been.

Measured: a sliding window of five minutes per browser and model type of arrivals (tests that began),
completions and service times. Known: what is planned on each node, in order, with its expected seconds. The
forecast is the plan read ahead for one minute, stretched by how much longer tests took lately than was
expected. Each forecast is kept until its minute is over and is then scored beside the naive one, "as the last
minute".
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_browserpool.placement.state import NodePlan

WINDOW_S = 300.0
"""Five minutes: long enough for rates of tests that take seconds, short enough to follow a run of minutes."""
HORIZON_S = 60.0
"""How far a forecast looks."""
EVERY_S = 15.0
"""Seconds between forecasts: four a minute follow a change without cost."""
FIRST_CONFIDENCE = 0.5
"""Of the first forecasts, of which none has been scored yet."""
SCORED = 40
"""Scored forecasts that errors and confidence are taken over."""
KEPT = 1000
"""Scored forecasts kept for the record: more than an hour's of four browsers, if nobody should take them."""
STRETCH_RANGE = (0.5, 3.0)
"""Bounds of the factor by which expectations are corrected."""


@dataclass(frozen=True, kw_only=True)
class BrowserForecast:
    """What is expected of one browser, over all nodes that have it, in the minute after ``at``."""

    at: float
    browser: str
    active_models: int
    utilization: float
    """Share of that minute in which a node that has this browser runs a test in it, 0 – 1."""
    overloaded: bool
    confidence: float
    """1 − the mean absolute error of the forecasts scored so far; 0.5 before there is one."""
    naive_utilization: float
    """As the last minute."""


@dataclass(frozen=True, kw_only=True)
class ForecastScore:
    """Mean absolute errors of the utilization forecasts that came due, and of the naive ones beside them."""

    count: int
    error: float
    naive_error: float


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the last five minutes saw of one browser and model type; rates per second."""

    arrivals: float
    completions: float
    service_s: float
    """Mean seconds of a test, set-up included; 0 before one was measured."""


class Predictor:
    """Hears of begun and ended tests, forecasts when asked, and scores its forecasts."""

    def __init__(self) -> None:
        self.arrivals: dict[tuple[str, str], deque[float]] = defaultdict(deque)
        self.served: dict[tuple[str, str], deque[tuple[float, float]]] = defaultdict(deque)
        self.spans: dict[str, deque[tuple[float, float]]] = defaultdict(deque)
        self.open: dict[str, tuple[str, float]] = {}
        self.ratios: deque[float] = deque(maxlen=SCORED)
        self.errors: deque[float] = deque(maxlen=SCORED)
        self.naive_errors: deque[float] = deque(maxlen=SCORED)
        self.pending: deque[tuple[BrowserForecast, int]] = deque()
        self.latest: dict[str, BrowserForecast] = {}
        self.came: deque[tuple[BrowserForecast, float]] = deque(maxlen=KEPT)
        """Forecasts that came due with what came, until somebody takes them out."""
        self.scored = 0
        self.next_at = 0.0
        self.began: float | None = None

    # -- hearing ---------------------------------------------------------------------------------------------

    def began_test(self, node: str, browser: str, kind: str, at: float) -> None:
        """A test of model type ``kind`` began in ``browser`` on ``node``."""
        if self.began is None:
            self.began = at
        self.open[node] = (browser, at)
        times = self.arrivals[browser, kind]
        times.append(at)
        while times and times[0] < at - WINDOW_S:
            times.popleft()

    def ended_test(self, node: str, kind: str, at: float, expected_s: float) -> None:
        """The test that ran on ``node`` ended; it had been expected to take ``expected_s``."""
        begun = self.open.pop(node, None)
        if begun is None:
            return
        browser, since = begun
        self._span(browser, since, at)
        served = self.served[browser, kind]
        served.append((at, at - since))
        while served and served[0][0] < at - WINDOW_S:
            served.popleft()
        if expected_s > 0:
            self.ratios.append((at - since) / expected_s)

    def lost(self, node: str, at: float) -> None:
        """``node`` is gone; what it did until now counts as use."""
        begun = self.open.pop(node, None)
        if begun is not None:
            self._span(begun[0], begun[1], at)

    def _span(self, browser: str, since: float, until: float) -> None:
        spans = self.spans[browser]
        spans.append((since, until))
        while spans and spans[0][1] < until - WINDOW_S:
            spans.popleft()

    # -- what was --------------------------------------------------------------------------------------------

    def used(self, browser: str, since: float, until: float) -> float:
        """Seconds, summed over nodes, that ``browser`` ran tests between ``since`` and ``until`` (within the
        window)."""
        total = 0.0
        for start, end in reversed(self.spans[browser]):
            if end < since:
                break  # they are in the order of their ends
            total += max(0.0, min(end, until) - max(start, since))
        for name, start in self.open.values():
            if name == browser:
                total += max(0.0, until - max(start, since))
        return total

    def rates(self, now: float) -> dict[tuple[str, str], Rates]:
        """(browser, model type) → what the last five minutes saw."""
        seconds = min(WINDOW_S, max(now - (self.began if self.began is not None else now), 1.0))
        result = {}
        for key, times in self.arrivals.items():
            begun = sum(t >= now - WINDOW_S for t in times)
            done = [s for t, s in self.served[key] if t >= now - WINDOW_S]
            result[key] = Rates(
                arrivals=begun / seconds,
                completions=len(done) / seconds,
                service_s=sum(done) / len(done) if done else 0.0,
            )
        return result

    @property
    def score(self) -> ForecastScore:
        """How good the forecasts were, and how good the naive ones would have been."""
        n = len(self.errors)
        return ForecastScore(
            count=self.scored,
            error=sum(self.errors) / n if n else 0.0,
            naive_error=sum(self.naive_errors) / n if n else 0.0,
        )

    @property
    def stretch(self) -> float:
        """How much longer tests take than was expected: the median of the last ratios, bounded."""
        if len(self.ratios) < 5:
            return 1.0
        ordered = sorted(self.ratios)
        return min(STRETCH_RANGE[1], max(STRETCH_RANGE[0], ordered[len(ordered) // 2]))

    # -- what will be ----------------------------------------------------------------------------------------

    def due(self, now: float) -> bool:
        """Whether it is time for the next forecast."""
        return self.began is not None and now >= self.next_at

    def forecast(self, nodes: Iterable[NodePlan], thresholds: Mapping[str, float], now: float) -> None:
        """Score what came due, and look at the next minute. ``thresholds``: browser → overload; "" for all
        others."""
        self._score(now)
        self.next_at = now + EVERY_S
        seconds: dict[str, float] = defaultdict(float)
        models: dict[str, set[str]] = defaultdict(set)
        having: dict[str, int] = defaultdict(int)
        for node in nodes:
            for browser in node.capabilities.browsers:
                having[browser.name] += 1
            self._read_ahead(node, now, seconds, models)
        confidence = max(0.0, 1.0 - self.score.error) if self.errors else FIRST_CONFIDENCE
        for name, count in having.items():
            utilization = min(1.0, seconds[name] / (HORIZON_S * count))
            past = self.used(name, now - HORIZON_S, now)
            span = min(HORIZON_S, max(now - (self.began or 0.0), 1e-9))
            made = BrowserForecast(
                at=now,
                browser=name,
                active_models=len(models[name]),
                utilization=utilization,
                overloaded=utilization > thresholds.get(name, thresholds.get("", 1.0)),
                confidence=confidence,
                naive_utilization=min(1.0, past / (span * count)),
            )
            self.latest[name] = made
            self.pending.append((made, count))

    def _read_ahead(
        self, node: NodePlan, now: float, seconds: dict[str, float], models: dict[str, set[str]]
    ) -> None:
        left = HORIZON_S
        if node.running is not None and node.session is not None:
            spent = min(left, max(0.0, node.busy_until - now) * self.stretch)
            seconds[node.session[0]] += spent
            models[node.session[0]].add(node.session[2])
            left -= spent
        for batch in reversed(node.ordered()):
            if left <= 0:
                return
            session = batch.session
            spent = min(left, (sum(node.setup_now(session)) + batch.work * node.unit(session)) * self.stretch)
            seconds[session[0]] += spent
            models[session[0]].add(session[2])
            left -= spent

    def _score(self, now: float) -> None:
        while self.pending and self.pending[0][0].at + HORIZON_S <= now:
            made, count = self.pending.popleft()
            came = self.used(made.browser, made.at, made.at + HORIZON_S) / (HORIZON_S * count)
            self.came.append((made, came))
            self.errors.append(abs(made.utilization - came))
            self.naive_errors.append(abs(made.naive_utilization - came))
            self.scored += 1
