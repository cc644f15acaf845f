"""Shards of one model over browsers of two nodes, in runs as a user has them: equal to the whole, whatever is killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from acceptance_support import Runner
from leftovers import assert_nothing_left, short_directory
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.browser

NODES = (
    "-n",
    "2",
    "--browserpool-max-browsers=2",
    "--browserpool-browsers=chromium",
    "--browserpool-shards-over=nodes",
)

CONFTEST = """
    import os, pathlib

    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        (pathlib.Path(__file__).parent / f"pid-{worker}").write_text(str(os.getpid()))
"""

HELP = """
    import contextlib, os, pathlib, signal, time
    import numpy as np
    import psutil
    import pytest
    from pytest_browserpool.browsers.processes import marked
    from pytest_browserpool.errors import Fault

    HERE = pathlib.Path(__file__).parent
    X = {"x": np.linspace(-1, 1, 8 * 64, dtype=np.float32).reshape(8, 64)}
    STATE = {"x": np.ones((1, 4), np.float32)}
    wasm = {"browsers": ["chromium"], "backends": ["wasm"]}

    def guest(model):
        home = os.environ["PYTEST_XDIST_WORKER"]
        away = [shard for shard in model.shards if shard.node != home]
        assert away and len(away) < len(model.shards), [shard.node for shard in model.shards]
        return away[0]

    def same(one, other):
        return list(one) == list(other) and all((one[name] == other[name]).all() for name in one)

    def kill_browser(shard):
        token = shard.instance
        victims = marked(token)
        assert victims
        for process in victims:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(victims, timeout=20)

    def kill_node(name):
        process = psutil.Process(int((HERE / f"pid-{name}").read_text()))
        process.kill()
        deadline = time.monotonic() + 20
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
"""


def chain(folder: Path) -> None:
    """Six products, each with ``Tanh``: no two nodes fuse, so a cut changes no bit. And a sum that is carried on."""
    generator = np.random.default_rng(3)
    nodes, weights, last = [], [], "x"
    for number in range(6):
        weight = (generator.standard_normal((64, 64)) / 8).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        last = f"e{number}"
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [last]))
    save(folder / "chain.onnx", nodes, ["x"], [last], [8, 64], weights)
    nodes, ins, outs = [], ["x"], []
    for number in range(3):
        ins.append(f"in{number}")
        outs.append(f"out{number}")
        before = "x" if number == 0 else f"t{number - 1}"
        nodes.append(helper.make_node("Add", [before, f"in{number}"], [f"out{number}"]))
        nodes.append(helper.make_node("Tanh", [f"out{number}"], [f"t{number}"]))
    save(folder / "sums.onnx", nodes, ins, ["t2", *outs], [1, 4], [])


def save(path: Path, nodes: list, ins: list, outs: list, size: list, weights: list) -> None:
    def tensors(names):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name in names]

    graph = helper.make_graph(nodes, path.stem, tensors(ins), tensors(outs), weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def over(run: Runner, monkeypatch: pytest.MonkeyPatch):
    """Writes modules; the run's temporary files lie where nothing may be left."""
    chain(run.pytester.path)
    with short_directory() as tmpdir:
        monkeypatch.setenv("TMPDIR", str(tmpdir))

        def write(**modules: str) -> None:
            run.suite(conftest=CONFTEST, **{name: HELP + text for name, text in modules.items()})

        yield write
        assert_nothing_left(tmpdir)


# one test after the other: their sessions stay warm on one node, and none waits on a node that another one kills
SUITE = """
    three = {"shards": 3, "concurrency_key": "nodes", **wasm}

    @pytest.mark.model("chain.onnx", priority=1, **three)
    def test_the_bits_of_the_whole(model, browser_pool):
        whole = browser_pool.load("chain.onnx", shards=1, **wasm)
        expected = whole(X)
        assert same(model(X), expected)
        many = [{"x": X["x"] * number} for number in range(6)]
        assert all(same(got, whole(given)) for got, given in zip(model.run_many(many), many, strict=True))
        assert guest(model).calls == 7
        assert f"@{guest(model).node}" in model.plan

    @pytest.mark.model("chain.onnx", priority=2, fault_tolerance="none", **three)
    def test_a_lost_guest_is_told(model):
        model(X)
        kill_browser(guest(model))
        with pytest.raises(Fault):
            model(X)

    @pytest.mark.model("chain.onnx", priority=3, fault_tolerance="low", **three)
    def test_a_lost_guest_comes_back(model):
        expected = model(X)
        kill_browser(guest(model))
        assert same(model(X), expected)
        assert model.recoveries == 1

    @pytest.mark.model("sums.onnx", priority=3, input_shapes={"x": (1, 4)}, **three)
    def test_state_stays_with_a_guest(model, browser_pool):
        links = {f"out{n}": f"in{n}" for n in range(3)}
        whole = browser_pool.load("sums.onnx", shards=1, **wasm)
        with whole.session(links) as plain:
            expected = [plain(STATE) for _ in range(6)]
        with model.session(links, checkpoint_every=2) as session:
            found = [session(STATE) for _ in range(3)]
            kill_browser(guest(model))
            found += [session(STATE) for _ in range(3)]
        assert all(same(one, other) for one, other in zip(found, expected, strict=True))

    @pytest.mark.model("chain.onnx", priority=4, fault_tolerance="low", **three)
    def test_a_lost_node(model):
        expected = model(X)
        node = guest(model).node
        kill_node(node)
        assert same(model(X), expected)
        assert guest(model).node != node

    @pytest.mark.model("chain.onnx", priority=5, **three)
    def test_the_home_is_lost_once(model):
        model(X)
        assert guest(model)
        flag = HERE / "lost"
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_over_two_nodes(run: Runner, over) -> None:
    """Equal to the whole; a lost browser, node and home; and a node whose visitor is lost lends again."""
    over(test_shards=SUITE)
    done = run(*NODES, reports=False)
    assert done.terminal == {"passed": 6}, done.output


def test_it_is_not_done_unasked(run: Runner, over) -> None:
    over(
        test_alone="""
    @pytest.mark.model("chain.onnx", shards=3, **wasm)
    def test_alone(model): ...
    """
    )
    done = run("-n", "1", "--browserpool-max-browsers=2", reports=False)
    assert "needs 3 browsers at once, and this node may run 2" in done.output
    assert "or --browserpool-shards-over=nodes" in done.output
