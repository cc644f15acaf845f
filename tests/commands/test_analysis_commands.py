"""``browserpool analyze`` and ``apply``, run as a user runs them, on made-up histories."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import history_seed
import pytest
from click.testing import CliRunner, Result

from pytest_browserpool import findings
from pytest_browserpool.cli import cli
from pytest_browserpool.records import RunRecord
from pytest_browserpool.store import measured
from pytest_browserpool.store.connect import reading

WAYS = {"chromium/wasm": 60.0, "firefox/wasm": 20.0}


def browserpool(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def history(tmp_path: Path, slower: float = 1.0) -> str:
    chance = random.Random(3)
    path = tmp_path / "history.duckdb"
    runs = [
        history_seed.run_rows(
            n, {way: ms * (slower if n == 9 else 1) for way, ms in WAYS.items()}, chance=chance
        )
        for n in range(10)
    ]
    history_seed.seed(path, runs)
    return str(path)


def test_it_says_what_is_best_how_sure_and_what_to_do(tmp_path: Path) -> None:
    db = history(tmp_path)
    said = browserpool("analyze", "--db", db)
    assert said.exit_code == 0, said.output
    assert "what matters most: run sample on firefox/wasm" in said.output
    assert "best (10 runs beside others)" in said.output
    assert "none that shows: 9 runs before with 1 run since" in said.output
    told = json.loads(browserpool("analyze", "--db", db, "--json").output)
    (best,) = told["models"]
    assert (best["subject"], best["verdict"], best["way"]) == ("sample", "best", "firefox/wasm")
    assert told["recommendations"][0]["appliable"]
    assert told["top"].startswith("run sample on firefox/wasm")


def test_the_sample_in_the_documentation_is_what_is_printed(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "analysis.md").read_text(encoding="utf-8")
    (sample,) = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    printed = [
        line.rstrip() for line in browserpool("analyze", "--db", history(tmp_path)).output.splitlines()
    ]
    assert [line for line in sample.splitlines() if line.rstrip() not in printed] == []


def test_a_change_for_the_worse_fails_a_strict_run(tmp_path: Path) -> None:
    db = history(tmp_path, slower=2.5)
    said = browserpool("analyze", "--db", db, "--strict")
    assert said.exit_code == 1
    assert "critical" in said.output
    assert browserpool("analyze", "--db", db).exit_code == 0
    assert browserpool("analyze", "--db", history(tmp_path / "sound"), "--strict").exit_code == 0


def test_a_young_history_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "history.duckdb"
    history_seed.seed(path, [history_seed.run_rows(0, WAYS, chance=random.Random(1))])
    said = browserpool("analyze", "--db", str(path))
    assert said.exit_code == 0, said.output
    assert "not enough data: one more run" in said.output
    assert "more runs would probably do" in said.output


def test_no_history_and_no_such_run_are_errors(tmp_path: Path) -> None:
    missing = browserpool("analyze", "--db", str(tmp_path / "none.duckdb"))
    assert missing.exit_code == 1
    assert "there is no history" in missing.output
    unknown = browserpool("analyze", "--db", history(tmp_path), "--against", "nowhere")
    assert unknown.exit_code == 1
    assert "browserpool history lists them" in unknown.output


@pytest.mark.parametrize("option", ["--against", "--since"])
def test_a_run_that_was_killed_is_told_from_one_without_tests(tmp_path: Path, option: str) -> None:
    path, (killed, *rows) = (
        tmp_path / "history.duckdb",
        history_seed.run_rows(0, WAYS, chance=random.Random(1)),
    )
    assert isinstance(killed, RunRecord)
    empty = dataclasses.replace(killed, run_id="seed-empty")
    history_seed.seed(path, [[dataclasses.replace(killed, finished_at=None), *rows], [empty]])
    said = browserpool("analyze", "--db", str(path), option, "seed-000")
    assert said.exit_code == 1
    assert "run seed-000 did not end: it goes on, or was killed" in said.output
    assert "ended without tests" in browserpool("analyze", "--db", str(path), option, "seed-empty").output


@pytest.mark.parametrize(
    ("against", "before"),
    [
        ("1.30.0", ["seed-000"]),
        ("1.30", ["seed-000", "seed-001"]),
        ("bbbbbbbb", ["seed-001"]),
        ("1.29.0", ["seed-002", "seed-003"]),
        ("1.29.0 (own, dddddddd)", ["seed-003"]),
    ],
)
def test_builds_of_onnxruntime_web_are_told_apart(tmp_path: Path, against: str, before: list[str]) -> None:
    labels = ("1.30.0", "1.30.0 (own, bbbbbbbb)", "1.29.0 (own, cccccccc)", "1.29.0 (own, dddddddd)")
    path, seeded = tmp_path / "history.duckdb", []
    for number, label in enumerate(labels):
        run, *rest = history_seed.run_rows(number, WAYS, chance=random.Random(number))
        assert isinstance(run, RunRecord)
        seeded.append([dataclasses.replace(run, runtime=label), *rest])
    history_seed.seed(path, seeded)
    with reading(path) as con:
        runs = [findings.run_info(row) for row in measured.runs_of(con)]
        assert list(findings.chosen(con, runs, None, against, 0.0).before) == before


def test_apply_writes_what_is_recommended_and_undo_takes_it_back(tmp_path: Path) -> None:
    db, file = history(tmp_path), tmp_path / "history.applied.toml"
    dry = browserpool("apply", "--db", db, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "would set  run sample on firefox/wasm" in dry.output
    assert not file.exists()
    done = browserpool("apply", "--db", db, "prefer/sample")
    assert done.exit_code == 0, done.output
    assert 'browser = "firefox"' in file.read_text()
    again = browserpool("apply", "--db", db)
    assert "nothing to apply" in again.output
    assert "no run has used it yet" in again.output
    wanted = browserpool("apply", "--db", db, "prefer/sample")
    assert wanted.exit_code == 0, wanted.output
    assert "already set  run sample on firefox/wasm   [prefer/sample]" in wanted.output
    told = json.loads(browserpool("apply", "--db", db, "prefer/sample", "--json").output)
    assert (told["written"], told["already_set"]) == (False, ["prefer/sample"])
    undone = browserpool("apply", "--db", db, "--undo")
    assert undone.exit_code == 0, undone.output
    assert not file.exists()
    assert browserpool("apply", "--db", db, "--undo").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("prefer/other",), "one of prefer/sample"), (("--undo", "prefer/sample"), "give it alone")],
)
def test_what_cannot_be_applied_is_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    result = browserpool("apply", "--db", history(tmp_path), *arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_a_better_way_takes_the_place_of_the_one_that_is_set(tmp_path: Path) -> None:
    db, file = history(tmp_path), tmp_path / "history.applied.toml"
    assert browserpool("apply", "--db", db, "prefer/sample").exit_code == 0
    file.write_text(file.read_text().replace('browser = "firefox"', 'browser = "edge"'))
    done = browserpool("apply", "--db", db)
    assert "set  run sample on firefox/wasm" in done.output
    assert file.read_text().count("[[applied]]") == 1
    assert 'browser = "firefox"' in file.read_text()


def test_tests_that_took_no_time_have_no_share_of_it(tmp_path: Path) -> None:
    said = browserpool("analyze", "--db", _changed(tmp_path, duration_s=0.0))
    assert said.exit_code == 0, said.output
    assert "nan" not in said.output
    assert re.search(r"firefox +–", said.output)


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("field", ["latency_ms", "duration_s", "launch_ms"])
def test_a_time_that_is_no_number_is_left_out(tmp_path: Path, field: str, odd: float) -> None:
    db = _changed(tmp_path, **{field: odd})
    for command in (("analyze",), ("apply", "--dry-run"), ("report", "-o", str(tmp_path / "report.html"))):
        said = browserpool(*command, "--db", db)
        assert said.exit_code == 0, (said.output, said.exception)
        assert not re.search(r"\b(nan|inf)\b", said.output.replace(str(tmp_path), ""))


def _changed(tmp_path: Path, **changes: float) -> str:
    """A history in which every row that has these fields has these values."""
    path, chance = tmp_path / "history.duckdb", random.Random(3)
    runs = []
    for n in range(10):
        rows = history_seed.run_rows(n, WAYS, chance=chance)
        runs.append([_replaced(row, changes) for row in rows])
    history_seed.seed(path, runs)
    return str(path)


def _replaced(row: Any, changes: dict[str, float]) -> Any:
    return dataclasses.replace(row, **changes) if changes.keys() <= row.__dataclass_fields__.keys() else row
