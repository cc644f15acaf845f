"""``browserpool doctor``: what this machine really has, measured, and the command for what it lacks."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_browserpool.artefacts import charts, fetch, pins, runtime
from pytest_browserpool.browsers import catalogue, code_cache
from pytest_browserpool.browsers.identity import fingerprint
from pytest_browserpool.browsers.kinds import BUNDLES
from pytest_browserpool.commands import find_rootdir, readable_size, settings_of
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import BrowserPoolError

if TYPE_CHECKING:
    from rich.console import Console

    from pytest_browserpool.values import BackendSupport

PACKAGES = ("pytest-browserpool", "pytest", "pytest-xdist", "playwright", "duckdb", "onnx", "numpy")
"""Those whose versions a bug report needs."""


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@click.option(
    "--verify",
    is_flag=True,
    help="Hash every file of the cache again (reads all of it): exit status 1 where one is damaged.",
)
@click.option(
    "--runtime",
    "build",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Ask with this build of onnxruntime-web, as --browserpool-runtime=DIR would use it.",
)
def doctor(as_json: bool, verify: bool, build: Path | None) -> None:
    """Say which browsers and backends this machine really has: each browser is started and asked,
    and its answer kept until its version, its switches or the machine's drivers change.

    Exit status: 0 at least one browser gives at least one backend, 1 none does or --verify found damage, 2 --runtime is
    no build.

    \b
    Examples:
      browserpool doctor
      browserpool doctor --json | python -m json.tool
      browserpool doctor --verify
      browserpool doctor --runtime onnxruntime-web-1.29.0/dist
    """
    settings = settings_of(find_rootdir())
    if build is not None:
        settings = dataclasses.replace(settings, own_runtime=runtime.examine(build.absolute(), "--runtime"))
    findings = examine(settings, verify=verify)
    if as_json:
        click.echo(json.dumps(findings, indent=2))
    else:
        from rich.console import Console

        # a terminal tells its width; a pipe or a CI log gets one that keeps commands on one line
        console = Console(width=None if sys.stdout.isatty() else 160, emoji=False)
        show(findings, console)
    if not findings["usable"] or findings["cache"].get("damaged"):
        raise click.exceptions.Exit(1)


# -- looking ------------------------------------------------------------------------------------------------


def examine(settings: Settings, *, verify: bool = False) -> dict[str, Any]:
    """Everything that ``--json`` prints, as builtins."""
    found = catalogue.discover(settings)
    browsers = [_browser(b, settings) for b in found.installed]
    return {
        "usable": any(backend["available"] for b in browsers for backend in b["backends"]),
        "browsers": browsers,
        "missing": [
            {"name": b.name, "family": b.family, "reason": b.reason, "remedy": b.remedy}
            for b in found.missing
        ],
        "runtime": _runtime(settings),
        "charts": {
            "names": [f"{pin.name} {pin.version}" for pin in charts.SCRIPTS],
            "remedy": None if charts.held() else "browserpool install",
        },
        "programs": {"npm": shutil.which("npm"), "pip": fetch.has_pip()},
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "platform": platform.platform(),
        "cache": _cache(verify),
    }


def _browser(browser: catalogue.InstalledBrowser, settings: Settings) -> dict[str, Any]:
    from pytest_browserpool.browsers.probe import probe_installed

    place = browser.executable or browser.endpoint or f"Playwright's {browser.channel or browser.engine}"
    kept, name = code_cache.CodeCache(pins.default_cache()), fingerprint(browser, settings)
    code = sum(kept.size(code_cache.name_of(name, bundle)) for bundle in BUNDLES)
    entry: dict[str, Any] = {
        "name": browser.name,
        "family": browser.family,
        "where": place,
        "kept_code_bytes": code,
    }
    try:
        capabilities = probe_installed(browser, settings)
    except BrowserPoolError as error:
        return {**entry, "version": None, "error": str(error), "isolated": False, "backends": []}
    backends = [_backend(b) for b in capabilities.backends]
    seen = {"version": capabilities.version, "isolated": capabilities.isolated, "backends": backends}
    return {**entry, **seen, "error": None}


def _backend(support: BackendSupport) -> dict[str, Any]:
    adapter = support.adapter
    return {
        "name": support.name,
        "available": support.available,
        "detail": support.detail,
        "adapter": None if adapter is None else {**adapter.to_plain(), "software": adapter.software},
        "runs_on": "" if adapter is None else str(adapter),
    }


def _runtime(settings: Settings) -> dict[str, Any]:
    own = settings.own_runtime
    directory = own.directory if own is not None else pins.held(pins.RUNTIME)
    return {
        "name": pins.RUNTIME.name,
        "version": runtime.label_of(settings),
        "path": str(directory) if directory else None,
        "remedy": None if directory else "browserpool install",
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cache(verify: bool) -> dict[str, Any]:
    cache = pins.default_cache()
    entry: dict[str, Any] = {
        "path": str(cache.root),
        "bytes": cache.size(),
        "models": len(cache.models()),
        "writable": cache.writable(),
    }
    if verify:
        unpacked = [
            f"{pin.name}: {name}"
            for pin in (pins.RUNTIME, pins.SHELL, *charts.SCRIPTS)
            for name in pins.damaged(pin, cache)
        ]
        entry["damaged"] = [*cache.verify(), *unpacked]
    return entry


# -- showing ------------------------------------------------------------------------------------------------


def show(findings: dict[str, Any], console: Console) -> None:
    """Print the findings for people."""
    if findings["browsers"]:
        console.print(_table_of_browsers(findings["browsers"]))
    for browser in findings["browsers"]:
        if browser["error"]:
            console.print(f"[red]{browser['name']}[/] cannot be used: {_plain(browser['error'])}")
    if findings["missing"]:
        console.print(_table_of_missing(findings["missing"]))
    console.print(_table_of_facts(findings))
    if not findings["usable"]:
        console.print("[red bold]no usable browser[/]: run  browserpool install")


def _table_of_browsers(browsers: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="Browsers here, as measured", title_justify="left", show_lines=True)
    for heading in ("browser", "version", "backends", "details"):
        table.add_column(heading, overflow="fold")
    for browser in browsers:
        usable = [b["name"] for b in browser["backends"] if b["available"]]
        details = "\n".join([*_details(browser["backends"]), *_kept_code(browser["kept_code_bytes"])])
        named = f"[bold]{_plain(browser['name'])}[/]\nfamily {browser['family']}\n{_plain(browser['where'])}"
        works = "[green]" + ", ".join(usable) + "[/]" if usable else "[red]none[/]"
        table.add_row(named, browser["version"] or "?", works, details)
    return table


def _details(backends: list[dict[str, Any]]) -> list[str]:
    """A line for each thing that was said, with all the backends of which it was said."""
    names: dict[str, list[str]] = {}
    for backend in backends:
        # the three WebNN devices fail with the same words but for the device's name
        said = re.sub(r"^createContext\(\w+\): ", "", backend["detail"])
        text = "; ".join(x for x in (backend["runs_on"], said) if x) or "works"
        colour = "green" if backend["available"] else "yellow"
        names.setdefault(text, []).append(f"[{colour}]{backend['name']}[/]")
    return [f"{', '.join(called)}: {_plain(text)}" for text, called in names.items()]


def _kept_code(size: int) -> list[str]:
    return [f"compiled code of an earlier run: {readable_size(size)}"] if size else []


def _table_of_missing(missing: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="Not here", title_justify="left")
    for heading in ("browser", "why", "what would bring it"):
        table.add_column(heading, overflow="fold")
    for browser in missing:
        table.add_row(browser["name"], _plain(browser["reason"]), _plain(browser["remedy"]))
    return table


def _table_of_facts(findings: dict[str, Any]) -> Any:
    from rich.table import Table

    ort, programs, cache = findings["runtime"], findings["programs"], findings["cache"]
    table = Table(show_header=False, box=None)
    place = _plain(ort["path"]) if ort["path"] else f"[yellow]not fetched yet[/]: run  {ort['remedy']}"
    table.add_row(f"{ort['name']} {ort['version']}", place)
    drawn = findings["charts"]
    missing = f"[yellow]reports have no charts[/]: run  {drawn['remedy']}"
    table.add_row("charts", missing if drawn["remedy"] else ", ".join(drawn["names"]))
    table.add_row(
        "npm", programs["npm"] or "[yellow]not on PATH[/]: sources npm:… and browserpool install need it"
    )
    table.add_row("pip", "works" if programs["pip"] else f"[yellow]missing[/]: {sys.executable} -m ensurepip")
    known = [f"{name} {version}" for name, version in findings["versions"].items() if version]
    table.add_row("versions", ", ".join(known))
    table.add_row(
        "cache", f"{_plain(cache['path'])}: {readable_size(cache['bytes'])}, {cache['models']} models"
    )
    if not cache["writable"]:
        remedy = "BROWSERPOOL_CACHE=DIR names another"
        table.add_row(
            "", f"[yellow]cannot be written[/]: what is not in it is neither fetched nor kept; {remedy}"
        )
    if "damaged" in cache:
        damage = _plain(", ".join(cache["damaged"]))
        mend = "browserpool fetch --verify, browserpool install --verify"
        table.add_row(
            "checked", f"[red]damaged[/]: {damage}; run  {mend}" if damage else "every hash is right"
        )
    return table


def _plain(text: str) -> str:
    """Text that is not ours, so that brackets in it are no markup."""
    from rich.markup import escape

    return escape(str(text).replace(str(Path.home()), "~"))
