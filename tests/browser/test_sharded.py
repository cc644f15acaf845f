"""Models over several real browsers: equal to the whole, whatever is cut, and whatever is killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from sharding_graphs import REAL, SMALL, control_flow, small_weights, two_in_three_out

from pytest_browserpool import assert_close
from pytest_browserpool.browsers.pool import Loaded
from pytest_browserpool.errors import Fault, InputError
from pytest_browserpool.fixtures import ShardedModel, _model
from pytest_browserpool.node import speeds
from pytest_browserpool.node.cutting import Seat
from pytest_browserpool.node.lane import Lane
from pytest_browserpool.node.lanes import Lanes
from pytest_browserpool.sharding.llm.config import LOGITS
from pytest_browserpool.sharding.llm.generate import cache_links, empty_cache, greedy, greedy_session
from pytest_browserpool.sharding.llm.llama import build
from pytest_browserpool.sharding.threads import of_whole
from pytest_browserpool.values import ModelNeeds

TWO = ("chromium", "firefox")
THREE = ("chromium", "firefox", "headless-shell")

FUSED = {"rtol": 1e-4, "atol": 1e-5}
"""What a cut may change: fusions across it are not made. docs/sharding.md has what was measured (at most 2e-6)."""


def sharded(bench: Any, source: Any, browsers: tuple[str, ...], **needs: Any) -> ShardedModel:
    """A model as the fixture gives it, over those browsers."""
    wanted = {"shards": len(browsers), "backends": ("wasm",), "browsers": browsers, **needs}
    model = _model(bench.node, ModelNeeds(**wanted), source, Path(__file__))
    assert isinstance(model, ShardedModel)
    return model


def native(source: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    raw = source.SerializeToString() if hasattr(source, "SerializeToString") else str(source)
    session = onnxruntime.InferenceSession(raw)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def close(outputs: dict[str, Any], reference: dict[str, Any]) -> None:
    assert list(outputs) == list(reference)
    for name, value in reference.items():
        np.testing.assert_allclose(outputs[name], value, **FUSED)


def noise(shapes: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(dims).astype(np.float32) for name, dims in shapes.items()}


def computed(proto: onnx.ModelProto) -> list[str]:
    """What the nodes compute: names of values are unique in a graph, those of nodes need not be."""
    return [node.output[0] for node in proto.graph.node]


def parts_of(model: ShardedModel) -> Counter[str]:
    """What the segments' files compute, and how often; constants once, for each segment may have a copy of its own."""
    made = model._resident.made
    whole = computed(made.source.model)
    constants = {whole[index] for index in made.source.constants}
    found = [
        each
        for file in made.sharded.files
        for each in computed(onnx.load(file.path, load_external_data=False))
    ]
    return Counter([*(each for each in found if each not in constants), *constants.intersection(found)])


PAIRS = {("angle", "two"): TWO, ("recogniser", "three"): THREE}
"""Each real model, and each number of browsers; ``make chaos`` has the other two pairs, too."""
if os.environ.get("BROWSERPOOL_CHAOS") == "full":
    PAIRS |= {("angle", "three"): THREE, ("recogniser", "two"): TWO}


@pytest.mark.parametrize(
    ("name", "browsers"),
    [(name, browsers) for (name, _), browsers in PAIRS.items()],
    ids=map("-".join, PAIRS),
)
def test_a_real_model_over_browsers_is_the_whole(bench, name, browsers):
    source, shapes = REAL[name]
    inputs = noise(shapes, len(browsers))
    whole = bench.load(source, "chromium")
    expected = whole(inputs)
    model = sharded(bench, source, browsers, input_shapes=shapes)
    outputs = model(inputs)
    assert sorted(shard.browser.name for shard in model.shards) == sorted(browsers)
    assert [shard.calls for shard in model.shards] == [1] * len(browsers)
    nodes = [shard.placement["wasm"] for shard in model.shards]
    assert min(nodes) > 0  # how many each gets goes by the speed that it showed
    # none is missing; more there may be: two nodes that the whole fuses stay two with a cut between them
    assert sum(nodes) >= whole.placement["wasm"]
    assert parts_of(model) == Counter(computed(onnx.load(model.path, load_external_data=False)))
    close(outputs, expected)
    assert_close(outputs, native(model.path, inputs), model, inputs=inputs)
    segments = {r["sha256"] for r in bench.rows("models") if ", segment " in r["label"]}
    mine = [r for r in bench.rows("operations_log") if r["nodeid"] == bench.node.test.nodeid]
    loads = [r for r in mine if r["kind"] == "load" and r["model"] in segments]
    assert {r["browser"] for r in loads} == set(browsers)  # the shards' loads are on the record


