"""A wrong workload is refused with the value, the place and the remedy; a right one is read as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pytest_browserpool.cli import cli
from pytest_browserpool.simulation import zoo
from pytest_browserpool.simulation.figures import simulate
from pytest_browserpool.simulation.workload import WorkloadError, parse


def small() -> dict[str, Any]:
    return {
        "nodes": [
            {
                "id": "n",
                "speed": 1,
                "memory_gib": 4,
                "browsers": {"chromium": {"launch_s": 1, "backends": ["wasm"]}},
            }
        ],
        "models": {
            "m": {
                "memory_gib": 1,
                "type": "audio",
                "load_s": {"chromium/wasm": 1},
                "run_s": {"chromium/wasm": 0.5},
            }
        },
        "tests": [{"id": "t", "model": "m", "browsers": ["chrome"], "backends": ["cpu"], "priority": 2}],
    }


Change = Callable[[dict[str, Any]], Any]
WRONG: list[tuple[str, Change, str]] = [
    ("unknown key", lambda d: d.update(histroy="warm"), "did you mean 'history'"),
    ("negative time", lambda d: d["models"]["m"]["run_s"].update({"chromium/wasm": -1}), "-1 is"),
    ("negative launch", lambda d: d["nodes"][0]["browsers"]["chromium"].update(launch_s=-0.5), "negative"),
    ("zero speed", lambda d: d["nodes"][0].update(speed=0), "not above zero"),
    ("infinite", lambda d: d.update(noise_sigma=float("inf")), "finite"),
    ("unknown model", lambda d: d["tests"][0].update(model="x"), "unknown model 'x'"),
    ("unknown browser", lambda d: d["tests"][0].update(browsers=["chromiun"]), "did you mean 'chromium'"),
    ("unknown backend", lambda d: d["tests"][0].update(backends=["wasn"]), "did you mean 'wasm'"),
    (
        "model's browser",
        lambda d: d["models"]["m"]["load_s"].update({"opera/wasm": 1}),
        "unknown browser 'opera'",
    ),
    ("unknown node", lambda d: d.update(events=[{"at": 1, "node": "z", "kind": "lost"}]), "unknown node 'z'"),
    (
        "place of an event in the file",
        lambda d: d.update(
            events=[{"at": 5, "node": "n", "kind": "slow"}, {"at": 1, "node": "z", "kind": "lost"}]
        ),
        "events[1].node",
    ),
    (
        "slowed to nothing",
        lambda d: d.update(events=[{"at": i, "node": "n", "kind": "slow", "factor": 0.5} for i in range(40)]),
        "events[29]",
    ),
    ("beyond any float", lambda d: d["nodes"][0].update(speed=10**400), "more than 1e+09"),
    ("too large", lambda d: d["models"]["m"]["run_s"].update({"chromium/wasm": 1e308}), "more than 1e+09"),
    ("too small", lambda d: d["nodes"][0].update(speed=1e-320), "less than 1e-09"),
    (
        "one backend by two names",
        lambda d: d["models"]["m"]["run_s"].update({"chromium/cpu": 5}),
        "drop 'chromium/cpu'",
    ),
    ("unknown kind", lambda d: d.update(events=[{"at": 1, "node": "n", "kind": "dead"}]), "lost, join, slow"),
    (
        "faster by slow",
        lambda d: d.update(events=[{"at": 1, "node": "n", "kind": "slow", "factor": 2}]),
        "give 1 or less",
    ),
    ("negative event", lambda d: d.update(events=[{"at": -1, "node": "n", "kind": "lost"}]), "negative"),
    ("no capable node", lambda d: d["models"]["m"].update(memory_gib=9), "no node can run it"),
    ("duplicate", lambda d: d["tests"].append(d["tests"][0]), "two have the id 't'"),
    ("priority", lambda d: d["tests"][0].update(priority=7), "not a priority"),
    ("priority half", lambda d: d["tests"][0].update(priority=1.5), "not a priority"),
    ("no nodes", lambda d: d.update(nodes=[]), "no nodes"),
    ("missing", lambda d: d.pop("tests"), "'tests' is missing"),
    ("no load", lambda d: d["models"]["m"].update(load_s={}), "no load_s"),
    ("not a list", lambda d: d.update(tests={}), "not a list"),
    ("not an object", lambda d: d["tests"].append(3), "not an object"),
    ("boolean", lambda d: d["tests"][0].update(run_scale=True), "not a finite number"),
    ("overlap", lambda d: d.update(overlap=1.5), "more than 1"),
    ("history", lambda d: d.update(history="hot"), "cold, warm"),
    ("pair", lambda d: d["models"]["m"]["run_s"].update({"chromium": 1}), "BROWSER/BACKEND"),
]


@pytest.mark.parametrize(("change", "text"), [x[1:] for x in WRONG], ids=[x[0] for x in WRONG])
def test_wrong_workloads(change: Change, text: str) -> None:
    data = small()
    change(data)
    with pytest.raises(WorkloadError) as caught:
        parse(data, "FILE")
    assert text in str(caught.value)
    assert "FILE" in (caught.value.where or "")


def test_right_workload() -> None:
    workload = parse(small())
    assert workload.options(workload.tests[0], workload.nodes[0]) == (("chromium", "wasm"),)
    assert (workload.history, workload.noise_sigma, workload.events) == ("cold", 0.0, ())


def test_the_documented_example_is_a_workload() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text(encoding="utf-8")
    example = json.loads(page.partition("```json\n")[2].partition("```")[0])
    result = simulate(parse(example, "docs"))["schedulers"]
    assert [row["failed"] for row in result.values()] == [[], [], []]


def test_zoo_is_the_same_for_the_same_seed() -> None:
    for name in zoo.ZOO:
        assert zoo.data(name, 4) == zoo.data(name, 4)
    assert len(zoo.ZOO) >= 10


def test_command_prints_what_was_simulated(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps(small()))
    result = CliRunner().invoke(
        cli, ["simulate", str(path), "--scheduler", "browserpool,load", "--seed", "3", "--json"]
    )
    assert result.exit_code == 0, result.output
    schedulers = json.loads(result.output)["schedulers"]
    assert list(schedulers) == ["browserpool", "load"]
    for row in schedulers.values():
        assert row["makespan"] == pytest.approx(2.5)
        assert row["lower_bound"] == pytest.approx(2.5, rel=1e-5)
        assert (row["launches"], row["loads"], row["failed"]) == (1, 1, [])
        assert row["trace"] == [
            {
                "test": "t",
                "node": "n",
                "browser": "chromium",
                "backend": "wasm",
                "start": 0.0,
                "end": 2.5,
                "setup": 2.0,
            }
        ]
    table = CliRunner().invoke(cli, ["simulate", str(path)])
    assert "worksteal" in table.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere.json"], "cannot read the workload"),
        (["zoo:setup_hevy"], "did you mean 'setup_heavy'"),
        (["zoo:equal", "--scheduler", "wrksteal"], "did you mean 'worksteal'"),
        (["zoo:equal", "--scheduler", ","], "at least one"),
    ],
)
def test_command_refuses(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(cli, ["simulate", *arguments])
    assert result.exit_code == 2, result.output
    assert text in result.output


def test_command_refuses_what_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text("{")
    result = CliRunner().invoke(cli, ["simulate", str(path)])
    assert result.exit_code == 2
    assert "not JSON" in result.output


def test_a_run_whose_nodes_all_come_later_begins_with_the_first() -> None:
    late = parse({**small(), "events": [{"at": 3, "node": "n", "kind": "join"}]})
    for found in simulate(late)["schedulers"].values():
        assert found["failed"] == []
        assert found["makespan"] == pytest.approx(3 + 1 + 1 + 0.5)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"nodes": "\xff"}', "not JSON: 'utf-8' codec"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"models": {"m": {}, "m": {}}}', "the key 'm' twice"),
    ],
    ids=["not UTF-8", "deep", "twice"],
)
def test_files_that_are_no_workload(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "w.json"
    path.write_bytes(content)
    result = CliRunner().invoke(cli, ["simulate", str(path)])
    assert result.exit_code == 2, result.exception
    assert text in result.output
    assert str(path) in result.output
