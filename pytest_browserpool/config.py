"""Settings: validated once, then frozen. Each default has its reason beside it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_browserpool.errors import ConfigurationError
from pytest_browserpool.preferences import AppliedChange
from pytest_browserpool.values import STRATEGIES, Plain

FAMILIES = ("chrome", "edge", "firefox", "webkit")

MOST_SECONDS = 1e8
"""Three years. The system's own waits end at about 9e9 s, and a date that far from now may not exist."""


@dataclass(frozen=True, kw_only=True)
class CustomBrowser(Plain):
    """``[tool.browserpool.browsers.NAME]``: a browser that the user describes."""

    name: str
    family: str
    """chrome, edge, firefox or webkit: which of Playwright's drivers starts it, and what ``browsers=`` may call it."""
    executable: str | None = None
    """A path, relative to ``pyproject.toml``, or a bare word that is looked for on ``PATH``."""
    channel: str | None = None
    """A channel of Playwright's, such as ``chrome-beta``; ``moz-firefox`` is assumed for an executable of family firefox."""
    endpoint: str | None = None
    """A DevTools endpoint (``http://…`` or ``ws://…``) of a Chromium that somebody else started."""
    flags: tuple[str, ...] = ()
    """Command-line switches, added to ours; ``--enable-features`` and ``--disable-features`` are merged."""
    prefs: Mapping[str, Any] = field(default_factory=dict)
    """Firefox preferences, added to ours; yours win."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the browser's process."""


@dataclass(frozen=True, kw_only=True)
class OwnRuntime(Plain):
    """A build of onnxruntime-web that the user gave in place of ours, as ``artefacts.runtime.examine`` found it."""

    directory: str
    """Where its files are, on this machine."""
    version: str
    """As the build says, such as ``1.29.0``; ``unknown`` where it does not."""
    sha256: str
    """Of the names and hashes of all its files: two builds of one version differ in it."""

    @property
    def label(self) -> str:
        """What the history and reports call it: ``1.29.0 (own, 1a2b3c4d)``."""
        return f"{self.version} (own, {self.sha256[:8]})"


