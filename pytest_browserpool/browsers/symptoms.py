"""What can be seen of a fault, and the table that says what each text means. Pure; ``failures.diagnose`` reads it.

The texts were seen in Chromium 147 and 156 and Firefox 153 under Playwright 1.60 to 1.64 with onnxruntime-web
1.30, or stand in the sources of those versions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pytest_browserpool import errors
from pytest_browserpool.errors import BrowserPoolError


class Origin(StrEnum):
    """Where an observation comes from."""

    PLAYWRIGHT = "playwright"
    """The text of an exception that a Playwright call raised."""
    EVENT = "event"
    """An event's name: ``disconnected``, ``crash``, ``close``, ``targetCrashed``, ``targetDestroyed``."""
    WEBSOCKET = "websocket"
    """The page's WebSocket closed; ``code`` is the close code of RFC 6455 section 7.4.1."""
    RUNTIME = "runtime"
    """An error message of onnxruntime-web, or a JavaScript error around it."""
    DEVICE = "device"
    """``GPUDevice.lost`` resolved; ``text`` has its reason and message."""
    EXIT = "exit"
    """A process ended; ``text`` is its role (browser, renderer, gpu, driver), ``code`` its status."""
    DEADLINE = "deadline"
    """A wait of our own ended without an answer."""
    TEST = "test"
    """An exception of the test or of our checks of its arguments; ``text`` is the exception's type name."""


class Phase(StrEnum):
    """What was going on."""

    LAUNCH = "launch"
    LOAD = "load"
    RUN = "run"
    PING = "ping"
    GPU_PING = "gpu_ping"
    """A heartbeat with GPU work in it, after one without was answered."""
    BROWSER = "browser"
    """A call that the browser process answers without the page: a new page, closing a page."""
    IDLE = "idle"
    WAIT = "wait"
    """A wait that no page answers, such as a download."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One thing that was seen. ``None`` in the ``…_alive`` fields means that nobody looked."""

    origin: Origin
    text: str = ""
    code: int | None = None
    phase: Phase = Phase.RUN
    expected: bool = False
    """Whether we caused it: a page that we closed, a browser that we ended, a device that we destroyed."""
    browser_alive: bool | None = None
    page_alive: bool | None = None


@dataclass(frozen=True)
class Rule:
    """``pattern`` is searched, without regard to case, in the text of observations from ``origins``."""

    origins: frozenset[Origin]
    pattern: re.Pattern[str]
    error: type[BrowserPoolError] | None
    reason: str
    example: str
    """A text that was seen and must match; the tests use it."""
    phases: frozenset[Phase] | None = None
    """None: in any phase."""

    def fits(self, seen: Observation) -> bool:
        """Whether this rule speaks of ``seen``."""
        if seen.origin not in self.origins or (self.phases is not None and seen.phase not in self.phases):
            return False
        return self.pattern.search(seen.text) is not None


def _rule(
    origins: str,
    pattern: str,
    error: type[BrowserPoolError] | None,
    reason: str,
    example: str,
    phases: str = "",
) -> Rule:
    return Rule(
        frozenset(Origin(name) for name in origins.split()),
        re.compile(pattern, re.IGNORECASE),
        error,
        reason,
        example,
        frozenset(Phase(name) for name in phases.split()) or None,
    )


