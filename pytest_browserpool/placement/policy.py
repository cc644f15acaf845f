"""The engine's constants: each a starting value with its reason; measurement replaces what can be
measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_browserpool.preferences import Preference

LAUNCH_PRIOR_S: Mapping[str, float] = {"firefox": 5.0}
"""Seconds to launch a browser nobody has timed yet: stock Firefox took 3 s cold, its page with the runtime 2 s more."""
LAUNCH_PRIOR_OTHER_S = 2.5
"""Chromium and its headless shell took 0.4 – 1 s, their page with the runtime's WebAssembly 2 s more."""

LOAD_PRIOR_S: Mapping[str, float] = {
    "webgpu": 6.0,
    "webnn": 0.5,
    "webnn-gpu": 0.5,
    "webnn-npu": 0.5,
    "wasm": 0.3,
}
"""Seconds to load a model and run it first: WebGPU compiles shaders (3 – 18 s on software adapters)."""

FIRST_RUN_SHARE: Mapping[str, float] = {"webgpu": 0.9}
"""Of the seconds of a load with its first run, what a session that was made ahead has still before it: shaders compile when
they first run (four models on software adapters: 0.2 – 0.35 s to make, 1.7 – 4.4 s to run first, 0.4 where Mesa had
kept them)."""
FIRST_RUN_SHARE_OTHER = 0.2
"""WebAssembly and WebNN do their work when the session is made (16 sessions: 0.39 s to make, 0.07 s to run first)."""

RUN_PRIOR_S: Mapping[str, float] = {
    "webgpu": 1.0,
    "webnn": 0.3,
    "webnn-gpu": 0.3,
    "webnn-npu": 0.3,
    "wasm": 0.3,
}
"""Seconds of a warm test: a few calls of 1 – 500 ms and what the test does besides."""

OTHER_PRIOR_S = 0.3
"""Seconds of a test that uses no browser, and of a backend with no prior of its own."""

SPLIT_EPSILON_S = 1e-9
"""Below this two times count as equal: sums of floats differ by about this much."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What a ``PlacementEngine`` is told once."""

    expected_nodes: int | None = None
    """How many nodes the run begins with. Until that many came up (or ``AllNodesKnown``) no test is called
    unrunnable. None: wait for ``AllNodesKnown``."""
    seed: int = 0
    """Of the search's random choices: the same events give the same commands."""
    max_attempts: int = 2
    """A test that was running when its node was lost is tried on one other node: a second loss is hardly
    chance."""
    near_tie: float = 0.05
    """Candidates whose expected completion differs by less than 5 % are told apart by the capability score:
    below that, estimates are noise."""
    first_iterations: int = 4000
    """Search iterations on the first plan, before the first test is sent: about 40 ms, and what is sent stays
    sent."""
    explain: bool = True
    """Keep a ``Decision`` with every ``Run``."""
    learn: bool = False
    """Choose among the browsers and backends that qualify as a bandit does (learning.py), and not by what is expected
    now: unless asked for, a run's choices should not depend on what it wants to know."""
    preferences: tuple[Preference, ...] = ()
    """What ``browserpool apply`` set: ways that tests take where they leave it open. Not while learning, which is there
    to find out."""
    browser_nodes: Mapping[str, int] = field(default_factory=dict)
    """Browser → on how many nodes it is used at most, as long as no node is lost."""
    prewarm: bool = True
    """Say what comes next on a node while it runs something."""
    min_browsers: int = 1
    """Least pool size that the advice goes down to."""
    memory_share: float = 0.8
    """Share of a node's memory that its browsers may take together."""
    browser_memory_gib: float = 0.8
    """Memory taken to be one browser's: a Chromium with one warm WebGPU model took 0.4 – 0.8 GiB."""
    pool_cool_down_s: float = 60.0
    """Seconds before a pool shrinks after its size last changed: a browser closed too soon is launched again."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts!r}; give at least 1")
        if self.expected_nodes is not None and self.expected_nodes < 0:
            raise ValueError(f"expected_nodes is {self.expected_nodes!r}; give 0 or more, or None")
