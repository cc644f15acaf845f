"""Real browsers on other hosts, whose caches are empty: models and onnxruntime-web reach them over the link."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from model_support import SILERO, example, scaling
from remote_support import Network, Run
from test_nodes import outcomes

pytestmark = pytest.mark.browser

SUITE = f"""
import pathlib, socket
import pytest

def scaled(model, host):
    x = np.array([[1, 2, 3]], np.float32)
    assert model({{"x": x}})["y"].tolist() == [[3, 6, 9]]
    assert socket.gethostname() == host

@pytest.mark.model("models/scale.onnx", browsers=["chromium"], backends=["wasm"])
def test_a_path_in_chromium(model):
    scaled(model, "alpha")

@pytest.mark.model("models/scale.onnx", browsers=["firefox"], backends=["wasm"])
def test_a_path_in_firefox(model):
    scaled(model, "beta")

@pytest.mark.model(pathlib.Path(__file__).parent / "models/scale.onnx", browsers=["chromium"], backends=["wasm"])
def test_an_absolute_path(model):
    scaled(model, "alpha")

@pytest.mark.model("{SILERO}", browsers=["chromium"], backends=["wasm"])
def test_a_package_without_network(model):
    out = model({{"input": np.zeros((1, 576), np.float32), "state": np.zeros((2, 1, 128), np.float32)}})
    assert out["output"].item() < 0.1

@pytest.mark.model("models/absent.onnx", browsers=["chromium"], backends=["wasm"])
def test_a_model_that_nobody_has(model): ...

@pytest.mark.model("models/text.onnx", browsers=["chromium"], backends=["wasm"])
def test_a_file_that_is_no_model(model): ...

@pytest.mark.model("models/scale.onnx#sha256={"0" * 64}", browsers=["chromium"], backends=["wasm"])
def test_a_model_that_is_not_the_pinned_one(model): ...
"""


def lock(directory: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "browserpool.lock", directory)


def test_models_and_runtime_reach_hosts_that_have_nothing(
    hosts: Network, run: Run, suite: Callable[..., None]
) -> None:
    example(SILERO)  # in this machine's cache, as it is after set-up
    suite(test_models=SUITE)
    lock(run.directory)
    models = run.directory / "models"
    models.mkdir()
    onnx.save(scaling(3.0), str(models / "scale.onnx"))
    (models / "text.onnx").write_text("not a model")
    run.start(
        hosts.tx("alpha", "browsers=chromium"),
        hosts.tx("beta", "browsers=firefox"),
        "-v",
        "test_models.py",
        environment=hosts.own_cache,
    )
    assert run.end() == 1, run.output
    assert outcomes(run) == {"passed": 4, "error": 3}, run.output
    assert "the model 'models/absent.onnx' is not there" in run.output
    assert "InvalidModel" in run.output
    assert "HashMismatch" in run.output
    sent = hashlib.sha256((models / "scale.onnx").read_bytes()).hexdigest()
    for name in ("alpha", "beta"):
        host = hosts.hosts[name]
        assert (host.cache / "models" / sent).read_bytes() == (models / "scale.onnx").read_bytes()
        assert not (host.suite / "models").exists()
    assert len(list((hosts.hosts["alpha"].cache / "models").iterdir())) == 2
