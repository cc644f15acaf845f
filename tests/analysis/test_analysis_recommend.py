"""What is recommended follows from the data, names its gain, and what came of it is told afterwards."""

from __future__ import annotations

import pytest

from pytest_browserpool.analysis import examine, gain, nodes, recommend, top_recommendation
from pytest_browserpool.analysis.examine import came_line
from pytest_browserpool.analysis.samples import Cell, Faulty, Free, Pace, RunInfo, Samples, Share, Way
from pytest_browserpool.preferences import AppliedChange, Preference

FIREFOX, CHROMIUM = Way("firefox", "wasm"), Way("chromium", "wasm")


def infos(n: int, **more: object) -> list[RunInfo]:
    return [RunInfo(run=f"r{i:02d}", started_at=float(i), seconds=100.0, **more) for i in range(n)]  # type: ignore[arg-type]


def beside(n: int, fast: float, slow: float, model: str = "vad", type_: str = "audio") -> list[Cell]:
    return [
        Cell(
            run=f"r{i:02d}",
            host="h",
            model=model,
            type=type_,
            way=way,
            count=20,
            typical=ms * (1 + i % 3 / 50),
        )
        for i in range(n)
        for way, ms in ((FIREFOX, fast), (CHROMIUM, slow))
    ]


def free(n: int, way: Way = CHROMIUM, model: str = "vad", call_s: float = 30.0) -> list[Free]:
    return [
        Free(run=f"r{i:02d}", model=model, type="audio", way=way, tests=3, calls=100, call_s=call_s)
        for i in range(n)
    ]


def asked(samples: Samples) -> dict[str, recommend.Recommendation]:
    runs = [run.run for run in samples.runs]
    return {made.id: made for made in examine(samples, runs[:-1], runs[-1:]).recommendations}