RULES: tuple[Rule, ...] = (
    # -- a launch that can never work: the user's to mend, not to be repeated
    _rule(
        "playwright",
        r"executable doesn.t exist|spawn .{1,300}(ENOENT|EACCES|ENOEXEC)|exec format error|exitcode=12[67]\b",
        errors.ConfigurationError,
        "the executable is missing or is not a program: every launch ends like this",
        "BrowserType.launch: Failed to launch chromium because executable doesn't exist at /nowhere",
        "launch",
    ),
    # -- the whole browser
    _rule(
        "playwright",
        r".*",
        errors.LaunchFailed,
        "whatever else ends a launch, no browser came of it",
        "BrowserType.launch: Timeout 30000ms exceeded.",
        "launch",
    ),
    _rule(
        "playwright",
        r"connection closed|driver.*(exited|closed)|\bEPIPE\b",
        errors.BrowserCrashed,
        "Playwright's driver is gone, and every browser it started is out of reach",
        "Connection closed while reading from the driver",
    ),
    _rule(
        "event",
        r"^disconnected$",
        errors.BrowserCrashed,
        "Playwright lost the browser process",
        "disconnected",
    ),
    _rule(
        "playwright",
        r"(?<!or )browser has been closed|browser (is )?(closed|disconnected)",
        errors.BrowserCrashed,
        "the browser process ended while a call waited",
        "Browser.new_page: Browser closed",
    ),
    _rule(
        "playwright",
        r"target page, context or browser has been closed|target closed",
        errors.BrowserCrashed,
        "a browser-level call found its target gone: Firefox says it is connected after its content "
        "process died, yet opens no page any more",
        "Browser.new_page: Target page, context or browser has been closed",
        "browser",
    ),
    # -- the page
    _rule(
        "event",
        r"^(crash|targetcrashed|inspector\.targetcrashed)$",
        errors.PageCrashed,
        "the renderer process died (Chromium)",
        "crash",
    ),
    _rule(
        "event",
        r"^(close|targetdestroyed)$",
        errors.PageCrashed,
        "a page that we did not close is gone: how Firefox shows a dead content process",
        "close",
    ),
    _rule(
        "playwright",
        r"(target|page) crashed",
        errors.PageCrashed,
        "the renderer process died (Chromium)",
        "Page.evaluate: Target crashed",
    ),
    _rule(
        "playwright",
        r"context (was )?destroyed|browsing context.*(discarded|no longer)",
        errors.PageCrashed,
        "our pages never navigate: the content process is dead (Firefox sends no crash event)",
        "Page.evaluate: Execution context was destroyed, most likely because of a navigation",
    ),
    _rule(
        "playwright",
        r"(target page, context or browser|page|target) (has been |is )?closed",
        errors.PageCrashed,
        "a page that we did not close is gone",
        "Page.evaluate: Target page, context or browser has been closed",
    ),
    _rule(
        "playwright",
        r"timeout [\d.]+ ?ms exceeded",
        errors.PageHung,
        "the page did not answer Playwright in time",
        "Page.goto: Timeout 30000ms exceeded.",
    ),
    # -- the GPU
    _rule(
        "device",
        r".*",
        errors.DeviceLost,
        "the device is lost, by whatever reason it gives",
        "unknown",
    ),
    _rule(
        "runtime playwright",
        r"device (is |was )?(lost|destroyed)|VK_ERROR_DEVICE_LOST|valid external instance reference|"
        r"instance dropped|gpu process (crashed|exited|was lost)|mapasync.*abort|buffer (was |is )?destroyed",
        errors.DeviceLost,
        "the GPU device or its process is gone, and onnxruntime-web keeps the dead one",
        "WebGPU device lost (2): Device was destroyed.",
    ),
    _rule(
        "runtime",
        r"failed to get gpu adapter|requestadapter|no available adapters",
        errors.DeviceLost,
        "the probe had an adapter: Chromium refuses WebGPU after repeated crashes of its GPU process",
        'Failed to get GPU adapter. You may need to enable flag "--enable-unsafe-webgpu"',
    ),
    # -- memory
    _rule(
        "runtime playwright",
        r"out of (device )?memory|\bOOM\b|VK_ERROR_OUT_OF|array buffer allocation failed|failed to allocate|"
        r"could not allocate|cannot allocate|bad_alloc|not enough memory|cannot enlarge memory|"
        r"invalid (typed )?array(buffer| buffer)? length|out-of-range index|allocation (size )?overflow",
        errors.OutOfMemory,
        "an allocation failed; wasm memory never shrinks, so only a new page has room again",
        "RangeError: Array buffer allocation failed",
    ),
    # -- a page whose onnxruntime is spoilt
    _rule(
        "runtime",
        r"another WebGPU EP inference session is being created",
        errors.SessionRefused,
        "a failed create left the lock of session creation held for ever",
        "another WebGPU EP inference session is being created.",
    ),
    _rule(
        "runtime",
        r"(previous call to|multiple calls to) .?init(ialize)?(wasm|webassembly)",
        errors.SessionRefused,
        "a wasm initialisation that failed once never succeeds in that page",
        "previous call to 'initWasm()' failed.",
    ),
    _rule(
        "runtime",
        r"memory access out of bounds|index (is )?out of bounds|unreachable( executed)?$|\baborted\(|"
        r"null function or function signature",
        errors.SessionRefused,
        "the wasm instance trapped: its heap cannot be trusted, every later run fails too",
        "RuntimeError: memory access out of bounds",
    ),
    # -- a model or an input that cannot run: never a fault. After the faults, which may hide behind these
    # words: a load that ran out of memory also says that the model could not be loaded
    _rule(
        "runtime",
        r"protobuf parsing failed|INVALID_(PROTOBUF|GRAPH)|failed to load model|load model.*failed|\binvalid model\b|"
        r"no opset import for domain|error_code: (7|10)\b",
        errors.InvalidModel,
        "the bytes are not an ONNX model",
        "Failed to load model because protobuf parsing failed.",
    ),
    _rule(
        "runtime",
        r"could not find an implementation for|is not a registered function/op|failed to find kernel for|"
        r"NOT_IMPLEMENTED|no op registered|error_code: 9\b|unsupported (data type|operator|op\b)|"
        r"\bbinary op\b|kernel .*not (found|supported)|provider type for .* is not set",
        errors.UnsupportedOperator,
        "the backend lacks an operator and will lack it in the next page too",
        "Could not find an implementation for Foo(1) node with name 'n'",
    ),
    _rule(
        "runtime",
        r"got invalid dimensions for|unexpected input data type|is missing in 'feeds'|invalid feed|"
        r"invalid (rank for input|input name)|'feeds' must be an object|required inputs .* are missing|"
        r"INVALID_ARGUMENT|error_code: 2\b",
        errors.InputError,
        "the call's inputs do not fit the model",
        "input 'x' is missing in 'feeds'.",
    ),
)
"""First match wins."""


def said_at_launch(error: Exception) -> str:
    """What is worth reading of a failed launch: Playwright's first line hides that the program ended, and its own words."""
    lines = str(error).strip().splitlines()
    if not lines:
        return ""
    own = [
        re.sub(r"^.*?\[pid=\d+\]\[(?:err|out)\] ?", "", line)
        for line in lines
        if re.search(r"\]\[(err|out)\]", line)
    ]
    first = lines[0].removeprefix("BrowserType.launch: ")
    if "has been closed" in first:
        first = "it ended at once; is it a browser?"
    return f"{first} It said: {' / '.join(own[-2:])[:300]}" if own else first