def test_shards_keep_open_dimensions(bench):
    """The shape that costs were estimated at is no shape of the shards."""
    source, shapes = REAL["recogniser"]
    model = sharded(bench, source, TWO, input_shapes=shapes)
    for width in (80, 240):
        inputs = noise({"x": (1, 3, 48, width)}, width)
        close(model(inputs), native(model.path, inputs))


def test_skips_over_cuts_two_inputs_three_outputs(bench):
    proto = two_in_three_out()
    inputs = noise({"a": (3, 16), "b": (3, 16)})
    model = sharded(bench, proto, THREE, input_shapes={"a": (3, 16), "b": (3, 16)})
    outputs = model(inputs)
    close(outputs, native(proto, inputs))
    files = model._resident.made.sharded.files
    assert {"a", "a1"} <= set(files[2].inputs)  # over the browser in the middle
    assert "a1" in files[0].outputs


@pytest.mark.parametrize("sign", [1, -1])  # either branch
def test_control_flow_stays_whole(bench, sign):
    proto = control_flow()
    inputs = {"x": sign * np.abs(noise({"x": (4, 8)})["x"])}
    model = sharded(bench, proto, TWO)
    close(model(inputs), native(proto, inputs))


@pytest.mark.parametrize("strategy", ["attention_feedforward", "auto"])
def test_other_strategies(bench, strategy):
    """A shard of several segments is asked several times for one request."""
    source, shapes = REAL["minilm"]
    inputs = {name: np.ones(dims, np.int64) for name, dims in shapes.items()}
    inputs["input_ids"] = np.arange(1000, 1012).reshape(1, 12)
    model = sharded(bench, source, TWO, sharding=strategy, input_shapes=shapes)
    close(model(inputs), native(model.path, inputs))
    if strategy == "attention_feedforward":
        assert sum(shard.segments for shard in model.shards) > 2
        assert [shard.calls for shard in model.shards] == [shard.segments for shard in model.shards]


def test_several_browsers_of_one_kind(bench):
    source, shapes = REAL["angle"]
    inputs = noise(shapes)
    model = sharded(bench, source, ("chromium",), shards=3, input_shapes=shapes)
    close(model(inputs), native(model.path, inputs))
    assert len({shard.instance for shard in model.shards}) == 3
    assert bench.node.pool.settings.max_browsers == 3 >= len(bench.node.pool.instances)


def test_the_second_test_finds_the_shards_warm(bench):
    source, shapes = REAL["angle"]
    first = sharded(bench, source, TWO, input_shapes=shapes)
    first(noise(shapes))
    bench.node.end_test()
    bench.node.begin_test("the next")
    launches, loads = bench.node.pool.launches, bench.node.pool.loads
    again = sharded(bench, source, TWO, input_shapes=shapes)
    again(noise(shapes))
    assert again.warm
    assert (bench.node.pool.launches, bench.node.pool.loads) == (launches, loads)


