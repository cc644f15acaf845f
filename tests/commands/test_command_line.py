"""The program as a whole: help, exit statuses, and completion in the shells that click knows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pytest_browserpool.cli import COMMANDS, cli
from pytest_browserpool.records import ForecastRecord, MetricRecord, RunRecord, StealRecord
from pytest_browserpool.store.flush import flush
from pytest_browserpool.store.spool import Batch

NO_JSON = {"fetch", "install"}
"""They do something and say it line by line; a script wants their exit status."""


def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(f"{path} {name}", below)


def everything() -> list[tuple[str, click.Command]]:
    context = click.Context(cli)
    return [
        found
        for name in cli.list_commands(context)
        for found in walk(name, cli.get_command(context, name) or cli)
    ]


@pytest.mark.parametrize(
    ("path", "command"), everything(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_help_has_an_example_and_the_exit_status(path: str, command: click.Command) -> None:
    result = CliRunner().invoke(cli, [*path.split(), "--help"], prog_name="browserpool")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"browserpool {path.split()[0]}" in result.output
    assert "Exit status:" in result.output
    if path not in NO_JSON:
        assert any("--json" in parameter.opts for parameter in command.params)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path, now = tmp_path / "h.duckdb", time.time()
    rows = (
        RunRecord(run_id="20260102-a", started_at=now),
        ForecastRecord(
            run_id="20260102-a", at=now, browser="firefox", horizon_s=60, utilization=0.5, came=0.25
        ),
        StealRecord(run_id="20260102-a", nodeid="t::x", at=now, from_node="gw0", to_node="gw1", useful=True),
        MetricRecord(run_id="20260102-a", node="gw0", at=now, name="cpu_percent", value=10.0),
        MetricRecord(run_id="20260102-a", node="gw0", at=now + 1, name="cpu_percent", value=30.0),
    )
    flush(path, [Batch(name="1", run_id="20260102-a", rows=rows)])
    flush(
        path,
        [Batch(name="2", run_id="20260103-b", rows=(RunRecord(run_id="20260103-b", started_at=now + 9),))],
    )
    return path


def asked(db: Path, *arguments: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(cli, ["history", *arguments, "--db", str(db), "--json"])
    assert result.exit_code == 0, result.output
    found: list[dict[str, object]] = json.loads(result.output)
    return found


def test_what_the_scheduler_foresaw_moved_and_measured(db: Path) -> None:
    (forecast,) = asked(db, "forecasts", "20260102")
    assert (forecast["browser"], forecast["utilization"], forecast["came"]) == ("firefox", 0.5, 0.25)
    (moved,) = asked(db, "moved", "20260102")
    assert (moved["from_node"], moved["to_node"], moved["useful"]) == ("gw0", "gw1", True)
    (series,) = asked(db, "metrics", "20260102", "--name", "cpu_percent")
    assert [series[k] for k in ("samples", "lowest", "mean", "highest", "last")] == [
        2,
        10.0,
        20.0,
        30.0,
        30.0,
    ]
    assert asked(db, "metrics") == []  # the last run has none


def completed(words: str, db: Path) -> list[str]:
    """What bash would be offered for the last of ``words``."""
    environment = {
        "_BROWSERPOOL_COMPLETE": "bash_complete",
        "COMP_WORDS": f"browserpool {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    command = [sys.executable, "-m", "pytest_browserpool.cli"]
    done = subprocess.run(
        command,
        env=os.environ | environment,
        cwd=db.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line.startswith("plain,")]


def test_the_shell_completes_commands_options_and_runs(db: Path) -> None:
    assert completed("re", db) == ["report"]
    assert completed("", db) == sorted(COMMANDS)
    assert "--compare" in completed("report --", db)
    assert completed(f"report --db {db} 2026", db) == ["20260103-b", "20260102-a"]
    assert completed("report 2026", db) == []  # no history here


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_each_shell_is_one_that_the_shell_takes(shell: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest_browserpool.cli"]
    environment = os.environ | {"_BROWSERPOOL_COMPLETE": f"{shell}_source"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if shell == "bash" and "not supported" in done.stderr:
        pytest.skip("this bash is older than 4.4")
    assert "_BROWSERPOOL_COMPLETE" in done.stdout, done.stderr
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here: the script was made, and not tried")
    (tmp_path / "script").write_text(done.stdout)
    tried = subprocess.run(
        [program, "-n", str(tmp_path / "script")], capture_output=True, text=True, timeout=30, check=False
    )
    assert tried.returncode == 0, tried.stderr
