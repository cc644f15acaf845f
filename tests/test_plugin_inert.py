"""Without ``--browserpool`` the plugin skips what asks for its fixtures, disturbs nobody, and costs next
to nothing."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from acceptance_support import Runner

HEAVY = (
    "numpy",
    "duckdb",
    "aiohttp",
    "anyio",
    "onnx",
    "playwright",
    "scipy",
    "rich",
    "jinja2",
    "psutil",
    "networkx",
    "pytest_browserpool.fixtures",
    "pytest_browserpool.node",
    "pytest_browserpool.controller",
    "pytest_browserpool.worker",
    "pytest_browserpool.scheduler",
)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(pytester, monkeypatch)


def test_what_asks_for_our_fixtures_is_skipped_with_a_hint(run: Runner) -> None:
    run.suite(
        test_x="""
        import pytest
        @pytest.mark.model("m.onnx", type="audio")
        def test_model(model): assert 0
        def test_pool(browser_pool): assert 0
        @pytest.mark.model("whatever", that="means", to=["others"])
        def test_plain(): pass
    """
    )
    done = run("-rs", "--strict-markers", active=False, reports=False)
    assert done.terminal == {"passed": 1, "skipped": 2}
    assert "run pytest with --browserpool" in done.output
    quietly = run(active=False, reports=False).output
    assert "2 skipped: pytest-browserpool is off" in quietly  # said without -rs too, once


def test_the_ini_file_may_turn_it_on(run: Runner) -> None:
    run.pytester.makeini("[pytest]\nbrowserpool = true\n")
    run.suite(
        test_x="def test_one(request): assert request.config.pluginmanager.hasplugin('browserpool-node')"
    )
    assert run(active=False, reports=False).terminal == {"passed": 1}


USERS_OWN = "import pytest\n@pytest.fixture\ndef model(): return 'mine'\n"
USES_IT = "def test_it(model): assert model == 'mine'\n"


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("home", ["module", "conftest", "pytest_plugins", "-p"])
def test_a_users_own_model_fixture_wins(run: Runner, home: str, active: bool) -> None:
    arguments = []
    if home == "module":
        run.suite(test_x=USERS_OWN + USES_IT)
    else:
        run.suite(test_x=USES_IT)
        if home == "conftest":
            run.pytester.makeconftest(USERS_OWN)
        else:
            run.suite(users_fixtures=USERS_OWN)
            run.pytester.makeconftest(
                "pytest_plugins = ['users_fixtures']" if home == "pytest_plugins" else ""
            )
            arguments = ["-p", "users_fixtures"] if home == "-p" else []
    run.pytester.syspathinsert()
    assert run(*arguments, active=active, reports=False).terminal == {"passed": 1}


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    script = (
        "import json, sys, pytest\n"
        f"code = pytest.main(['-q', '-p', 'no:cacheprovider', {str(tmp_path)!r}])\n"
        f"print('LOADED', json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    (tmp_path / "test_x.py").write_text("def test_one(): pass")
    environment = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "pytest_browserpool.plugin",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOADED"))
    assert json.loads(line.removeprefix("LOADED")) == [], done.stdout


def test_importing_the_plugin_is_quick() -> None:
    """Under 50 ms beyond what pytest has loaded anyway; the best of several, for others share the machine."""
    script = (
        "import time, pytest, _pytest.config, _pytest.fixtures\n"
        "start = time.perf_counter(); import pytest_browserpool.plugin, pytest_browserpool.hookspecs, "
        "pytest_browserpool.fixtures_inert; print(time.perf_counter() - start)"
    )
    times = []
    for _ in range(5):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        times.append(float(done.stdout))
        assert time.perf_counter() - began < 60
    assert min(times) < 0.05, statistics.median(times)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--browserpool-max-browsers", "0"], "at least 1"),
        (["--browserpool-max-browsers", "many"], "whole number"),
        (["--browserpool-db", "."], "is a directory"),
        (["--browserpool-db", "../h.duckdb"], "write --browserpool-db=../h.duckdb"),
        (["-o", "browserpool_state_sync_interval=inf"], "at most 100000000"),
        (["-o", "browserpool_pool_cool_down=nan"], "at most 100000000"),
        (["--browserpool-recovery", "imediate"], "did you mean 'immediate'"),
        (["--browserpool-missing", "warn"], "fail, skip"),
        (["--browserpool-scheduler", "maybe"], "on or off"),
        (["--browserpool-browsers", "firefox,chorme"], "did you mean 'chrome'"),
        (["--browserpool-redundancy", "-1"], "at least 1"),
    ],
)
def test_a_wrong_option_is_a_usage_error(run: Runner, arguments: list[str], words: str) -> None:
    run.suite(test_x="def test_one(): pass")
    done = run(*arguments, reports=False)
    text = done.result.stderr.str() + done.output
    if words:
        assert done.result.ret == pytest.ExitCode.USAGE_ERROR
        assert words in text
    assert "Traceback" not in text


def test_a_node_may_be_given_some_of_the_browsers(run: Runner) -> None:
    run.suite(test_x="def test_one(): pass")
    done = run("--tx", "popen//browsers=firefix", reports=False)
    assert "did you mean 'firefox'" in done.result.stderr.str() + done.output


def test_every_option_is_documented() -> None:
    from pytest_browserpool.config import Settings
    from pytest_browserpool.options import OPTIONS

    page = (Path(__file__).parent.parent / "docs" / "xdist.md").read_text()
    for option in OPTIONS:
        assert (option.flag if option.cli else option.ini) in page
        assert option.field in Settings.__dataclass_fields__
