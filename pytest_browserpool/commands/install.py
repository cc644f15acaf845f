"""``browserpool install``: onnxruntime-web, the headless shell and, where we may, Debian's browsers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click

from pytest_browserpool.artefacts import charts, pins, process
from pytest_browserpool.browsers import catalogue
from pytest_browserpool.commands import find_rootdir, settings_of
from pytest_browserpool.config import Settings, did_you_mean
from pytest_browserpool.errors import NoBrowser

BY_DEFAULT = ("chromium", "firefox", "headless-shell")
"""The browsers that can be had without asking anybody: two from Debian, one from npm."""
APT_TIMEOUT = 1800.0
"""Seconds for apt: 300 MB over a slow mirror and their unpacking."""
VULKAN_DRIVERS = (Path("/usr/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"))
"""Where Vulkan drivers register; Firefox has no WebGPU without one."""


@click.command
@click.option(
    "--browser",
    "browsers",
    multiple=True,
    help=f"Only this one; repeatable. Default: {', '.join(BY_DEFAULT)}.",
)
@click.option("--no-apt", is_flag=True, help="Never run apt-get; print what to run instead.")
@click.option("--verify", is_flag=True, help="Hash what is unpacked again; fetch anew what is damaged.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing; exit status 0.")
def install(browsers: tuple[str, ...], no_apt: bool, verify: bool, dry_run: bool) -> None:
    """Install onnxruntime-web and browsers; quick and without network where all is there.

    apt-get is run as root on Debian only; elsewhere the exact commands are printed.

    Exit status: 0 the runtime and the named browsers (without --browser: at least one) are there,
    1 they are not, 2 an unknown browser.

    \b
    Examples:
      browserpool install
      browserpool install --browser headless-shell
    """
    wanted = _known(browsers) or BY_DEFAULT
    settings = settings_of(find_rootdir())
    if verify and not dry_run:
        for pin in (pins.RUNTIME, pins.SHELL, *charts.SCRIPTS):
            for name in pins.drop_damaged(pin):
                _say("damaged", f"{pin.name}: {name}")
    _runtime(dry_run)
    _charts(dry_run)
    if "headless-shell" in wanted:
        _shell(dry_run)
    by_hand = _packages(
        [b for b in wanted if b != "headless-shell"], settings, may_run=not no_apt, dry_run=dry_run
    )
    for line in by_hand:
        click.echo(line)
    if dry_run:
        return
    installed = catalogue.discover(settings).installed
    here = {b.name for b in installed if b.name != "headless-shell" or _shell_starts(b)}
    if not (set(browsers) <= here if browsers else here):
        raise click.exceptions.Exit(1)


def _known(browsers: Iterable[str]) -> tuple[str, ...]:
    for name in browsers:
        if name not in catalogue.NAMES:
            near = did_you_mean(name, catalogue.NAMES)
            raise click.UsageError(f"unknown browser {name!r}{near}; known: {', '.join(catalogue.NAMES)}")
    return tuple(dict.fromkeys(browsers))


def _runtime(dry_run: bool) -> None:
    label = f"{pins.RUNTIME.name} {pins.RUNTIME.version}"
    if pins.held(pins.RUNTIME):
        _say("here", label)
    elif dry_run:
        _say("missing", label, "would be fetched with npm")
    else:
        _say("installed", label, str(pins.runtime_dir()))


def _charts(dry_run: bool) -> None:
    label = ", ".join(f"{pin.name} {pin.version}" for pin in charts.SCRIPTS)
    if charts.held():
        _say("here", label)
    elif dry_run:
        _say("missing", label, "would be fetched with npm")
    else:
        charts.fetch()
        _say("installed", label)


def _shell(dry_run: bool) -> None:
    label = f"headless-shell {pins.SHELL.version}"
    if not pins.shell_supported():
        _say("missing", label, pins.shell_unsupported())
    elif pins.held(pins.SHELL):
        _say("here", label)
    elif dry_run:
        _say("missing", label, "would be fetched with npm")
    else:
        _say("installed", label, str(pins.headless_shell()))


def _shell_starts(shell: catalogue.InstalledBrowser) -> bool:
    """Whether the system libraries are there that npm cannot bring; Debian's chromium brings them."""
    try:
        catalogue.version_of(shell)
    except NoBrowser as error:
        helped = (
            f"run  {catalogue.apt_command(['chromium'])}" if catalogue.on_debian() else "install that library"
        )
        click.echo(f"{'broken':10} {error.what}; where a library is missing, {helped}")
        return False
    return True


def _packages(wanted: Iterable[str], settings: Settings, *, may_run: bool, dry_run: bool) -> list[str]:
    """Install what Debian has of the wanted browsers; returns a line for each to be installed by hand."""
    here = {b.name for b in catalogue.discover(settings).installed}
    needed: list[str] = []
    by_hand: list[str] = []
    may_run = may_run and catalogue.on_debian() and os.geteuid() == 0
    for name in wanted:
        lacking = _lacking(name, name in here)
        if name in here and not lacking:
            _say("here", name)
        elif lacking and may_run:
            needed += lacking
        else:
            command = (
                catalogue.apt_command(lacking)
                if lacking and catalogue.on_debian()
                else catalogue.remedy(name)
            )
            by_hand.append(f"{'missing':10} {name}: run  {command}")
    if needed and dry_run:
        _say("missing", " ".join(needed), f"would run  {catalogue.apt_command(needed)}")
    elif needed:
        _apt(needed)
        _say("installed", " ".join(needed))
    return by_hand


def _lacking(name: str, here: bool) -> list[str]:
    """Debian packages that ``name`` still needs; a Firefox without any Vulkan driver has no WebGPU."""
    driver = any(d.is_dir() and any(d.glob("*.json")) for d in VULKAN_DRIVERS)
    return [p for p in catalogue.packages(name) if not (driver if p == "mesa-vulkan-drivers" else here)]


def _apt(packages: list[str]) -> None:
    lock = ("-o", "DPkg::Lock::Timeout=120")  # another apt may be at work on a fresh machine
    for command in (["apt-get", "-q", "update"], ["apt-get", "-q", *lock, "install", "-y", *packages]):
        _say("running", " ".join(command))
        result = process.run(command, timeout=APT_TIMEOUT, environment={"DEBIAN_FRONTEND": "noninteractive"})
        if result.status != 0:
            raise NoBrowser(
                f"{' '.join(command)} failed: {result.last_words}",
                remedy=f"run it by hand: {catalogue.apt_command(packages)}",
            )


def _say(state: str, what: str, detail: str = "") -> None:
    click.echo(f"{state:10} {what}{': ' + detail if detail else ''}")