def test_the_quicker_way_is_recommended_for_what_is_free_to_take_it() -> None:
    made = asked(Samples(runs=infos(8), calls=beside(8, 10.0, 30.0), free=free(8)))["prefer/vad"]
    assert made.prefer == Preference(model="vad", browser="firefox", backend="wasm")
    assert made.gain_s == pytest.approx(20.0, rel=0.1)  # two thirds of 30 s of calls
    assert made.appliable


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (Samples(runs=infos(8), calls=beside(8, 10.0, 30.0)), "no test is free"),
        (Samples(runs=infos(8), calls=beside(8, 10.0, 30.0), free=free(8, FIREFOX)), "it is done already"),
        (Samples(runs=infos(2), calls=beside(2, 10.0, 30.0), free=free(2)), "two runs are not enough"),
        (Samples(runs=infos(8), calls=beside(8, 10.0, 10.5), free=free(8)), "five percent"),
        (
            Samples(runs=infos(8), calls=beside(8, 10.0, 30.0), free=free(8, call_s=0.3)),
            "a fifth of a second",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_recommended_without_cause(samples: Samples, why: str) -> None:
    assert asked(samples) == {}, why


def test_a_dear_load_takes_the_gain_away() -> None:
    loads = [
        Cell(
            run=f"r{i:02d}",
            host="h",
            model="vad",
            type="audio",
            way=way,
            count=2,
            typical=s,
            metric="load time",
        )
        for i in range(8)
        for way, s in ((FIREFOX, 12.0), (CHROMIUM, 1.0))
    ]
    assert asked(Samples(runs=infos(8), calls=beside(8, 10.0, 30.0), free=free(8), loads=loads)) == {}


def test_a_type_is_standardised_where_one_way_serves_all_its_models() -> None:
    calls = beside(8, 10.0, 30.0) + beside(8, 5.0, 12.0, model="pitch")
    found = asked(Samples(runs=infos(8), calls=calls, free=free(8) + free(8, FIREFOX, "pitch")))
    assert set(found) == {"prefer/type:audio"}
    assert found["prefer/type:audio"].prefer == Preference(type="audio", browser="firefox", backend="wasm")


def test_a_pool_that_closes_browsers_for_want_of_room_should_be_larger() -> None:
    shares = [
        Share(
            run=f"r{i:02d}",
            node="gw0",
            browser=b,
            tests=9,
            busy_s=30,
            launches=3,
            launch_s=6,
            load_s=3,
            evicted=2,
        )
        for i in range(5)
        for b in ("firefox", "chromium", "headless-shell", "edge")
    ]
    made = asked(Samples(runs=infos(5), shares=shares))["pool/max-browsers"]
    assert made.max_browsers == 4
    assert made.gain_s == pytest.approx(4 * 2 * 3.0)


def test_a_browser_set_up_on_more_nodes_than_its_work_fills_should_be_on_fewer() -> None:
    shares = [
        Share(
            run=f"r{i:02d}", node=f"gw{n}", browser=b, tests=5, busy_s=busy, launches=1, launch_s=4, load_s=1
        )
        for i in range(5)
        for n in range(4)
        for b, busy in (("firefox", 7.0), ("chromium", 60.0))
    ]
    found = asked(Samples(runs=infos(5, nodes=4), shares=shares))
    assert dict(found["nodes/firefox"].nodes) == {"firefox": 1}
    assert found["nodes/firefox"].of_nodes == 4
    assert "nodes/chromium" not in found


def test_idle_nodes_and_one_long_test_are_told() -> None:
    shares = [
        Share(
            run=f"r{i:02d}",
            node=f"gw{n}",
            browser="firefox",
            tests=1,
            busy_s=20.0,
            launches=1,
            launch_s=1,
            load_s=1,
        )
        for i in range(7)
        for n in range(4)
    ]
    spread = nodes.spread(infos(7, nodes=4), shares)
    assert spread is not None
    assert spread.idle.middle == pytest.approx(0.8)
    found = asked(Samples(runs=infos(7, nodes=4, longest="t.py::test_long", longest_s=90.0), shares=shares))
    assert found["advice/nodes"].title.startswith("split t.py::test_long")
    assert asked(Samples(runs=infos(7, nodes=4), shares=shares))["advice/nodes"].title.startswith(
        "1 node would"
    )


def test_a_browser_that_fails_more_than_the_others_is_named() -> None:
    rows = [
        Faulty(
            run=f"r{i}", model="m", browser=b, tests=30, faulty=bad, kinds=("browser_crashed",) if bad else ()
        )
        for i in range(4)
        for b, bad in (("firefox", 0), ("chromium", 3 * (i % 2)), ("headless-shell", 0))
    ]
    found = examine(Samples(runs=infos(4), faulty=rows), [], [])
    worst = found.flaky[0]
    assert (worst.browser, worst.worse, worst.models) == ("chromium", True, ("m",))
    assert [r.id for r in found.recommendations] == ["advice/flaky/chromium"]


CHANGE = AppliedChange(
    id="prefer/vad",
    title="run vad on firefox/wasm",
    evidence="",
    applied_at=0.0,
    expected_s=8.0,
    prefer=Preference(model="vad", browser="firefox", backend="wasm"),
)


def times(runs: int, browser: str, seconds: float, first: int = 0) -> list[gain.TestTime]:
    return [
        gain.TestTime(
            run=f"r{first + i:02d}", test=f"t{k}", browser=browser, backend="wasm", seconds=seconds + i / 50
        )
        for i in range(runs)
        for k in range(4)
    ]


def test_the_gain_that_came_is_measured_on_the_tests_that_moved() -> None:
    rows = [*times(5, "chromium", 3.0), *times(6, "firefox", 1.0, first=5)]
    came = gain.of_preference(CHANGE, rows, [f"r{n:02d}" for n in range(5, 11)])
    assert (came.runs, came.tests, came.verdict) == (6, 4, "came true")
    assert came.saved is not None
    assert came.saved.middle == pytest.approx(8.0, rel=0.05)
    assert came_line(came) == (
        "run vad on firefox/wasm: expected to save 8.0 s a run, saved 8.0 s a run (7.8 – 8.2, 6 runs): came true"
    )
    one = gain.of_preference(CHANGE, rows, ["r05"])
    assert one.verdict == "too early to say"
    assert gain.of_preference(CHANGE, rows, []).verdict == "no run has used it yet"


def test_what_made_things_worse_is_what_matters_most() -> None:
    rows = [*times(5, "chromium", 1.0), *times(6, "firefox", 3.0, first=5)]
    came = gain.of_preference(CHANGE, rows, [f"r{n:02d}" for n in range(5, 11)])
    assert came.verdict == "made it worse"
    found = examine(Samples(runs=infos(8), calls=beside(8, 10.0, 30.0), free=free(8)), [], [], [came])
    top = top_recommendation(found)
    assert top is not None
    assert "--undo" in top
    assert "cost 8.0 s a run" in came_line(came)


def test_a_grave_regression_goes_before_any_gain() -> None:
    pace = [
        Pace(run=f"r{i:02d}", browser="", tests=5, usual_s=10, took_s=10 + i % 3 / 10 + 20 * (i > 6))
        for i in range(8)
    ]
    samples = Samples(runs=infos(8), calls=beside(8, 10.0, 30.0), free=free(8), pace=pace)
    ids = [run.run for run in samples.runs]
    top = top_recommendation(examine(samples, ids[:-1], ids[-1:]))
    assert top is not None
    assert top.startswith("everything: time per test is")
    assert "browserpool apply" in str(top_recommendation(examine(samples, ids[:-2], ids[-2:-1])))


def test_an_empty_history_has_nothing_to_say() -> None:
    assert top_recommendation(examine(Samples(), [], [])) is None


@pytest.mark.parametrize(("browser", "again"), [("firefox", False), ("edge", True)])
def test_what_is_set_is_not_recommended_again_but_a_better_way_is(browser: str, again: bool) -> None:
    samples = Samples(runs=infos(8), calls=beside(8, 10.0, 30.0), free=free(8))
    prefer = Preference(model="vad", browser=browser, backend="wasm")
    change = AppliedChange(id="prefer/vad", title="", evidence="", applied_at=0.0, prefer=prefer)
    found = examine(samples, [], [], [gain.Came(change=change, runs=0, saved=None)])
    assert [made.id for made in found.recommendations] == (["prefer/vad"] if again else [])