def test_the_pages_of_shards_share_the_cores(bench, monkeypatch):
    """As onnxruntime-web itself says in each page; a whole model in the same browser has a page with its own number."""
    source, shapes = REAL["angle"]
    whole = bench.load(source, "chromium")
    alone = bench.page_of(whole)
    assert asked(bench, alone) == of_whole(bench.node.cores)
    for cores, threads in ((2, 1), (4, 2)):
        monkeypatch.setattr(bench.node, "cores", cores)
        model = sharded(bench, source, TWO, input_shapes=shapes)
        outputs = model(noise(shapes))
        assert [shard.threads for shard in model.shards] == [threads, threads]
        pages = {loaded.instance.name: loaded.page for loaded in model._resident.everywhere}
        assert {name: asked(bench, page) for name, page in pages.items()} == dict.fromkeys(TWO, threads)
        assert (pages["chromium"] is alone) == (threads == alone.threads)
        close(outputs, native(model.path, noise(shapes)))
    close(whole(noise(shapes)), native(model.path, noise(shapes)))


def asked(bench: Any, page: Any) -> int:
    """The page's ``ort.env.wasm.numThreads``: one that is configured only tells."""
    args = {"bundle": "all", "threads": 99, "anchor": ""}
    reply = bench.node.call(lambda: page.call("configure", args, timeout=10, where="test"), 20)
    return int(reply.values["threads"])


@pytest.mark.slow
def test_shards_on_a_gpu_a_neural_network_api_and_wasm(bench, monkeypatch):
    """Each on its own backend by onnxruntime's placement, and together the whole. With equal speeds, so that each part is
    worth the name: what earlier runs on this machine showed may leave WebGPU a single node (test_sharded_recut.py)."""
    monkeypatch.setattr(speeds, "speed", lambda *asked: 1.0)
    source, shapes = REAL["angle"]
    backends = {"chromium": ("webgpu",), "firefox": ("wasm",), "headless-shell": ("webnn",)}
    model = sharded(
        bench, source, THREE, backends=(), shard_backends=backends, input_shapes=shapes, timeout=120.0
    )
    assert {shard.browser.name: (shard.backend,) for shard in model.shards} == backends
    for shard in model.shards:
        assert shard.placement[shard.backend] > sum(shard.placement.values()) / 2
    for seed in range(3):
        expected = native(model.path, noise(shapes, seed))
        for name, value in model(noise(shapes, seed)).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="the shards on WebNN were made for"):
        model(noise({"x": (2, 3, 48, 192)}))
    assert set(model.backend.split("+")) == {"webgpu", "wasm", "webnn"}


# -- many requests -----------------------------------------------------------------------------------------------------


def test_many_requests_are_under_way_at_once_and_come_back_in_order(bench):
    source, shapes = REAL["angle"]
    model = sharded(bench, source, TWO, input_shapes=shapes)
    taken = 0
    again = {name: np.zeros(dims, np.float32) for name, dims in shapes.items()}

    def requests() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for seed in range(12):
            taken += 1
            for name, array in noise(shapes, seed).items():
                again[name][:] = (
                    array  # one array for all requests: what is under way must not change with it
                )
            yield again

    answers = model.run_many(requests(), in_flight=3)
    first = next(answers)
    assert taken == 3  # back-pressure: no more is read than is under way
    for seed, outputs in enumerate([first, *answers]):
        close(outputs, native(model.path, noise(shapes, seed)))
    assert all(shard.calls == 12 for shard in model.shards)


def test_a_caller_that_stops_early_costs_no_page(bench):
    source, shapes = REAL["angle"]
    model = sharded(bench, source, TWO, input_shapes=shapes)
    answers = model.run_many([noise(shapes)] * 20, in_flight=4)
    next(answers)
    answers.close()
    launches = bench.node.pool.launches
    close(model(noise(shapes)), native(model.path, noise(shapes)))
    assert bench.node.pool.launches == launches
    assert model.recoveries == 0


