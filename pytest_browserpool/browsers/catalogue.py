"""Which browsers exist on this machine, which do not, and what would bring them. Launches none."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_browserpool.artefacts import pins, process
from pytest_browserpool.config import CustomBrowser, Settings, did_you_mean
from pytest_browserpool.errors import BrowserPoolError, NoBrowser

ENGINES: Mapping[str, str] = {
    "chrome": "chromium",
    "edge": "chromium",
    "firefox": "firefox",
    "webkit": "webkit",
}
"""Family → Playwright's browser type."""
STOCK_FIREFOX = "moz-firefox"
"""Playwright's channel for a Firefox as Mozilla or Debian ship it (WebDriver BiDi, no patched build)."""
VERSION_TIMEOUT = 10.0
"""Seconds for ``EXE --version``: 0.3 s warm, a few from a cold disk."""


@dataclass(frozen=True)
class InstalledBrowser:
    """A browser that can be launched. ``executable`` None: Playwright finds it itself or by ``channel``."""

    name: str
    family: str
    engine: str
    """Playwright's browser type: chromium, firefox or webkit."""
    executable: str | None = None
    channel: str | None = None
    endpoint: str | None = None
    flags: tuple[str, ...] = ()
    prefs: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MissingBrowser:
    """A browser that is known but not here: why, and the command that would help."""

    name: str
    family: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Catalogue:
    """What this machine has, in order of preference: the user's own browsers, then ``_BUILT_IN``'s order."""

    installed: tuple[InstalledBrowser, ...]
    missing: tuple[MissingBrowser, ...]


@dataclass(frozen=True)
class _BuiltIn:
    """A browser that needs no configuration: where it is looked for, and what brings it."""

    name: str
    family: str
    find: Callable[[_BuiltIn], InstalledBrowser | None]
    programs: tuple[str, ...] = ()
    """Names on PATH and absolute paths, the first that runs is taken."""
    channel: str | None = None
    playwright: str = ""
    """Its name in ``playwright install``."""
    apt: tuple[str, ...] = ()
    """Debian packages."""


def _by_program(browser: _BuiltIn) -> InstalledBrowser | None:
    found = (shutil.which(program) for program in browser.programs)
    executable = next((path for path in found if path), None)
    if executable:
        engine = ENGINES[browser.family]
        return InstalledBrowser(browser.name, browser.family, engine, executable, channel=browser.channel)
    return _by_playwright(browser)


def _by_playwright(browser: _BuiltIn) -> InstalledBrowser | None:
    """Playwright's own download, which it finds by itself (stock channels do not apply to it)."""
    if browser.playwright in ENGINES.values() and _downloaded(browser.playwright):
        return InstalledBrowser(browser.name, browser.family, ENGINES[browser.family])
    return None


def _from_cache(browser: _BuiltIn) -> InstalledBrowser | None:
    directory = pins.held(pins.SHELL) if pins.shell_supported() else None
    if directory is None:
        return None
    executable = str(directory / pins.SHELL_EXECUTABLE)
    return InstalledBrowser(browser.name, browser.family, ENGINES[browser.family], executable)


_CHROME_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
_EDGE_MAC = "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge"

_BUILT_IN: tuple[_BuiltIn, ...] = (
    _BuiltIn(
        name="chromium",  # first: free, in Debian, WebGPU on every adapter
        family="chrome",
        find=_by_program,
        programs=("chromium", "chromium-browser"),
        playwright="chromium",
        apt=("chromium",),
    ),
    _BuiltIn(
        name="chrome",
        family="chrome",
        find=_by_program,
        programs=("google-chrome-stable", "google-chrome", "/opt/google/chrome/chrome", _CHROME_MAC),
        channel="chrome",
        playwright="chrome",
    ),
    _BuiltIn(
        name="edge",
        family="edge",
        find=_by_program,
        programs=("microsoft-edge-stable", "microsoft-edge", "/opt/microsoft/msedge/msedge", _EDGE_MAC),
        channel="msedge",
        playwright="msedge",
    ),
    _BuiltIn(
        name="firefox",
        family="firefox",
        find=_by_program,
        programs=("firefox-esr", "firefox", "/Applications/Firefox.app/Contents/MacOS/firefox"),
        channel=STOCK_FIREFOX,
        playwright="firefox",
        apt=("firefox-esr", "mesa-vulkan-drivers"),
    ),
    _BuiltIn(name="headless-shell", family="chrome", find=_from_cache),  # WebNN that really runs
    _BuiltIn(
        name="webkit", family="webkit", find=_by_playwright, playwright="webkit"
    ),  # last: no WebGPU on Linux
)

