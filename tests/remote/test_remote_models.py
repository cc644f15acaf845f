"""Real browsers on other hosts, whose caches are empty: models and onnxruntime-web reach them over the link."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from artefact_support import other_runtime
from model_support import SILERO, example, scaling
from remote_support import Network, Run
from test_nodes import outcomes

from pytest_browserpool.artefacts import pins, runtime
from pytest_browserpool.artefacts.cache import Cache, cache_root

pytestmark = pytest.mark.browser

SUITE = f"""
import pathlib, socket
import numpy as np
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


OWN = """
import numpy as np
import pytest
from pytest_browserpool.worker import node_for

@pytest.mark.model("models/scale.onnx", backends=["wasm"])
def test_on_it(model, request):
    assert model({"x": np.array([[1, 2, 3]], np.float32)})["y"].tolist() == [[3, 6, 9]]
    node = node_for(request.node)
    assert [p.runtime for i in node.pool.instances for p in i.pages.values()] == ["onnxruntime-web 1.29.0 (wasm)"]
"""
HOOK = """
import pathlib

def pytest_browserpool_runtime(settings):
    return "ort" if (pathlib.Path(settings.rootdir) / "ort").exists() else None
"""


def test_a_build_of_ones_own_reaches_hosts_that_have_nothing(
    hosts: Network, run: Run, suite: Callable[..., None]
) -> None:
    suite(test_own=OWN, conftest=HOOK)
    (run.directory / "models").mkdir()
    onnx.save(scaling(3.0), str(run.directory / "models" / "scale.onnx"))
    (run.directory / "ort").symlink_to(other_runtime())
    found = runtime.examine(other_runtime(), "")
    run.start(hosts.tx("alpha", "browsers=chromium"), "test_own.py", environment=hosts.own_cache)
    assert run.end() == 0, run.output
    assert outcomes(run) == {"passed": 1}, run.output
    arrived = pins.directory_of(runtime.pin_of(found), Cache(hosts.hosts["alpha"].cache))
    assert runtime.examine(arrived, "").sha256 == found.sha256
    assert not (hosts.hosts["alpha"].suite / "ort").exists()


KEYED = """
import pathlib, socket, time
import numpy as np
import pytest

LOG = pathlib.Path({log!r})

def say(word, i):
    with LOG.open("a") as file:
        file.write(f"{{time.time():.3f}} {{word}} {{socket.gethostname()}} {{i}}\\n")

@pytest.mark.model("models/scale.onnx", browsers=["chromium"], backends=["wasm"], concurrency_key="licence")
@pytest.mark.parametrize("i", range(4))
def test_keyed(model, i):
    say("begin", i)
    assert model({{"x": np.array([[1, 2, 3]], np.float32)}})["y"].tolist() == [[3, 6, 9]]
    deadline = time.monotonic() + 120
    while LOG.with_name("hold").exists():
        assert time.monotonic() < deadline
        say("holds", i)
        time.sleep(0.1)
    say("end", i)
"""


def test_a_key_is_held_by_one_host_at_a_time_even_when_its_holder_is_cut_off(
    hosts: Network, run: Run, suite: Callable[..., None], tmp_path: Path
) -> None:
    log, hold = tmp_path / "log", tmp_path / "hold"
    hold.touch()
    ini = "browserpool_connect_timeout = 8\nbrowserpool_heartbeat_timeout = 10\n"
    suite(ini=ini, test_keyed=KEYED.format(log=str(log)))
    (run.directory / "models").mkdir()
    onnx.save(scaling(3.0), str(run.directory / "models" / "scale.onnx"))
    cache = f"env:BROWSERPOOL_CACHE={cache_root()}"
    nodes = [hosts.tx(name, cache, "browsers=chromium") for name in ("alpha", "beta")]
    run.start(*nodes, "-v", "test_keyed.py", environment=hosts.own_cache)
    holder = wait_for_lines(run, log, 2)[1][2]
    hosts.cut(holder)
    wait_for_lines(run, log, 1, lambda line: line[2] != holder)
    hold.unlink()
    assert run.end() == 0, run.output
    assert outcomes(run) == {"passed": 4}, run.output
    lines = [line.split() for line in log.read_text().splitlines()]
    there = [float(at) for at, _, host, _ in lines if host == holder]
    elsewhere = [float(at) for at, _, host, _ in lines if host != holder]
    assert max(there) < min(elsewhere), "the cut-off host still held the key when another took it"
    assert sorted(i for _, word, _, i in lines if word == "end") == ["0", "1", "2", "3"]
    assert "was lost while it ran" in run.output


def wait_for_lines(
    run: Run, path: Path, count: int, wanted: Callable[[list[str]], bool] = lambda line: True
) -> list[list[str]]:
    """The first ``count`` lines of ``path`` that are ``wanted``, in words, as soon as it has them."""
    deadline = time.monotonic() + 120
    while True:
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        found = [line for line in lines if len(line) == 4 and wanted(line)]
        if len(found) >= count:
            return found
        assert run.process is not None
        assert run.process.poll() is None, run.output
        assert time.monotonic() < deadline, run.output
        time.sleep(0.05)