def test_a_bad_request_among_many_fails_alone(bench):
    source, shapes = REAL["angle"]
    model = sharded(bench, source, TWO, input_shapes=shapes)
    answers = model.run_many([noise(shapes), noise(shapes), {"y": np.zeros(1, np.float32)}])
    for _ in range(2):  # given before the bad one, so they come, though all are read ahead
        close(next(answers), native(model.path, noise(shapes)))
    with pytest.raises(InputError, match="no input 'y'"):
        next(answers)

    def ends() -> Iterator[dict[str, Any]]:
        yield noise(shapes)
        raise LookupError("the file ended")

    answers = model.run_many(ends(), in_flight=3)
    close(next(answers), native(model.path, noise(shapes)))
    with pytest.raises(LookupError, match="the file ended"):
        next(answers)
    for wrong in (0, 1.5, "2"):
        with pytest.raises(InputError, match=f"in_flight is {wrong!r}"):
            model.run_many([], in_flight=wrong)  # said at once, not when the first output is taken
    close(model(noise(shapes)), native(model.path, noise(shapes)))


def test_where_the_time_went_is_on_the_record(bench):
    source, shapes = REAL["recogniser"]
    model = sharded(bench, source, TWO, input_shapes=shapes)
    model(noise(shapes))
    before = [shard.compute_ms + shard.transfer_ms + shard.idle_ms for shard in model.shards]
    list(model.run_many([noise(shapes)] * 4))
    spent = [
        shard.compute_ms + shard.transfer_ms + shard.idle_ms - b
        for shard, b in zip(model.shards, before, strict=True)
    ]
    assert spent[0] == pytest.approx(spent[1], rel=0.05)  # all of the time that requests were under way
    assert all(shard.compute_ms > 0 and shard.bytes_in > 0 and shard.bytes_out > 0 for shard in model.shards)
    bench.node.end_test()
    rows = [row for row in bench.rows("metrics") if row["name"].startswith("shard_")]
    named = {row["name"] for row in rows[-8:]}
    assert named == {"shard_compute_ms", "shard_transfer_ms", "shard_idle_ms", "shard_threads"}
    threads = [row["value"] for row in rows if row["name"] == "shard_threads"]
    assert threads[-2:] == [shard.threads for shard in model.shards]
    bench.node.begin_test("after")


# -- faults ------------------------------------------------------------------------------------------------------------


def kill(model: ShardedModel, number: int) -> Any:
    """The page of that shard, whose browser is killed."""
    loaded = next(iter(model._resident.lanes[number].sessions.values()))
    os.kill(loaded.instance.process.pid, signal.SIGKILL)
    return loaded.page


def lost(page: Any) -> None:
    """Waits until the pool knows: the renderer of a killed browser may answer for some milliseconds more."""
    until = time.monotonic() + 10
    while page.lost is None and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.parametrize(("level", "number"), [("low", 0), ("medium", 1), ("high", 0)])
def test_a_shard_killed_between_requests_comes_back(bench, level, number):
    source, shapes = REAL["angle"]
    model = sharded(bench, source, TWO, input_shapes=shapes, fault_tolerance=level)
    expected = model(noise(shapes))
    lost(kill(model, number))
    outputs = model(noise(shapes))
    close(outputs, expected)
    assert model.recoveries == 1
    assert bench.rows("faults")[-1]["strategy"] == f"shards, {level}"
    close(model(noise(shapes, 2)), native(model.path, noise(shapes, 2)))
    runs = [(row["attempts"], row["warm"]) for row in bench.rows("operations_log") if row["kind"] == "run"]
    assert runs[-2:] == [(2, False), (1, True)], "what a recovery takes is no warm call's"


