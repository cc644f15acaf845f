"""The commands that read the history, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pytest_browserpool.cli import cli
from pytest_browserpool.records import (
    BrowserRecord,
    DecisionRecord,
    FaultRecord,
    JournalRecord,
    ModelRecord,
    NodeRecord,
    OperationRecord,
    RunRecord,
    TestRecord,
)
from pytest_browserpool.store import integrity, spool
from pytest_browserpool.store.flush import flush
from pytest_browserpool.store.spool import Batch

START = 1_700_000_000.0
TEST = "tests/test_sample.py::test_one"


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up run in the place where commands look when not told."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ".browserpool" / "history.duckdb"
    run = {"run_id": "run-1", "node": "gw0"}
    work = {
        "nodeid": TEST,
        "browser": "firefox",
        "backend": "wasm",
        "model": "ab" * 32,
        "started_at": START + 2,
    }
    rows = (
        RunRecord(run_id="run-1", started_at=START, finished_at=START + 9, exit_status=0),
        NodeRecord(**run, host="sample-host", up_at=START),
        BrowserRecord(
            **run,
            instance="f",
            name="firefox",
            family="firefox",
            version="1",
            launched_at=START,
            launch_ms=3e3,
        ),
        ModelRecord(sha256="ab" * 32, label="[b]odd[/b].onnx"),
        TestRecord(**run, **work, outcome="passed", duration_s=2.0, latency_ms=4.5),
        OperationRecord(
            **run,
            **work,
            operation="1",
            instance="f",
            browser_version="1",
            kind="run",
            latency_ms=4.5,
            warm=True,
        ),
        DecisionRecord(
            **run,
            nodeid=TEST,
            at=START + 1,
            browser="firefox",
            backend="wasm",
            expected_s=2.5,
            breakdown='{"queue": 0, "run": 2.5}',
            factors='{"type_affinity": 0.75, "score": 0.5}',
            alternatives='[{"node": "gw1", "browser": "chromium", "expected_s": 7.25, "score": 0.4}]',
        ),
        JournalRecord(
            **run,
            number=1,
            at=START + 0.5,
            changes='[["browsers", "f", {"instance": "f", "name": "firefox", "status": "ready", "since": 0, "reason": ""}], '
            '["operations", "0", null]]',
        ),
        JournalRecord(**run, number=2, at=START + 0.6, changes='[["browsers", "gone long ago", null]]'),
        FaultRecord(
            **run, at=START + 3, kind="page_hung", nodeid=TEST, browser="firefox", outcome="recovered"
        ),
    )
    flush(path, [Batch(name="1", run_id="run-1", rows=rows)], copies=integrity.copies_of(path, 2))
    return path


def browserpool(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("history",), ("run-1", "2023-11-14 22:13:20")),
        (("history", "tests"), (TEST, "[b]odd[/b].onnx")),
        (("history", "tests", "run"), (TEST,)),
        (("history", "latency", "--browser", "firefox"), ("firefox", "4.5")),
        (("history", "operations", "--test", TEST), (TEST,)),
        (("history", "faults"), ("page_hung", "recovered")),
        (("history", "journal", "--node", "gw0"), ("2023-11-14 22:13:20", "firefox f: ready")),
        (("history", "learned"), ("sample-host", "launch")),
    ],
)
def test_history_answers_in_words_and_in_json(
    db: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    told = browserpool(*arguments)
    assert told.exit_code == 0, told.output
    for word in words:
        assert word in told.output
    rows = json.loads(browserpool(*arguments, "--json").output)
    assert len(rows) >= 1
    assert isinstance(rows[0], dict)


def test_another_history_is_named_with_db(db: Path, tmp_path: Path) -> None:
    other = db.rename(tmp_path / "other.duckdb")
    assert browserpool("history").exit_code == 1
    assert browserpool("history", "--db", str(other)).exit_code == 0


def test_options_before_a_command_are_the_commands(db: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    other.write_bytes(db.read_bytes())
    test = TestRecord(
        run_id="run-2", node="gw0", nodeid="t::other", outcome="passed", started_at=START, duration_s=1.0
    )
    rows = (RunRecord(run_id="run-2", started_at=START + 99), test)
    flush(other, [Batch(name="2", run_id="run-2", rows=rows)])
    told = browserpool("history", "--db", str(other), "--json", "tests")
    assert [row["test"] for row in json.loads(told.output)] == ["t::other"]
    refused = browserpool("history", "--limit", "3", "tests")
    assert refused.exit_code == 2
    assert "takes no --limit" in refused.output


@pytest.mark.parametrize(
    "arguments", [("history", "--limit", "-1"), ("history", "operations", "--limit", "0")]
)
def test_a_limit_is_at_least_one(db: Path, arguments: tuple[str, ...]) -> None:
    told = browserpool(*arguments)
    assert told.exit_code == 2
    assert "x>=1" in told.output


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pytest.ini", "[pytest]\nbrowserpool_db = build/h.duckdb\n"),
        ("tox.ini", "[tox]\nx = %%(y)s\n[pytest]\nbrowserpool_db = build/h.duckdb\n"),
        ("setup.cfg", "[tool:pytest]\nbrowserpool_db = build/h.duckdb\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\nbrowserpool_db = 'build/h.duckdb'\n"),
        ("pyproject.toml", "[tool.pytest]\nbrowserpool_db = 'build/h.duckdb'\n"),
        ("pytest.toml", "[pytest]\nbrowserpool_db = 'build/h.duckdb'\n"),
    ],
)
def test_the_history_is_where_the_project_says(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str
) -> None:
    (tmp_path / file).write_text(text)
    (tmp_path / "build").mkdir()
    db.rename(tmp_path / "build" / "h.duckdb")
    (tmp_path / "deep" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "below")
    assert "run-1" in browserpool("history").output
    (tmp_path / "deep" / "pyproject.toml").write_text("[project]\nname = 'of another tool'\n")
    assert "run-1" in browserpool("history").output
    (tmp_path / "deep" / "pytest.ini").write_text("")
    assert browserpool("history").exit_code == 1, "that is a project of its own"


@pytest.mark.parametrize("text", ["[pytest", "\x00", "[pytest]\n[pytest]\nbrowserpool_db"])
def test_a_configuration_that_pytest_refuses_keeps_no_command_from_its_answer(
    db: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "pytest.ini").write_text(text)
    assert "run-1" in browserpool("history").output


def test_a_report_that_cannot_be_written_says_where_and_why(db: Path, tmp_path: Path) -> None:
    told = browserpool("report", "-o", str(tmp_path / "nowhere" / "r.html"))
    assert told.exit_code == 1
    assert "nowhere" in told.output
    assert "name another place with -o" in told.output


def test_what_a_narrow_encoding_lacks_is_no_failure(db: Path) -> None:
    command = [sys.executable, "-m", "pytest_browserpool.cli", "history", "faults"]
    env = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"page_hung" in done.stdout


def test_an_id_is_printed_as_it_is(db: Path, tmp_path: Path) -> None:
    name = "test_odd.py::test_it[a:100:b-:cat:]"
    test = TestRecord(
        run_id="run-3", node="gw0", nodeid=name, outcome="passed", started_at=START, duration_s=1.0
    )
    rows = (RunRecord(run_id="run-3", started_at=START + 99), test)
    flush(db, [Batch(name="3", run_id="run-3", rows=rows)])
    assert name in browserpool("history", "tests", "run-3").output


def test_explain_says_why_and_what_the_alternatives_would_have_cost(db: Path) -> None:
    told = browserpool("explain", TEST)
    assert told.exit_code == 0, told.output
    for word in ("gw0/firefox/wasm", "type_affinity", "0.75", "gw1", "chromium", "7.25"):
        assert word in told.output
    (plain,) = json.loads(browserpool("explain", TEST, "--json").output)
    assert plain["factors"] == {"type_affinity": 0.75, "score": 0.5}
    assert plain["took"]["duration_s"] == 2.0


def test_explain_of_an_unknown_test_names_near_ones(db: Path) -> None:
    told = browserpool("explain", "test_one")
    assert told.exit_code == 1
    assert f"did you mean: {TEST}" in told.output


def test_report_writes_a_page(db: Path, tmp_path: Path) -> None:
    told = browserpool("report", "-o", "page.html")
    assert told.output.strip() == "page.html"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Run run-1" in page
    assert TEST in page


def test_verify_finds_damage_and_repairs_it(db: Path) -> None:
    assert browserpool("verify").exit_code == 0
    data = bytearray(db.read_bytes())
    data[200] ^= 1
    db.write_bytes(data)
    told = browserpool("verify", "--json")
    assert told.exit_code == 1
    assert [file["ok"] for file in json.loads(told.output)["files"]] == [False, True]
    repaired = browserpool("verify", "--repair")
    assert repaired.exit_code == 0, repaired.output
    assert "repaired from" in repaired.output
    assert json.loads(browserpool("history", "--json").output)[0]["run_id"] == "run-1"
    assert len(list(db.parent.glob("*.corrupt-*"))) == 1


def test_verify_finds_a_damaged_copy(db: Path) -> None:
    copy = integrity.copies_of(db, 2)[0]
    data = bytearray(copy.read_bytes())
    data[-10] ^= 1
    copy.write_bytes(data)
    told = browserpool("verify")
    assert told.exit_code == 1
    assert "DAMAGED" in told.output
    assert browserpool("verify", "--repair").exit_code == 0
    assert browserpool("verify").exit_code == 0


def test_verify_tells_of_every_copy_that_there_should_be(db: Path) -> None:
    copy = integrity.copies_of(db, 2)[0]
    assert f"ok         .browserpool/{copy.name}:" in browserpool("verify").output
    integrity.checksum_file(copy).unlink()
    told = browserpool("verify")
    assert told.exit_code == 1
    assert f"UNCHECKED  .browserpool/{copy.name}:" in told.output
    copy.unlink()
    told = browserpool("verify")
    assert told.exit_code == 1
    assert f"MISSING    .browserpool/{copy.name}: missing" in told.output
    assert "--repair" in told.output
    told = browserpool("verify", "--repair", "--json")
    assert told.exit_code == 0
    answer = json.loads(told.output)
    assert (answer["ok"], answer["wanted"]) == (True, 2)
    assert [(f["state"], f["expected"], f["lacks"]) for f in answer["files"]] == [
        ("ok", True, None),
        ("ok", True, 0),
    ]


def test_verify_names_copies_that_are_not_kept_any_more(db: Path) -> None:
    told = browserpool("verify", "--copies", "1")
    assert told.exit_code == 0
    assert f"EARLIER    .browserpool/{integrity.copies_of(db, 2)[0].name}:" in told.output
    assert "history.duckdb.copy1: not renewed any more, as the history is kept in 1 file now" in told.output
    assert browserpool("verify", "--copies", "0").exit_code == 2


def test_verify_reads_out_of_a_file_that_was_set_aside_what_the_history_lacks(
    db: Path, tmp_path: Path
) -> None:
    aside = tmp_path / "aside"
    aside.write_bytes(db.read_bytes())
    for file in db.parent.iterdir():
        file.unlink()
    told = browserpool("verify", "--salvage", str(aside))
    assert told.exit_code == 0, told.output
    assert f"10 rows of the runs run-1 were read out of {aside}" in told.output
    assert json.loads(browserpool("history", "--json").output)[0]["run_id"] == "run-1"
    again = browserpool("verify", "--salvage", str(aside), "--json")
    assert json.loads(again.output)["notes"] == [f"{aside} has nothing that the history lacks"]
    aside.write_text("notes\n" * 4000)
    told = browserpool("verify", "--salvage", str(aside))
    assert told.exit_code == 1
    assert "nothing can be read of the file" in told.output
    assert browserpool("verify").exit_code == 0


def test_verify_merges_spooled_rows(db: Path) -> None:
    spool.write(
        db, Batch(name="late", run_id="run-2", rows=(RunRecord(run_id="run-2", started_at=START + 50),))
    )
    assert "1 spool files wait" in browserpool("verify").output
    assert "1 spooled rows were merged" in browserpool("verify", "--repair").output
    assert len(json.loads(browserpool("history", "--json").output)) == 2


def test_no_history_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (("history",), ("explain", "x"), ("report",), ("verify",)):
        told = browserpool(*command)
        assert told.exit_code == 1
        assert "there is no history" in told.output
        assert "remedy" in told.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["history", "explain", "report", "verify"])
def test_help_has_an_example(command: str) -> None:
    assert f"browserpool {command}" in browserpool(command, "--help").output.partition("Examples:")[2]


def test_the_program_starts_without_loading_the_database() -> None:
    code = (
        "import sys; from pytest_browserpool import cli; "
        "print([m for m in ('duckdb', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_rows_that_wait_in_spool_files_are_told_of_beside_the_answer(db: Path) -> None:
    quiet = browserpool("history", "tests", "--json")
    assert quiet.stderr == ""
    spool.write(db, Batch(name="run-1-x", run_id="run-1", rows=()))
    said = browserpool("history", "tests", "--json")
    assert "lie in a spool file" in said.stderr
    assert json.loads(said.stdout) == json.loads(quiet.stdout)
    assert browserpool("verify", "--repair").exit_code == 0
    assert browserpool("history", "tests").stderr == ""


@pytest.mark.parametrize(
    "command",
    [("analyze",), ("apply", "--dry-run"), ("explain", "tests/test_unknown.py::test_x"), ("export", "ex")],
)
def test_every_command_that_reads_the_history_tells_what_waits(db: Path, command: tuple[str, ...]) -> None:
    assert "lie in" not in browserpool(*command).stderr
    spool.write(db, Batch(name="run-1-x", run_id="run-1", rows=()))
    assert "lie in a spool file" in browserpool(*command).stderr


def test_a_command_below_the_projects_directory_finds_its_history(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = browserpool("history", "--json")
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tests" / "deep")
    assert browserpool("history", "--json").stdout == here.stdout
    named = browserpool("history", "--db", ".browserpool/history.duckdb")
    assert named.exit_code == 1, "what is named is meant from here"
    assert "there is no history" in named.stderr
