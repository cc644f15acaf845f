"""What the analysis reads: cells of measurements, already reduced to one typical value for each run and place.

Values are typical ones (medians) of what was measured in one place, so that no single slow call decides. A call on a
software adapter and one on a hardware adapter are different ways to run a model and are never put together; what ran
degraded is not in here at all, but for the counts of faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """One way to run a model: a browser with a backend, and for WebGPU what kind of adapter."""

    browser: str
    backend: str
    adapter: str = ""
    """software or hardware where shaders run on an adapter; empty for backends that use none."""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.browser, self.backend))) + (
            f" ({self.adapter})" if self.adapter else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """One run, in the order they started."""

    run: str
    started_at: float
    """Seconds since the epoch."""
    seconds: float
    """From its first test to the end of its last; 0 for a run without tests."""
    nodes: int = 1
    longest: str = ""
    """The test that took longest."""
    longest_s: float = 0.0
    version: str = ""
    """Of pytest-browserpool."""
    runtime: str = ""
    """Of onnxruntime-web."""
    browsers: tuple[str, ...] = ()
    """Versions of the browsers that ran, as ``firefox 153.0``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Calls (milliseconds) or loads (seconds) of one model one way, on one host in one run."""

    run: str
    host: str
    model: str
    type: str
    way: Way
    count: int
    typical: float
    """Median."""
    size: int = 0
    """Bytes of the inputs of a call: calls of other sizes are other work."""
    metric: str = "latency"
    """latency for calls, load time for loads."""
    raw: tuple[float, ...] = ()
    """Single measurements, spread evenly over the run; only where runs are too few to be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most memory that one browser process tree took."""

    run: str
    host: str
    browser: str
    bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a run's tests were: what they took in earlier runs over what they took in this one."""

    run: str
    browser: str
    """Empty: all tests of the run."""
    tests: int
    usual_s: float
    """The same tests' median durations in the runs that are compared with, summed."""
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulty:
    """Tests of one model on one browser in one run, and how many of them met a fault."""

    run: str
    model: str
    browser: str
    tests: int
    faulty: int
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one browser did in one run on one node."""

    run: str
    node: str
    browser: str
    """Empty: tests without a browser."""
    tests: int
    busy_s: float
    """Summed durations of the tests."""
    launches: int
    launch_s: float
    load_s: float
    """Session creation and first runs."""
    evicted: int = 0
    """Browsers closed for want of room in the pool."""
    crowded: int = 0
    """Browsers closed for want of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Tests of one model in one run that might have run another way, by the way that they took."""

    run: str
    model: str
    type: str
    way: Way
    tests: int
    calls: int
    call_s: float
    """Seconds in warm calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Everything that one analysis looks at, of the runs in its window."""

    runs: Sequence[RunInfo] = ()
    calls: Sequence[Cell] = ()
    """Warm calls."""
    loads: Sequence[Cell] = ()
    """Cold loads: session creation and first run together."""
    memory: Sequence[Peak] = ()
    pace: Sequence[Pace] = ()
    faulty: Sequence[Faulty] = ()
    shares: Sequence[Share] = ()
    free: Sequence[Free] = ()