NAMES: tuple[str, ...] = tuple(b.name for b in _BUILT_IN)
"""Names of the browsers that need no configuration, in order of preference."""


def discover(settings: Settings) -> Catalogue:
    """Look for every browser that is known or that the user defined. Reads the file system only.

    A user's browser with the name of a built-in one replaces it.
    """
    installed: list[InstalledBrowser] = []
    missing: list[MissingBrowser] = []
    for custom in settings.custom:
        found = _custom(custom, Path(settings.rootdir))
        if isinstance(found, InstalledBrowser):
            installed.append(found)
        else:
            missing.append(found)
    taken = {custom.name for custom in settings.custom}
    for browser in _BUILT_IN:
        if browser.name in taken:
            continue
        here = browser.find(browser)
        if here is not None:
            installed.append(here)
        else:
            missing.append(
                MissingBrowser(browser.name, browser.family, _reason(browser), remedy(browser.name))
            )
    return Catalogue(tuple(installed), tuple(missing))


def select(catalogue: Catalogue, wanted: Iterable[str]) -> tuple[InstalledBrowser, ...]:
    """The installed browsers that ``wanted`` (names or families; empty: any) allows, in the order wanted.

    Raises:
        NoBrowser: a word that no browser is called by, or none of the wanted ones is installed.
    """
    words = tuple(wanted)
    everyone: tuple[InstalledBrowser | MissingBrowser, ...] = (*catalogue.installed, *catalogue.missing)
    known = dict.fromkeys([*(b.name for b in everyone), *(b.family for b in everyone)])
    for word in words:
        if word not in known:
            raise NoBrowser(
                f"no browser is called {word!r}{did_you_mean(word, known)}",
                remedy=f"one of {', '.join(sorted(known))}",
            )
    chosen = dict.fromkeys(b.name for w in words for b in catalogue.installed if w in (b.name, b.family))
    if not words:
        chosen = dict.fromkeys(b.name for b in catalogue.installed)
    if chosen:
        by_name = {b.name: b for b in catalogue.installed}
        return tuple(by_name[name] for name in chosen)
    absent = [b for b in catalogue.missing if not words or b.name in words or b.family in words]
    raise NoBrowser(
        f"none of {', '.join(words)} is installed here" if words else "no browser is installed here",
        where="; ".join(f"{b.name}: {b.reason}" for b in absent),
        remedy="; or ".join(dict.fromkeys(b.remedy for b in absent)),
    )


def _reason(browser: _BuiltIn) -> str:
    if browser.name == "headless-shell":
        return "not in the cache yet" if pins.shell_supported() else pins.shell_unsupported()
    places = [p for p in browser.programs if sys.platform == "darwin" or not p.startswith("/Applications")]
    if browser.playwright in ENGINES.values():
        places.append("Playwright's downloads")
    return f"not installed: looked for {', '.join(places)}"


def remedy(name: str) -> str:
    """The exact command that installs the built-in browser ``name`` on this machine."""
    browser = next(b for b in _BUILT_IN if b.name == name)
    if name == "headless-shell":
        return (
            "browserpool install --browser headless-shell"
            if pins.shell_supported()
            else "use another browser"
        )
    if browser.apt and on_debian():
        return apt_command(browser.apt)
    return f"{sys.executable} -m playwright install {browser.playwright}"


def packages(name: str) -> tuple[str, ...]:
    """The Debian packages of the built-in browser ``name``; empty where Debian has none."""
    return next((b.apt for b in _BUILT_IN if b.name == name), ())


def apt_command(packages: Iterable[str]) -> str:
    """The line that installs Debian packages, for the user who reads it."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install -y {' '.join(packages)}"


@functools.cache
def on_debian() -> bool:
    """Whether apt has real packages of the browsers: Debian; Ubuntu's are stubs for snaps."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return "ID=debian" in lines and shutil.which("apt-get") is not None


# -- browsers that the user defined ---------------------------------------------------------------------