@dataclass(frozen=True, kw_only=True)
class Settings(Plain):
    """Everything that a run can be told. Paths are absolute; the controller sends its own to every node."""

    rootdir: str
    db: str
    browsers: tuple[str, ...] = ()
    """Names or families; unless given all that the node has, because a browser that is here is there to be tested in."""
    max_browsers: int = 3
    """One of each kind that is usual; a Chromium with one warm WebGPU model takes 0.4 – 0.8 GiB."""
    recovery: str = "progressive"
    """The cheapest step first: most faults are one browser's."""
    scheduler: bool = True
    """Ours knows what is warm where; off is for comparing it with xdist's own."""
    learn: bool = False
    """Exploring costs set-ups: a run that only wants its outcomes should not pay for what later runs learn."""
    shards_over: str = "node"
    """A browser that another node lends is missing there, and tensors travel the network twice for each cut: nobody should
    pay for that unasked."""
    missing: str = "fail"
    """A test that nothing here can run fails: a suite that quietly skips its WebNN half proves nothing."""
    redundancy: int = 1
    """One browser holds a model: a standby costs a second load and its memory."""
    history_copies: int = 2
    """Two files survive the loss of one."""
    keep: str = "forever"
    """Runs that are older go when a run ends. A thousand small runs are megabytes, and comparing far back is worth them."""
    runtime: str = ""
    """The pinned onnxruntime-web: the one that our browsers were measured with, and the same for everybody."""
    code_cache: bool = True
    """Without it each Chromium compiles the same WebAssembly again, 3 s of processor time."""
    prometheus: str = ""
    """A file for those who collect metrics; nobody else wants one."""
    otel: bool = False
    """Traces go to a collector, and most users have none."""
    state_sync_interval: float = 5.0
    """What a kill of the controller may lose; a write takes milliseconds."""
    launch_timeout: float = 30.0
    """Seconds: the slowest cold launch seen was 3 s; ten times that for a loaded machine."""
    ping_timeout: float = 5.0
    """Seconds: a healthy page answers in milliseconds; a page busy compiling blocks its main thread for a while."""
    heartbeat_timeout: float = 30.0
    """Nodes beat every 2 s from a thread; only native code that holds the interpreter's lock, or a stopped process, is
    silent for longer. The tests of a lost node run elsewhere."""
    connect_timeout: float = 30.0
    """Seconds until a remote node must be connected and ready: ssh and Python take one to two on an idle machine."""
    pool_cool_down: float = 60.0
    """Seconds before a node's pool shrinks after its size last changed: a browser closed too soon is launched again."""
    page_max_loads: int = 200
    """Sessions created in one page after which it is replaced, at the next look between tests, some seconds later: create
    and release leak about 4 MB each beside an anchor."""
    page_max_memory_gib: float = 4.0
    """Memory of one browser's process tree before it is replaced when idle: wasm memory never shrinks."""
    firefox_max_windows: int = 200
    """Windows opened in one Firefox, for leased pages and for pages of models, after which it is replaced when idle: there
    each is a whole window of the browser, whose memory the main process gets back late and not quite. So many take far
    longer than to launch another."""
    memory_share: float = 0.8
    """Share of the node's memory that its browsers may take together."""
    custom: tuple[CustomBrowser, ...] = ()
    own_runtime: OwnRuntime | None = None
    """What ``runtime`` or the hook ``pytest_browserpool_runtime`` gave, examined; unless given the pinned one is used."""
    applied: tuple[AppliedChange, ...] = ()
    """What ``browserpool apply`` set, from the file beside the history; what options say otherwise is not in it."""
    strategies: tuple[str, ...] = STRATEGIES
    """What ``recovery`` and the marker's keyword may name: the built-in ones, and those that hooks add."""

    def __post_init__(self) -> None:
        _at_least("max_browsers", self.max_browsers, 1)
        _at_least("redundancy", self.redundancy, 1)
        _at_least("history_copies", self.history_copies, 1)
        for name in (
            "state_sync_interval",
            "launch_timeout",
            "ping_timeout",
            "heartbeat_timeout",
            "connect_timeout",
            "pool_cool_down",
        ):
            if not 0 < getattr(self, name) <= MOST_SECONDS:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)!r}",
                    remedy=f"give a number of seconds above 0, at most {MOST_SECONDS:.0f}",
                )
        _one_of("recovery", self.recovery, self.strategies)
        days_of(self.keep)
        _one_of("missing", self.missing, ("fail", "skip"))
        _one_of("shards_over", self.shards_over, ("node", "nodes"))


def days_of(keep: str) -> float | None:
    """The days that a time such as ``90d``, ``12w`` or ``1y`` means; None for ``forever``.

    Raises:
        ConfigurationError: it is no such time.
    """
    if keep == "forever":
        return None
    match = re.fullmatch(r"(\d+)([dwy])", keep)
    if match is None or not int(match[1]):
        raise ConfigurationError(
            f"keep is {keep!r}",
            where="--browserpool-keep or browserpool_keep",
            remedy="give days, weeks or years such as 90d, 12w, 1y, or forever",
        )
    return int(match[1]) * {"d": 1.0, "w": 7.0, "y": 365.25}[match[2]]


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigurationError(
            f"{name} is {value!r}",
            where=f"--browserpool-{name.replace('_', '-')} or browserpool_{name}",
            remedy=f"give a whole number of at least {least}",
        )


