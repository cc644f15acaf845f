"""Shards of one model over browsers of two hosts, which share nothing: the pieces reach the other one over both links."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper
from remote_support import Network, Run
from sharding_graphs import model, tensor, weights
from test_nodes import outcomes

pytestmark = pytest.mark.browser

CONFTEST = """
import socket
from pytest_browserpool import machine

machine.identity = socket.gethostname  # hosts here have one kernel and one file system; elsewhere each has its own
"""

SUITE = """
import pathlib, socket
import numpy as np
import pytest

@pytest.mark.model("models/products.onnx", shards=3, backends=["wasm"], fault_tolerance="low")
def test_over_two_hosts(model):
    x = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    (found,) = model({"x": x}).values()
    expected = x
    for _ in range(6):
        expected = np.tanh(expected @ np.load(pathlib.Path(__file__).parent / "w.npy"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    home = [shard for shard in model.shards if shard.node == model._node.node_id]
    (away,) = [shard for shard in model.shards if shard not in home]
    assert len(home) == 2
    files = [f.path for f in model._resident.made.sharded.files if f.shard == model.shards.index(away)]
    (pathlib.Path(__file__).parent / "away.txt").write_text("\\n".join([socket.gethostname(), *files]))
"""


def test_a_lent_browser_on_another_host(hosts: Network, run: Run, suite: Callable[..., None]) -> None:
    kept = weights("w", 64, 64)
    np.save(run.directory / "w.npy", onnx.numpy_helper.to_array(kept))
    suite(test_shards=SUITE, conftest=CONFTEST)
    (run.directory / "models").mkdir()
    nodes, last = [], "x"
    for number in range(6):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"m{number}"]))
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [last := f"e{number}"]))
    size = [64, 64]
    graph = helper.make_graph(nodes, "products", [tensor("x", size)], [tensor(last, size)], [kept])
    onnx.save(model(graph), str(run.directory / "models" / "products.onnx"))
    run.start(
        *(hosts.tx(name, "browsers=chromium") for name in ("alpha", "beta")),
        "--browserpool-max-browsers=2",
        "--browserpool-shards-over=nodes",
        "test_shards.py",
        environment=hosts.own_cache,
    )
    assert run.end() == 0, run.output
    assert outcomes(run) == {"passed": 1}, run.output
    (told,) = [p for name in ("alpha", "beta") if (p := hosts.hosts[name].suite / "away.txt").exists()]
    home, *files = told.read_text().splitlines()
    other = hosts.hosts["beta" if home == "alpha" else "alpha"]
    assert files
    for path in files:  # the piece came by its hash, over both links
        assert path.startswith(str(hosts.hosts[home].cache))
        with open(path, "rb") as file:
            sent = hashlib.sha256(file.read()).hexdigest()
        assert (other.cache / "models" / sent).is_file()
    assert not (other.cache / "shards").exists()