def _custom(custom: CustomBrowser, rootdir: Path) -> InstalledBrowser | MissingBrowser:
    where = f"[tool.browserpool.browsers.{custom.name}] in {rootdir / 'pyproject.toml'}"

    def missing(reason: str) -> MissingBrowser:
        return MissingBrowser(custom.name, custom.family, reason, f"correct {where}")

    engine = ENGINES[custom.family]
    if custom.endpoint and engine != "chromium":
        return missing(
            f"endpoint {custom.endpoint!r}: only Chromium has a DevTools endpoint, this is {custom.family}"
        )
    executable, channel = custom.executable, custom.channel
    if executable:
        path, reason = _executable(executable, rootdir)
        if reason:
            return missing(reason)
        executable = path
        if engine == "firefox" and channel is None:
            channel = STOCK_FIREFOX  # a Firefox that is not Playwright's own build speaks BiDi only
    elif channel and not custom.endpoint:
        built_in = next((b for b in _BUILT_IN if b.channel == channel), None)
        found = built_in.find(built_in) if built_in else None
        if built_in is not None and found is None:
            return missing(f"channel {channel!r}: {_reason(built_in)}")
        executable = found.executable if found else None
    return InstalledBrowser(
        name=custom.name,
        family=custom.family,
        engine=engine,
        executable=executable,
        channel=channel,
        endpoint=custom.endpoint,
        flags=custom.flags,
        prefs=custom.prefs,
        environment=custom.environment,
    )


def _executable(written: str, rootdir: Path) -> tuple[str, str]:
    """(path, "") of an executable file, else ("", why not). A bare word is looked for on PATH."""
    if "/" not in written and os.sep not in written:
        found = shutil.which(written)
        return (found, "") if found else ("", f"executable {written!r} is not on PATH")
    path = rootdir / Path(written).expanduser()
    if not path.exists():
        return "", f"executable {str(path)!r} does not exist"
    if not path.is_file():
        return "", f"executable {str(path)!r} is not a file"
    if not os.access(path, os.X_OK):
        return "", f"executable {str(path)!r} is not executable"
    return str(path), ""


# -- Playwright's own downloads, read from its files ----------------------------------------------------


def _downloaded(kind: str) -> bool:
    directory = _download_directory()
    return any((directory / f"{kind}-{r}" / "INSTALLATION_COMPLETE").is_file() for r in _revisions(kind))


def _download_directory() -> Path:
    override = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    if override and override != "0":
        return Path(override)
    if override == "0":  # Playwright's word for "inside the package"
        return _driver() / "package" / ".local-browsers"
    base = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path.home() / base / "ms-playwright"


@functools.cache
def _driver() -> Path:
    spec = importlib.util.find_spec("playwright")  # finds without importing
    return Path(spec.origin).parent / "driver" if spec and spec.origin else Path("/nonexistent")


@functools.cache
def _revisions(kind: str) -> tuple[str, ...]:
    """The builds of ``kind`` that the installed Playwright goes with."""
    try:
        content = json.loads((_driver() / "package" / "browsers.json").read_text(encoding="utf-8"))
        entry = next(b for b in content["browsers"] if b["name"] == kind)
    except (OSError, ValueError, KeyError, StopIteration):
        return ()
    return (entry["revision"], *entry.get("revisionOverrides", {}).values())


# -- versions -------------------------------------------------------------------------------------------


def version_of(browser: InstalledBrowser, *, timeout: float = VERSION_TIMEOUT) -> str:
    """What the browser says its version is, asked without starting it; runs ``EXE --version``.

    Raises:
        NoBrowser: it does not say one: not a browser, broken, or its endpoint does not answer.
    """
    if browser.endpoint:
        return _endpoint_version(browser, timeout)
    if browser.executable is None:
        return f"Playwright's build {', '.join(_revisions(browser.engine)[:1]) or 'unknown'}"
    environment = {"LANGUAGE": "C", "LC_ALL": "C", **browser.environment}
    try:
        result = process.run([browser.executable, "--version"], timeout=timeout, environment=environment)
    except (BrowserPoolError, OSError) as error:
        raise _no_version(browser, str(error)) from error
    found = re.search(r"\d+(?:\.\d+)+\w*", result.output)
    if result.status != 0 or found is None:
        raise _no_version(browser, result.last_words)
    return found[0]


def _endpoint_version(browser: InstalledBrowser, timeout: float) -> str:
    address = re.sub(r"^ws", "http", browser.endpoint or "").split("/devtools/")[0].rstrip("/")
    try:
        with urllib.request.urlopen(f"{address}/json/version", timeout=timeout) as answer:
            return str(json.load(answer)["Browser"]).rpartition("/")[2]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_version(browser, f"{type(error).__name__}: {error}") from error


def _no_version(browser: InstalledBrowser, said: str) -> NoBrowser:
    return NoBrowser(
        f"{browser.name} does not say its version: {said}",
        where=browser.executable or browser.endpoint,
        remedy="start it by hand to see what is wrong with it; is it a browser?",
    )
