"""The catalogue, against directories that hold or lack programs, and the browsers of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from artefact_support import LocalServer, cache, server

from pytest_browserpool.artefacts import pins
from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers import catalogue
from pytest_browserpool.browsers.catalogue import InstalledBrowser, discover, select, version_of
from pytest_browserpool.config import CustomBrowser, Settings
from pytest_browserpool.errors import NoBrowser

__all__ = ["cache", "server"]


def program(path: Path, says: str = "Something 1.2.3", *, mode: int = 0o755) -> Path:
    """A program that answers --version, as far as the catalogue can tell a browser."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(mode)
    return path


@pytest.fixture
def bare(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any browser; programs put into the directory returned are on its PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
    return directory


def settings(tmp_path: Path, *custom: CustomBrowser) -> Settings:
    return Settings(rootdir=str(tmp_path), db=str(tmp_path / "db"), custom=custom)


def test_a_bare_machine_misses_all_of_them_each_with_a_reason_and_a_command(
    bare: Path, tmp_path: Path
) -> None:
    found = discover(settings(tmp_path))
    assert found.installed == ()
    assert [b.name for b in found.missing] == list(catalogue.NAMES)
    for browser in found.missing:
        assert browser.reason
        assert browser.remedy
    reasons = {b.name: b.reason for b in found.missing}
    assert "microsoft-edge" in reasons["edge"]
    assert "firefox-esr" in reasons["firefox"]
    with pytest.raises(NoBrowser) as caught:
        select(found, ())
    assert "no browser is installed here" in str(caught.value)
    assert "browserpool install --browser headless-shell" in str(caught.value)


@pytest.mark.parametrize(
    ("executable", "name", "family", "engine", "channel"),
    [
        ("chromium", "chromium", "chrome", "chromium", None),
        ("google-chrome", "chrome", "chrome", "chromium", "chrome"),
        ("microsoft-edge-stable", "edge", "edge", "chromium", "msedge"),
        ("firefox", "firefox", "firefox", "firefox", "moz-firefox"),
        ("firefox-esr", "firefox", "firefox", "firefox", "moz-firefox"),
    ],
)
def test_a_program_on_the_path_is_found_under_its_name_and_family(
    bare: Path, tmp_path: Path, executable: str, name: str, family: str, engine: str, channel: str | None
) -> None:
    path = program(bare / executable)
    (found,) = discover(settings(tmp_path)).installed
    assert found == InstalledBrowser(name, family, engine, str(path), channel)


def test_chromium_is_never_called_edge_or_chrome(bare: Path, tmp_path: Path) -> None:
    program(bare / "chromium")
    found = discover(settings(tmp_path))
    assert {b.name for b in found.missing} >= {"edge", "chrome"}
    with pytest.raises(NoBrowser) as caught:
        select(found, ["edge"])
    assert "playwright install msedge" in str(caught.value)


def test_a_file_without_the_executable_bit_is_no_browser(bare: Path, tmp_path: Path) -> None:
    program(bare / "chromium", mode=0o644)
    assert discover(settings(tmp_path)).installed == ()


def test_playwright_s_own_downloads_are_found_when_complete(bare: Path, tmp_path: Path) -> None:
    driver = Path(
        subprocess.check_output(
            [sys.executable, "-c", "import playwright; print(playwright.__file__)"], text=True
        ).strip()
    )
    builds = json.loads((driver.parent / "driver" / "package" / "browsers.json").read_text())["browsers"]
    revision = next(b["revision"] for b in builds if b["name"] == "webkit")
    directory = tmp_path / "playwright" / f"webkit-{revision}"
    directory.mkdir(parents=True)
    assert discover(settings(tmp_path)).installed == ()
    (directory / "INSTALLATION_COMPLETE").touch()
    (found,) = discover(settings(tmp_path)).installed
    assert found == InstalledBrowser("webkit", "webkit", "webkit")


def test_the_headless_shell_comes_from_the_cache(bare: Path, tmp_path: Path, cache: Cache) -> None:
    if not pins.shell_supported():
        pytest.skip(pins.shell_unsupported())
    directory = pins.directory_of(pins.SHELL, cache)
    program(directory / pins.SHELL_EXECUTABLE)
    assert discover(settings(tmp_path)).installed == ()  # not by us: nothing says that it is whole
    size = (directory / pins.SHELL_EXECUTABLE).stat().st_size
    cache.write_json("meta", directory.name, {"files": {pins.SHELL_EXECUTABLE: [size, ""]}})
    (found,) = discover(settings(tmp_path)).installed
    assert (found.name, found.family, found.engine) == ("headless-shell", "chrome", "chromium")


def test_discovering_starts_nothing_and_imports_nothing_heavy(bare: Path, tmp_path: Path) -> None:
    sign = tmp_path / "was-started"
    (bare / "chromium").write_text(f"#!/bin/sh\ntouch {sign}\n")
    (bare / "chromium").chmod(0o755)
    script = (
        "import sys\n"
        "from pytest_browserpool.browsers.catalogue import discover\n"
        "from pytest_browserpool.config import Settings\n"
        "assert [b.name for b in discover(Settings(rootdir='/', db='/db')).installed] == ['chromium']\n"
        "print(sorted({m.split('.')[0] for m in sys.modules}))\n"
    )
    modules = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"playwright", "numpy", "onnx", "aiohttp", "duckdb", "scipy", "rich"} & set(
        eval(modules.stdout)
    )
    assert not sign.exists()


# -- the user's own ---


