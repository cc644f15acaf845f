"""What travels between controller and node, without a network between: hashes, pieces, back-pressure, damage."""

from __future__ import annotations

import hashlib
import queue
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_support import scaling
from onnx import TensorProto, helper, numpy_helper

from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.errors import DeadlineExceeded, HashMismatch, InvalidModel, SourceError
from pytest_browserpool.models import shipping, sources
from pytest_browserpool.models.lock import LockFile
from pytest_browserpool.models.shipping import Depot, Elsewhere, Message, Supplier


class Wire:
    """A link between a depot and a supplier, in order, with a thread for each direction, as execnet's is.

    ``spoil`` may change or drop (None) what goes to the node.
    """

    def __init__(self, here: Path, there: Path, cache: Path) -> None:
        self.depot = Depot(here)
        self.supplier = Supplier(self._to_controller, there, Cache(cache))
        self.elsewhere = Elsewhere(self.supplier, there)
        self.spoil: Callable[[Message], Message | None] = lambda message: message
        self.in_flight = self.most_in_flight = self.pieces = 0
        self._lock = threading.Lock()
        self._down: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def _to_controller(self, message: Message) -> None:
        if message["kind"] == "ack":
            with self._lock:
                self.in_flight -= 1
        self.depot.hear("gw0", message, self._to_node)

    def _to_node(self, message: Message) -> None:
        if message["kind"] == "piece":
            with self._lock:
                self.in_flight += 1
                self.pieces += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._down.put(message)

    def _deliver(self) -> None:
        while (message := self._down.get()) is not None:
            told = self.spoil(message)
            if told is not None:
                self.supplier.deliver(told)

    def close(self) -> None:
        self._down.put(None)
        self._thread.join(10)


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setenv("BROWSERPOOL_CACHE", str(tmp_path / "controller-cache"))
    (tmp_path / "here" / "tests").mkdir(parents=True)
    (tmp_path / "there" / "tests").mkdir(parents=True)
    made = Wire(tmp_path / "here", tmp_path / "there", tmp_path / "node-cache")
    yield made
    made.close()


def resolved(wire: Wire, tmp_path: Path, source: Any) -> sources.ModelFile:
    """``source`` as a test in ``tests/test_x.py`` of the node names it, resolved as the node does."""
    there = tmp_path / "there"
    cache = Cache(tmp_path / "node-cache")
    lock = LockFile(there / "browserpool.lock", cache=cache)
    sources.ask(wire.elsewhere)
    try:
        return sources.resolve(
            source, test_file=there / "tests" / "test_x.py", rootdir=there, lock=lock, cache=cache
        )
    finally:
        sources.ask(None)


