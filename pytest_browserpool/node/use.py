"""What one test did with browsers and models: for its report, the history and the scheduler."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pytest_browserpool.values import Plain

if TYPE_CHECKING:
    from pytest_browserpool.browsers.pool import Loaded, ModelContent
    from pytest_browserpool.node.journal import Operation

ASKED_BY: ContextVar[str] = ContextVar("browserpool_asked_by", default="")
"""The test on whose behalf something is done; empty: for tests to come. The node's loop has it from the thread that asks,
and work that goes on beside the test sets it to nothing."""

CONSOLE_LINES = 100
"""Lines of the page's console that travel with a failed test's report."""


@dataclass(frozen=True, kw_only=True)
class TestUse(Plain):
    """A finished test's use of the pool, for its report. Times in milliseconds."""

    __test__ = False

    browser: str = ""
    browser_version: str = ""
    backend: str = ""
    model: str = ""
    """sha256"""
    model_label: str = ""
    latency_ms: float | None = None
    """Median of the test's calls, the first on a new session left out where there are more."""
    calls: int = 0
    load_ms: float = 0.0
    launch_ms: float = 0.0
    first_run_ms: float = 0.0
    """The first call on a new session: compiling included."""
    warm: bool = False
    """Whether the session was there before the test."""
    adapter: str = ""
    recoveries: int = 0
    degraded: bool = False
    placement: Mapping[str, int] = field(default_factory=dict)
    console: tuple[str, ...] = ()
    page_errors: tuple[str, ...] = ()
    screenshot: str | None = None
    """A PNG in base64, of a failed test."""


@dataclass
class ModelUse:
    """One model's part in a test, while it runs."""

    key: str
    """What the scheduler calls the model."""
    label: str
    sha256: str
    browser: str = ""
    browser_version: str = ""
    backend: str = ""
    adapter: str = ""
    placement: dict[str, int] = field(default_factory=dict)
    warm: bool = True
    launch_ms: float = 0.0
    load_ms: float = 0.0
    first_run_ms: float = 0.0
    timings: list[float] = field(default_factory=list)
    degraded: bool = False
    recoveries: int = 0
    operation: Operation | None = None
    """The call or load that is under way."""
    shards: int = 1
    """In how many browsers it is at once; their names are joined in ``browser`` where it is more than one."""

    @property
    def compile_ms(self) -> float:
        """What the first call took beyond a usual one."""
        later = self.timings[1:]
        if not self.first_run_ms:
            return 0.0
        return (
            max(0.0, self.first_run_ms - (statistics.median(later) if later else 0.0))
            if later
            else self.first_run_ms
        )

    @property
    def latency_ms(self) -> float | None:
        """Median of the calls; the first on a new session counts only when it is the only one."""
        calls = self.timings[1:] if self.first_run_ms and len(self.timings) > 1 else self.timings
        return statistics.median(calls) if calls else None


class Held(Protocol):
    """A model that a test holds, whole or in shards, as far as the record cares."""

    use: ModelUse

    @property
    def content(self) -> ModelContent: ...

    @property
    def loaded(self) -> Loaded | None: ...


@dataclass
class RunningTest:
    """The test that this process runs now. ``hint`` is the scheduler's (browser, backend)."""

    nodeid: str
    hint: tuple[str, str | None] | None = None
    started: float = field(default_factory=time.monotonic)
    models: list[ModelUse] = field(default_factory=list)
    lease_browser: tuple[str, str] | None = None
    """Name and version of a browser that was leased for a page of the test's own."""
    lease_console: list[str] = field(default_factory=list)
    lease_screenshot: str | None = None

    def summary(
        self,
        *,
        console: tuple[str, ...] = (),
        page_errors: tuple[str, ...] = (),
        screenshot: str | None = None,
    ) -> TestUse | None:
        """What to report: of the first model where there are several; None where the test used no browser."""
        if not self.models:
            if self.lease_browser is None:
                return None
            name, version = self.lease_browser
            return TestUse(
                browser=name,
                browser_version=version,
                console=console,
                page_errors=page_errors,
                screenshot=screenshot,
            )
        first = self.models[0]
        return TestUse(
            browser=first.browser,
            browser_version=first.browser_version,
            backend=first.backend,
            model=first.sha256,
            model_label=first.label,
            latency_ms=first.latency_ms,
            calls=sum(len(m.timings) for m in self.models),
            load_ms=sum(m.load_ms for m in self.models),
            launch_ms=sum(m.launch_ms for m in self.models),
            first_run_ms=sum(m.first_run_ms for m in self.models),
            warm=all(m.warm for m in self.models),
            adapter=first.adapter,
            recoveries=sum(m.recoveries for m in self.models),
            degraded=any(m.degraded for m in self.models),
            placement=dict(first.placement),
            console=console[-CONSOLE_LINES:],
            page_errors=page_errors,
            screenshot=screenshot,
        )