def _one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    allowed = tuple(allowed)
    if value not in allowed:
        raise ConfigurationError(
            f"{name} is {value!r}{did_you_mean(value, allowed)}",
            where=f"--browserpool-{name.replace('_', '-')} or browserpool_{name}",
            remedy=f"one of {', '.join(allowed)}",
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where something similar exists, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_TABLE_KEYS: Mapping[str, type] = {
    "family": str,
    "executable": str,
    "channel": str,
    "endpoint": str,
    "flags": list,
    "prefs": dict,
    "environment": dict,
}
"""Key → what TOML gives for it."""
_TOML_WORDS: Mapping[type, str] = {str: "text in quotes", list: "a list of texts", dict: "a table"}


def custom_browsers(rootdir: Path) -> tuple[CustomBrowser, ...]:
    """The browsers that ``pyproject.toml`` under ``rootdir`` defines.

    Raises:
        ConfigurationError: an unknown key, a missing or unknown family, or a value of the wrong type.
    """
    path = rootdir / "pyproject.toml"
    if not path.is_file():
        return ()
    import tomllib

    with path.open("rb") as file:
        try:
            ours = tomllib.load(file).get("tool", {}).get("browserpool", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"it is no TOML: {error}", where=str(path), remedy="mend the file"
            ) from error
    return tuple(
        _custom_browser(name, table, f"{path} [tool.browserpool.browsers.{name}]")
        for name, table in _tables(ours, str(path)).items()
    )


def _tables(ours: Any, where: str) -> dict[str, Any]:
    """``[tool.browserpool.browsers]``, where there is nothing else that nobody would read."""
    others = [key for key in ours if key != "browsers"] if isinstance(ours, dict) else [str(ours)]
    tables = ours.get("browsers", {}) if not others else None
    if not isinstance(tables, dict):
        what = (
            f"has {others[0]!r}{did_you_mean(others[0], ['browsers'])}"
            if others
            else f"has browsers = {tables!r}"
        )
        raise ConfigurationError(
            f"[tool.browserpool] {what}",
            where=where,
            remedy="browsers are defined in [tool.browserpool.browsers.NAME]; "
            "options belong to pytest's own table, as browserpool_…",
        )
    return tables


def _odd_values(name: str, table: Mapping[str, Any]) -> Iterator[tuple[bool, str, str]]:
    """Whether something of the right type cannot mean anything, what, and the remedy."""
    endpoint = table.get("endpoint", "http://")
    yield (
        "," in name or name != name.strip() or not name,
        f"{name!r} is no name",
        ("browsers are listed with commas between: name it without one, and without spaces around it"),
    )
    yield (
        not endpoint.startswith(("http://", "https://", "ws://", "wss://")),
        f"endpoint is {endpoint!r}",
        "give a DevTools endpoint: http://HOST:PORT or ws://…",
    )
    for key, value in table.get("prefs", {}).items():
        yield (
            not isinstance(value, (bool, int, str)),
            f"prefs has {key} = {value!r}",
            "a Firefox preference is true, false, a whole number or a text",
        )
    for key, value in table.get("environment", {}).items():
        odd = not key or "=" in key or "\0" in f"{key}{value}"
        yield odd, f"environment has {key!r} = {value!r}", "no system has a variable like that"


def _custom_browser(name: str, table: Any, where: str) -> CustomBrowser:
    if not isinstance(table, dict):
        raise ConfigurationError(f"{name} is {table!r}", where=where, remedy="write it as a table")
    for key in table:
        if key not in _TABLE_KEYS:
            raise ConfigurationError(
                f"unknown key {key!r}{did_you_mean(key, _TABLE_KEYS)}",
                where=where,
                remedy=f"known: {', '.join(sorted(_TABLE_KEYS))}",
            )
        if not isinstance(table[key], _TABLE_KEYS[key]):
            raise ConfigurationError(
                f"{key} is {table[key]!r}", where=where, remedy=f"give {_TOML_WORDS[_TABLE_KEYS[key]]}"
            )
    family = table.get("family")
    if family not in FAMILIES:
        raise ConfigurationError(f"family is {family!r}", where=where, remedy=f"one of {', '.join(FAMILIES)}")
    if not any(table.get(key) for key in ("executable", "channel", "endpoint")):
        raise ConfigurationError(
            "no browser named", where=where, remedy="give executable, channel or endpoint"
        )
    for wrong, trouble, remedy in _odd_values(name, table):
        if wrong:
            raise ConfigurationError(trouble, where=where, remedy=remedy)
    return CustomBrowser(
        name=name,
        family=family,
        executable=table.get("executable"),
        channel=table.get("channel"),
        endpoint=table.get("endpoint"),
        flags=tuple(str(f) for f in table.get("flags", ())),
        prefs=dict(table.get("prefs", {})),
        environment={str(k): str(v) for k, v in table.get("environment", {}).items()},
    )