def save(model: onnx.ModelProto, path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    data: bytes = model.SerializeToString()
    path.write_bytes(data)
    return data


@pytest.mark.parametrize("place", ["models/m.onnx", "tests/models/m.onnx"], ids=["root", "beside the test"])
def test_a_path_that_only_the_controller_has(wire: Wire, tmp_path: Path, place: str) -> None:
    data = save(scaling(3.0), tmp_path / "here" / place)
    found = resolved(wire, tmp_path, "models/m.onnx")
    assert found.path == tmp_path / "node-cache" / "models" / hashlib.sha256(data).hexdigest()
    assert found.path.read_bytes() == data
    assert (found.size, found.label, found.external) == (len(data), "models/m.onnx", ())
    sent = wire.depot.sent_bytes
    assert sent == len(data)
    assert resolved(wire, tmp_path, Path("models/m.onnx")).sha256 == found.sha256
    assert wire.depot.sent_bytes == sent  # the second time it is there


def test_an_absolute_path_inside_the_nodes_copy_means_the_controllers_file(
    wire: Wire, tmp_path: Path
) -> None:
    data = save(scaling(3.0), tmp_path / "here" / "models" / "m.onnx")
    found = resolved(wire, tmp_path, tmp_path / "there" / "models" / "m.onnx")
    assert found.path.read_bytes() == data


def test_the_same_file_on_both_sides_is_used_where_it_is(wire: Wire, tmp_path: Path) -> None:
    for side in ("here", "there"):
        save(scaling(3.0), tmp_path / side / "m.onnx")
    assert resolved(wire, tmp_path, "m.onnx").path == tmp_path / "there" / "m.onnx"
    assert wire.depot.sent_bytes == 0


def test_another_file_on_the_node_gives_way_with_a_warning(wire: Wire, tmp_path: Path) -> None:
    data = save(scaling(3.0), tmp_path / "here" / "m.onnx")
    save(scaling(4.0), tmp_path / "there" / "m.onnx")
    with pytest.warns(UserWarning, match="is not the controller's, whose model is used"):
        assert resolved(wire, tmp_path, "m.onnx").path.read_bytes() == data


def test_what_only_the_node_has_is_used(wire: Wire, tmp_path: Path) -> None:
    save(scaling(4.0), tmp_path / "there" / "m.onnx")
    save(scaling(5.0), tmp_path / "made-by-a-test.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolved(wire, tmp_path, "m.onnx").path == tmp_path / "there" / "m.onnx"
        outside = tmp_path / "made-by-a-test.onnx"
        assert resolved(wire, tmp_path, outside).path == outside


def test_a_large_model_with_external_data_comes_whole_and_never_far_ahead(wire: Wire, tmp_path: Path) -> None:
    values = np.random.default_rng(7).standard_normal(3_000_001).astype(np.float32)
    weights = numpy_helper.from_array(values, "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    here = tmp_path / "here" / "m.onnx"
    onnx.save(model, str(here), save_as_external_data=True, location="weights.bin")
    found = resolved(wire, tmp_path, "m.onnx")
    ((name, data),) = found.external
    assert name == "weights.bin"
    assert data.read_bytes() == (here.parent / "weights.bin").read_bytes()
    local = sources.resolve(
        "m.onnx", test_file=None, rootdir=here.parent, lock=LockFile(here.parent / "lock")
    )
    assert found.sha256 == local.sha256
    assert wire.pieces > 40
    assert wire.most_in_flight <= shipping.AHEAD


def test_a_damaged_piece_is_found_and_nothing_is_kept(wire: Wire, tmp_path: Path) -> None:
    save(scaling(3.0), tmp_path / "here" / "m.onnx")

    def flip(message: Message) -> Message:
        if message["kind"] != "piece":
            return message
        data = bytearray(message["data"])
        data[len(data) // 2] ^= 1
        return message | {"data": bytes(data)}

    wire.spoil = flip
    with pytest.raises(HashMismatch):
        resolved(wire, tmp_path, "m.onnx")
    assert Cache(tmp_path / "node-cache").models() == frozenset()
    wire.spoil = lambda message: message
    assert resolved(wire, tmp_path, "m.onnx").size > 0


def test_a_link_that_goes_silent_ends_in_time(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "PIECE_SECONDS", 0.5)
    save(scaling(3.0), tmp_path / "here" / "m.onnx")
    wire.spoil = lambda message: None if message["kind"] == "piece" else message
    with pytest.raises(DeadlineExceeded, match="the controller is out of reach"):
        resolved(wire, tmp_path, "m.onnx")


def test_the_controllers_errors_arrive_as_they_are(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "here" / "text.onnx").write_text("no model")
    save(scaling(3.0), tmp_path / "here" / "m.onnx")
    with pytest.raises(SourceError, match=r"absent\.onnx' is not there"):
        resolved(wire, tmp_path, "absent.onnx")
    with pytest.raises(InvalidModel, match="on the controller"):
        resolved(wire, tmp_path, "text.onnx")
    with pytest.raises(HashMismatch):
        resolved(wire, tmp_path, f"m.onnx#sha256={'0' * 64}")


def test_only_what_a_source_led_to_is_sent(wire: Wire, tmp_path: Path) -> None:
    secret = tmp_path / "here" / "secret.txt"
    secret.write_text("secret")
    with pytest.raises(InvalidModel, match="on the controller"):
        resolved(wire, tmp_path, str(secret))
    with pytest.raises(SourceError, match="cannot be sent"):
        wire.supplier.held(hashlib.sha256(b"secret").hexdigest(), 6)


def test_onnxruntime_web_arrives_as_it_is_on_the_controller(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_browserpool.artefacts import pins

    monkeypatch.delenv("BROWSERPOOL_CACHE")
    real = pins.held(pins.RUNTIME)
    if real is None:
        pytest.skip("onnxruntime-web is not installed here: browserpool install")
    there = wire.supplier.runtime()
    assert there.is_relative_to(tmp_path / "node-cache")
    assert {p.name: p.read_bytes() for p in there.iterdir()} == {
        p.name: p.read_bytes() for p in real.iterdir()
    }
    assert pins.damaged(pins.RUNTIME, Cache(tmp_path / "node-cache")) == ()
    sent = wire.depot.sent_bytes
    shutil.rmtree(there)
    wire.supplier.runtime()
    assert wire.depot.sent_bytes == 2 * sent
    wire.supplier.runtime()
    assert wire.depot.sent_bytes == 2 * sent


def test_a_build_of_the_users_is_kept_by_its_hash_and_the_pinned_one_stays(
    wire: Wire, tmp_path: Path
) -> None:
    from pytest_browserpool.artefacts import runtime

    build = tmp_path / "here" / "build"
    build.mkdir()
    for name in (*runtime.BUNDLES, "ort-wasm.wasm"):
        (build / name).write_text(f"/* ONNX Runtime Web v1.29.0 */ {name}")
    (build / "notes.txt").write_text("not for pages")
    first = runtime.examine(build, "")
    wire.depot = Depot(tmp_path / "here", first)
    (build / "ort-wasm.wasm").write_text("built again meanwhile")
    with pytest.raises(SourceError, match="has changed since the run began"):
        wire.supplier.runtime(first)
    (build / "ort-wasm.wasm").write_text("/* ONNX Runtime Web v1.29.0 */ ort-wasm.wasm")
    there = wire.supplier.runtime(first)
    assert there.is_relative_to(tmp_path / "node-cache")
    assert sorted(p.name for p in there.iterdir()) == sorted((*runtime.BUNDLES, "ort-wasm.wasm"))
    assert runtime.examine(there, "").sha256 == first.sha256
    sent = wire.depot.sent_bytes
    assert wire.supplier.runtime(first) == there
    assert wire.depot.sent_bytes == sent > 0
    (build / "ort-wasm.wasm").write_text("another")
    second = runtime.examine(build, "")
    wire.depot = Depot(tmp_path / "here", second)
    assert wire.supplier.runtime(second) != there, "both builds of one version are kept"
    assert wire.supplier.runtime(first) == there