def test_a_custom_browser_goes_first_and_replaces_a_built_in_one(bare: Path, tmp_path: Path) -> None:
    program(bare / "chromium")
    mine = program(tmp_path / "builds" / "chrome")
    custom = CustomBrowser(
        name="nightly",
        family="chrome",
        executable="builds/chrome",
        flags=("--x",),
        prefs={"a": 1},
        environment={"B": "2"},
    )
    replaced = CustomBrowser(name="chromium", family="chrome", executable=str(mine))
    found = discover(settings(tmp_path, custom, replaced))
    assert found.installed[0] == InstalledBrowser(
        "nightly", "chrome", "chromium", str(mine), None, None, ("--x",), {"a": 1}, {"B": "2"}
    )
    assert [(b.name, b.executable) for b in found.installed] == [
        ("nightly", str(mine)),
        ("chromium", str(mine)),
    ]


def test_a_custom_firefox_is_a_stock_one_unless_told_otherwise(bare: Path, tmp_path: Path) -> None:
    mine = str(program(tmp_path / "ff"))
    stock = CustomBrowser(name="a", family="firefox", executable=mine)
    told = CustomBrowser(name="b", family="firefox", executable=mine, channel="firefox-nightly")
    assert [b.channel for b in discover(settings(tmp_path, stock, told)).installed] == [
        "moz-firefox",
        "firefox-nightly",
    ]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("/nowhere/chrome", "does not exist"),
        ("no-such-program", "not on PATH"),
        (".", "is not on PATH"),
        ("./", "is not a file"),
        ("./text", "is not executable"),
    ],
)
def test_an_executable_that_is_none_is_missing_with_its_place(
    bare: Path, tmp_path: Path, written: str, reason: str
) -> None:
    (tmp_path / "text").write_text("hello")
    found = discover(settings(tmp_path, CustomBrowser(name="mine", family="chrome", executable=written)))
    missing = found.missing[0]
    assert reason in missing.reason
    assert "[tool.browserpool.browsers.mine]" in missing.remedy
    with pytest.raises(NoBrowser, match=reason):
        select(found, ["mine"])


def test_a_channel_that_is_not_installed_is_missing(bare: Path, tmp_path: Path) -> None:
    custom = CustomBrowser(name="work", family="edge", channel="msedge")
    assert "microsoft-edge" in discover(settings(tmp_path, custom)).missing[0].reason
    edge = program(bare / "microsoft-edge")
    assert discover(settings(tmp_path, custom)).installed[0].executable == str(edge)


def test_an_endpoint_is_chromium_s_only(bare: Path, tmp_path: Path) -> None:
    remote = CustomBrowser(name="r", family="chrome", endpoint="http://127.0.0.1:9222")
    wrong = CustomBrowser(name="w", family="firefox", endpoint="http://127.0.0.1:9222")
    found = discover(settings(tmp_path, remote, wrong))
    assert [(b.name, b.endpoint) for b in found.installed] == [("r", "http://127.0.0.1:9222")]
    assert "only Chromium" in found.missing[0].reason


# -- selecting ---


def test_names_and_families_select_in_the_order_wanted(bare: Path, tmp_path: Path) -> None:
    for name in ("chromium", "google-chrome", "firefox"):
        program(bare / name)
    found = discover(settings(tmp_path))
    assert [b.name for b in select(found, ())] == ["chromium", "chrome", "firefox"]
    assert [b.name for b in select(found, ["firefox", "chrome"])] == ["firefox", "chromium", "chrome"]
    assert [b.name for b in select(found, ["chromium", "chrome"])] == ["chromium", "chrome"]
    assert [b.name for b in select(found, ["edge", "firefox"])] == ["firefox"]
    with pytest.raises(NoBrowser, match="'chromum' \\(did you mean 'chromium'\\?\\)"):
        select(found, ["chromum", "firefox"])


# -- versions ---


def test_the_version_is_what_the_program_says(tmp_path: Path) -> None:
    path = program(tmp_path / "b", "Chromium 156.0.8078.79 built on Debian GNU/Linux 12 (bookworm)")
    assert version_of(InstalledBrowser("b", "chrome", "chromium", str(path))) == "156.0.8078.79"


@pytest.mark.parametrize("script", ["echo hello", "exit 3", "sleep 30", "exec nothing-like-this"])
def test_a_program_that_is_no_browser_says_no_version_in_time(tmp_path: Path, script: str) -> None:
    path = tmp_path / "b"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    with pytest.raises(NoBrowser) as caught:
        version_of(InstalledBrowser("b", "chrome", "chromium", str(path)), timeout=1)
    assert str(path) in str(caught.value)


def test_a_text_file_cannot_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"\x7fELF nonsense")
    path.chmod(0o755)
    with pytest.raises(NoBrowser):
        version_of(InstalledBrowser("b", "chrome", "chromium", str(path)))


def test_an_endpoint_is_asked_over_http(server: LocalServer) -> None:
    server.answers["/json/version"] = json.dumps({"Browser": "HeadlessChrome/147.0.1.2"}).encode()
    browser = InstalledBrowser("r", "chrome", "chromium", endpoint=f"{server.url}/")
    assert version_of(browser) == "147.0.1.2"
    socket = server.url.replace("http", "ws") + "/devtools/browser/abc"
    assert version_of(InstalledBrowser("r", "chrome", "chromium", endpoint=socket)) == "147.0.1.2"
    server.answers.clear()
    with pytest.raises(NoBrowser):
        version_of(browser)


def test_the_browsers_of_this_machine_say_their_versions() -> None:
    found = discover(Settings(rootdir=os.getcwd(), db="/db")).installed
    if not found:
        pytest.skip("no browser is installed here")
    for browser in found:
        if browser.executable:
            assert version_of(browser)[0].isdigit()
