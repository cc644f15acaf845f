"""doctor, install and fetch, run as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from artefact_support import LocalServer, server
from click.testing import CliRunner, Result
from model_support import scaling

from pytest_browserpool.artefacts import charts, pins
from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers import catalogue
from pytest_browserpool.cli import COMMANDS, cli
from pytest_browserpool.commands import find_rootdir, readable_size
from pytest_browserpool.models.lock import Locked, LockFile

__all__ = ["server"]

REAL_CACHE = pins.default_cache()
"""The machine's own, before any test points elsewhere."""

debian_root = pytest.mark.skipif(
    not catalogue.on_debian() or os.geteuid() != 0, reason="apt-get is run as root on Debian only"
)


def browserpool(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as the working directory."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("BROWSERPOOL_CACHE", str(tmp_path / "cache"))
    return Cache(tmp_path / "cache")


@pytest.fixture
def bare(empty_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with neither browsers nor npm."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
    catalogue.on_debian.cache_clear()
    yield tmp_path / "bin"
    catalogue.on_debian.cache_clear()


@pytest.fixture
def runtime_only(bare: Path, empty_cache: Cache) -> Path:
    """A bare machine whose cache has the real onnxruntime-web and chart library, lent from this machine's."""
    lend(empty_cache)
    return bare


def lend(cache: Cache) -> None:
    """Puts the real onnxruntime-web and chart library into ``cache``."""
    for pin in (pins.RUNTIME, *charts.SCRIPTS):
        real = pins.held(pin, REAL_CACHE)
        assert real is not None, f"{pin.name} is not here: run `browserpool install`"
        lent = pins.directory_of(pin, cache)
        lent.parent.mkdir(parents=True, exist_ok=True)
        lent.symlink_to(real)
        cache.write_json("meta", lent.name, REAL_CACHE.read_json("meta", real.name))


# -- the group ---


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_help_with_an_example(name: str) -> None:
    result = browserpool(name, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"browserpool {name}" in result.output


def test_the_program_lists_its_commands_and_knows_its_version() -> None:
    result = browserpool("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in COMMANDS)
    assert browserpool("--version").output.startswith("browserpool, version ")
    assert browserpool("instal").exit_code == 2


def test_the_program_starts_without_heavy_imports() -> None:
    script = "import sys, pytest_browserpool.cli; print(*{m.split('.')[0] for m in sys.modules})"
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert not {"playwright", "numpy", "onnx", "aiohttp", "duckdb", "scipy", "rich", "jinja2"} & set(
        out.split()
    )


def test_our_errors_are_lines_and_not_tracebacks(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.browserpool.browsers.x]\nfamily = 'opera'\n")
    result = browserpool("doctor")
    assert result.exit_code == 2
    assert "family is 'opera'" in result.output
    assert "Traceback" not in result.output


def test_the_project_is_found_from_below(project: Path) -> None:
    (project / "a" / "b").mkdir(parents=True)
    assert find_rootdir(project / "a" / "b") == project


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (230_444, "230.4 kB"), (21e6, "21.0 MB")]
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable_size(size) == text


# -- install ---


def test_install_on_a_bare_machine_names_npm(bare: Path, project: Path) -> None:
    result = browserpool("install")
    assert result.exit_code == 1
    assert "no npm on PATH" in result.output


def test_a_dry_run_says_all_and_does_nothing(bare: Path, project: Path, empty_cache: Cache) -> None:
    result = browserpool("install", "--dry-run", "--browser", "chromium", "--browser", "headless-shell")
    assert result.exit_code == 0
    assert "onnxruntime-web 1.30.0: would be fetched" in result.output
    assert "headless-shell" in result.output
    assert "chromium" in result.output
    assert not empty_cache.root.exists()


def test_what_cannot_be_installed_is_printed_as_a_command_and_fails(project: Path) -> None:
    if shutil.which("microsoft-edge"):
        pytest.skip("Edge is installed here")
    result = browserpool("install", "--browser", "edge")
    assert result.exit_code == 1
    assert f"missing    edge: run  {sys.executable} -m playwright install msedge" in result.output


def test_apt_is_left_alone_when_told_so(runtime_only: Path, project: Path) -> None:
    bare = runtime_only
    sign = bare / "apt-was-run"
    (bare / "apt-get").write_text(f"#!/bin/sh\n: > {sign}\n")
    (bare / "apt-get").chmod(0o755)
    result = browserpool("install", "--no-apt", "--browser", "chromium")
    assert result.exit_code == 1
    assert "chromium: run  " in result.output
    assert not sign.exists()


@debian_root
def test_apt_is_run_for_what_is_lacking(runtime_only: Path, project: Path) -> None:
    bare = runtime_only
    calls = bare / "calls"
    (bare / "apt-get").write_text(
        f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" >> {calls}\n'
        'case "$*" in *install*)\n'
        f'printf "#!/bin/sh\\n" > {bare}/chromium; /bin/chmod 755 {bare}/chromium;; esac\n'
    )
    (bare / "apt-get").chmod(0o755)
    result = browserpool("install", "--browser", "chromium")
    assert result.exit_code == 0, result.output
    update, install = calls.read_text().splitlines()
    assert update == "noninteractive -q update"
    assert install.endswith("install -y chromium")
    calls.unlink()
    assert "here       chromium" in browserpool("install", "--browser", "chromium").output
    assert not calls.exists()


@debian_root
def test_an_apt_that_fails_says_the_command(runtime_only: Path, project: Path) -> None:
    bare = runtime_only
    (bare / "apt-get").write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
    (bare / "apt-get").chmod(0o755)
    result = browserpool("install", "--browser", "chromium")
    assert result.exit_code == 1
    assert "E: no network" in result.output
    assert "apt-get install -y chromium" in result.output


def test_an_unknown_browser_is_wrong_usage(project: Path) -> None:
    result = browserpool("install", "--browser", "chromum")
    assert result.exit_code == 2
    assert "did you mean 'chromium'" in result.output


def test_install_is_quick_and_offline_when_all_is_there(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pins.held(pins.RUNTIME) is None or pins.held(pins.SHELL) is None or not charts.held():
        pytest.skip("browserpool install has not been run here")
    monkeypatch.setenv("PATH", "/nonexistent")  # neither npm nor apt could be started
    result = browserpool("install", "--browser", "headless-shell")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "here       onnxruntime-web 1.30.0",
        "here       d3 7.9.0, @observablehq/plot 0.6.17",
        "here       headless-shell 147.0.0",
    ]


# -- fetch ---


def test_fetch_brings_a_lock_file_s_models_and_tells_what_was_here(
    server: LocalServer, project: Path, empty_cache: Cache
) -> None:
    model = scaling().SerializeToString()
    server.answers["/m.onnx"] = model
    source = f"{server.url}/m.onnx"
    stored = Cache(project / "elsewhere").add([model])
    LockFile(project / "browserpool.lock").record(source, Locked(stored.sha256, len(model)))
    assert browserpool("fetch").output == f"fetched   {source} ({len(model)} B)\n"
    server.answers.clear()
    assert (
        browserpool("fetch", "--lock", "browserpool.lock").output == f"here      {source} ({len(model)} B)\n"
    )


def test_fetch_reports_each_failure_and_goes_on(
    server: LocalServer, project: Path, empty_cache: Cache
) -> None:
    model = scaling().SerializeToString()
    server.answers["/changed"], server.answers["/good"] = b"other bytes", model
    good = Cache(project / "elsewhere").add([model])
    lock = LockFile(project / "browserpool.lock")
    for path in ("changed", "gone", "good"):
        lock.record(f"{server.url}/{path}", Locked(good.sha256, len(model)))
    result = browserpool("fetch")
    assert result.exit_code == 1
    assert f"failed    {server.url}/changed" in result.output
    assert "404" in result.output
    assert f"{server.url}/good" in result.stdout


def test_damage_is_found_and_mended_on_request(
    server: LocalServer, project: Path, empty_cache: Cache
) -> None:
    model = scaling().SerializeToString()
    server.answers["/m"] = model
    source = f"{server.url}/m"
    stored = Cache(project / "elsewhere").add([model])
    LockFile(project / "browserpool.lock").record(source, Locked(stored.sha256, len(model)))
    browserpool("fetch")
    (empty_cache.root / "models" / stored.sha256).write_bytes(model[:-1] + b"?")
    assert "here" in browserpool("fetch").output
    assert browserpool("fetch", "--verify").output.splitlines()[0] == f"damaged   {stored.sha256}"
    assert (empty_cache.root / "models" / stored.sha256).read_bytes() == model


def test_without_a_lock_file_fetch_is_wrong_usage(project: Path) -> None:
    result = browserpool("fetch")
    assert result.exit_code == 2
    assert "there is no lock file" in result.output


# -- doctor ---


def test_doctor_on_a_bare_machine_fails_with_all_the_remedies(bare: Path, project: Path) -> None:
    result = browserpool("doctor", "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["usable"] is False
    assert found["browsers"] == []
    assert [b["name"] for b in found["missing"]] == list(catalogue.NAMES)
    assert all(b["reason"] and b["remedy"] for b in found["missing"])
    assert found["programs"]["npm"] is None
    assert found["runtime"]["remedy"] == "browserpool install"
    assert found["charts"]["remedy"] == "browserpool install"
    assert found["cache"]["writable"] is True
    shown = browserpool("doctor")
    assert shown.exit_code == 1
    assert "no usable browser" in shown.output
    assert "not on PATH" in shown.output
    assert "cannot be written" not in shown.output


def test_doctor_tells_a_cache_that_takes_nothing(
    bare: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "a-file").write_text("no directory")
    monkeypatch.setenv("BROWSERPOOL_CACHE", str(project / "a-file"))
    assert json.loads(browserpool("doctor", "--json").output)["cache"]["writable"] is False
    assert "cannot be written" in browserpool("doctor").output


@pytest.mark.browser
def test_doctor_tells_a_browser_that_is_none(runtime_only: Path, project: Path) -> None:
    (project / "fake").write_text("#!/bin/sh\nexit 1\n")
    (project / "fake").chmod(0o755)
    (project / "pyproject.toml").write_text(
        "[tool.browserpool.browsers.fake]\nfamily = 'chrome'\nexecutable = './fake'\n"
    )
    result = browserpool("doctor", "--json")
    assert result.exit_code == 1
    (fake,) = json.loads(result.output)["browsers"]
    assert fake["name"] == "fake"
    assert not any(backend["available"] for backend in fake["backends"])
    assert fake["error"] or all(backend["detail"] for backend in fake["backends"])


@pytest.mark.browser
def test_doctor_measures_the_browsers_of_this_machine(project: Path) -> None:
    result = browserpool("doctor", "--json")
    found = json.loads(result.output)
    if not found["browsers"]:
        pytest.skip("no browser is installed here")
    assert result.exit_code == 0, result.output
    assert found["usable"]
    for browser in found["browsers"]:
        assert browser["kept_code_bytes"] >= 0
        backends = {b["name"]: b for b in browser["backends"]}
        assert backends["wasm"]["available"], browser
        if backends["webgpu"]["available"]:
            assert isinstance(backends["webgpu"]["adapter"]["software"], bool)
            assert backends["webgpu"]["runs_on"].endswith(("(software)", "(hardware)"))
    shown = browserpool("doctor").output
    assert all(browser["name"] in shown for browser in (*found["browsers"], *found["missing"]))
    assert str(found["runtime"]["version"]) in shown


@pytest.mark.browser
def test_doctor_fails_where_something_is_damaged_and_browsers_work(project: Path, empty_cache: Cache) -> None:
    lend(empty_cache)
    stored = empty_cache.add([b"a model"])
    sound = browserpool("doctor", "--verify", "--json")
    found = json.loads(sound.output)
    if not found["browsers"]:
        pytest.skip("no browser is installed here")
    assert (sound.exit_code, found["usable"], found["cache"]["damaged"]) == (0, True, [])
    (empty_cache.root / "models" / stored.sha256).write_bytes(b"a modem")
    shown = browserpool("doctor", "--verify")
    assert shown.exit_code == 1
    assert "damaged" in shown.output
    assert stored.sha256 in "".join(shown.output.split())
    assert "no usable browser" not in shown.output
    assert browserpool("doctor").exit_code == 0  # it was not asked


def test_doctor_refuses_a_build_that_pages_cannot_load_before_it_starts_a_browser(project: Path) -> None:
    done = browserpool("doctor", "--runtime", "absent")
    assert done.exit_code == 2
    assert f"{project / 'absent'} is not there\n  where: --runtime\n" in done.output
    assert "Browsers here" not in done.output