def test_a_browser_killed_while_the_copies_are_made_costs_neither_copy_nor_answer(bench, monkeypatch):
    source, shapes = REAL["angle"]
    killed: list[int] = []
    copied = Lanes._copied

    async def disturbed(lanes: Lanes, lane: Lane, seat: Seat) -> dict[int, Loaded]:
        if not killed and seat == lanes.all[0].seat:
            killed.append(next(iter(lanes.all[0].sessions.values())).instance.process.pid)
            os.kill(
                killed[0], signal.SIGKILL
            )  # the pool has no turn of the loop to hear of it before it loads there
        return await copied(lanes, lane, seat)

    monkeypatch.setattr(Lanes, "_copied", disturbed)
    model = sharded(bench, source, TWO, input_shapes=shapes, fault_tolerance="high")
    assert len(killed) == 1
    assert all(lane.copies for lane in model._resident.lanes)
    assert model.recoveries == 1
    fault = bench.rows("faults")[-1]
    assert fault["outcome"] == "recovered"
    assert "make copy" in fault["attempts"]
    outputs = model(noise(shapes))
    close(outputs, native(model.path, noise(shapes)))


@pytest.mark.parametrize(("level", "number"), [("low", 1), ("medium", 0), ("high", 1)])
def test_a_shard_killed_among_many_requests_costs_no_answer(bench, level, number):
    source, shapes = REAL["recogniser"]
    model = sharded(bench, source, TWO, input_shapes=shapes, fault_tolerance=level)
    expected = [model(noise(shapes, seed)) for seed in range(3)]
    answers = model.run_many((noise(shapes, i % 3) for i in range(9)), in_flight=4)
    got = [next(answers), next(answers)]
    kill(model, number)
    got += list(answers)
    assert len(got) == 9
    for i, outputs in enumerate(got):
        close(outputs, expected[i % 3])
    assert model.recoveries >= 1


def test_tokens_are_the_same_whichever_shard_dies_at_whichever_step(bench, tmp_path):
    """With the cache in the browsers: a lost shard's part comes back from its checkpoint and the steps since. All 48 kills
    of 3 shards at 16 steps: benchmarks/sharding_recovery.py; every order of losses: tests/node/test_sharded_state.py."""
    path = tmp_path / "small.onnx"
    build(SMALL, small_weights, path)
    shapes = {
        "input_ids": (1, 1),
        "attention_mask": (1, 9),
        SMALL.past[0]: (1, SMALL.kv_heads, 8, SMALL.head_size),
    }
    prompt, count = [3, 1, 4, 1, 5], 12
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]

    def whole(inputs: Any) -> dict[str, Any]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    model = sharded(bench, path, THREE, input_shapes=shapes, recovery="coordinated")
    kept = model.session(cache_links(SMALL), initial=empty_cache(SMALL), checkpoint_every=4)

    def disturbed(inputs: Any) -> dict[str, Any]:
        if kept.step in (2, 5, 8):
            lost(kill(model, (2, 5, 8).index(kept.step)))
        outputs = kept(inputs)
        assert list(outputs) == [LOGITS]
        return outputs

    expected = greedy(whole, SMALL, prompt, count)
    assert greedy(model, SMALL, prompt, count) == expected  # the cache goes along with each call
    assert greedy_session(kept, prompt, count) == expected
    state = kept.state()
    kept.reset()
    assert greedy_session(disturbed, prompt, count) == expected
    assert model.recoveries == 3
    assert kept.replayed > 0
    for name, array in kept.state().items():
        assert array.tobytes() == state[name].tobytes()
    pages = [loaded.page for loaded in model._resident.everywhere]
    kept.close()
    assert bench.node.call(lambda: left(pages), 20) == [0, 0, 0]


async def left(pages: list[Any]) -> list[int]:
    """States that the pages still hold: a state that is not there is dropped, and the page says how many there are."""
    replies = [await page.call("state_drop", {"state": "none"}, timeout=10, where="test") for page in pages]
    return [int(reply.values["states"]) for reply in replies]


@pytest.mark.parametrize("needs", [{"fault_tolerance": "none"}, {"recovery": "none"}], ids=str)
def test_level_none_fails_and_gives_no_partial_answer(bench, needs):
    source, shapes = REAL["angle"]
    model = sharded(bench, source, TWO, input_shapes=shapes, **needs)
    model(noise(shapes))
    lost(kill(model, 1))
    with pytest.raises(Fault):
        model(noise(shapes))
    assert model.recoveries == 0
