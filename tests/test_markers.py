"""The ``model`` marker: merging, validation with helpful errors, and ``on="each"``."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401  pytester forgets what a run in this process imported, and these cannot be imported twice
import numpy as np
import onnx  # noqa: F401
import pytest

from pytest_browserpool import controller, fixtures, keywords, markers, worker  # noqa: F401
from pytest_browserpool.errors import MarkerError
from pytest_browserpool.keywords import Words
from pytest_browserpool.models.references import describe
from pytest_browserpool.values import ModelNeeds

WORDS = Words(
    installed={"chromium": "chrome", "firefox": "firefox", "headless-shell": "chrome"}, custom=("kiosk",)
)


def parse(**given: Any) -> ModelNeeds:
    return markers.parse(given, where="test_x.py::test_it", words=WORDS)


def mark(*args: Any, **kwargs: Any) -> pytest.Mark:
    return pytest.mark.model(*args, **kwargs).mark


def test_defaults_are_those_of_the_contract() -> None:
    assert parse() == ModelNeeds()


def test_every_keyword_of_the_needs_has_a_validator() -> None:
    assert set(keywords.KEYWORDS) == set(ModelNeeds.__dataclass_fields__) - {"source"}


def test_all_keywords_at_once() -> None:
    needs = parse(
        type="audio",
        id="vad",
        browsers=["firefox", "chrome", "kiosk", "firefox"],
        backends=["cpu", "webnn-cpu", "webgpu"],
        on="best",
        min_memory=2,
        priority=1,
        timeout=5,
        recovery="immediate",
        fallback="cpu",
        shards=2,
        sharding="auto",
        fault_tolerance="high",
        expected_duration=1.5,
        concurrency_key=("gpu", 2),
        input_shapes={"x": [1, 3]},
        session_options={"graphOptimizationLevel": "all"},
    )
    assert needs.browsers == ("firefox", "chrome", "kiosk")
    assert needs.backends == ("wasm", "webnn", "webgpu")
    assert needs.concurrency_key == ("gpu", 2)
    assert needs.input_shapes == {"x": (1, 3)}
    assert ModelNeeds.from_plain(needs.to_plain()) == needs


def test_a_single_word_stands_for_a_list_of_one() -> None:
    assert parse(browsers="edge", backends="cpu", concurrency_key="gpu").browsers == ("edge",)
    assert parse(concurrency_key="gpu").concurrency_key == ("gpu", 1)


ENDLESS: dict[str, Any] = {}
ENDLESS["x"] = [ENDLESS]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"browsers": ["firefix"]}, "did you mean 'firefox'"),
        ({"browsers": []}, "at least one"),
        ({"browsers": [1]}, "list of names"),
        ({"backends": ["webgp"]}, "did you mean 'webgpu'"),
        ({"backends": ["cuda"]}, "webnn-npu"),
        ({"on": "all"}, "best, each"),
        ({"min_memory": 0}, "GiB"),
        ({"min_memory": "2 GiB"}, "GiB"),
        ({"priority": 0}, "from 1"),
        ({"priority": 6}, "to 5"),
        ({"priority": True}, "whole number"),
        ({"priority": 2.0}, "whole number"),
        ({"timeout": -1}, "seconds"),
        ({"timeout": float("nan")}, "seconds"),
        ({"timeout": float("inf")}, "seconds"),
        ({"recovery": "progresive"}, "did you mean 'progressive'"),
        ({"fallback": "gpu"}, "one of cpu"),
        ({"shards": 0}, "1 to 10000"),
        ({"shards": 10**30}, "1 to 10000"),
        ({"sharding": "layers"}, "layer_balanced"),
        ({"fault_tolerance": "max"}, "none, low, medium, high"),
        ({"expected_duration": "long"}, "seconds"),
        ({"concurrency_key": ("gpu", 0)}, "at once"),
        ({"concurrency_key": 3}, "word"),
        ({"input_shapes": {"x": ("n", 3)}}, "whole numbers"),
        ({"input_shapes": {"x": (-1, 3)}}, "whole numbers"),
        ({"input_shapes": {"x": (2**70, 3)}}, "whole numbers from 0 to 4294967296"),
        ({"input_shapes": [1, 3]}, "whole numbers"),
        ({"shard_backends": 3}, "for each browser"),
        ({"shard_backends": {}}, "for each browser"),
        ({"shard_backends": {"firefx": "wasm"}}, "firefox"),
        ({"shard_backends": {"firefox": "wsm"}}, "wasm"),
        ({"session_options": {"x": object()}}, "JSON"),
        ({"session_options": {"x": float("nan")}}, "JSON"),
        ({"session_options": {"x": [float("inf")]}}, "JSON"),
        ({"session_options": {"x": "\ud800"}}, "JSON"),
        ({"session_options": ENDLESS}, "JSON"),
        ({"id": "\ud800"}, "word"),
        ({"concurrency_key": "\udcff"}, "word"),
        ({"input_shapes": {"\udcff": (1,)}}, "whole numbers"),
        ({"session_options": {"executionProviders": ["wasm"]}}, "backends="),
        ({"session_options": {"logSeverityLevel": 4}}, "drop it"),
        ({"timeout": 1e12}, "at most 100000000 seconds"),
        ({"timeout": 10**400}, "at most 100000000 seconds"),
        ({"on": np.array(["best", "each"])}, "one of best, each"),
        ({"type": ""}, "word"),
        ({"id": 7}, "word"),
        ({"typ": "audio"}, "did you mean 'type'"),
    ],
)
def test_a_wrong_value_names_itself_the_place_and_the_remedy(given: dict[str, Any], words: str) -> None:
    with pytest.raises(MarkerError) as caught:
        parse(**given)
    text = str(caught.value)
    assert words in text
    assert "test_x.py::test_it" in text
    (value,) = given.values()
    inside = value[0] if isinstance(value, list) and value and isinstance(value[0], str) else value
    if "shard_backends" in given and isinstance(value, dict):
        inside = next((word for pair in value.items() for word in pair if word in ("firefx", "wsm")), value)
    if "session_options" in given and "JSON" not in words:
        (inside,) = value
    assert repr(inside) in text or "typ" in given


@pytest.mark.parametrize(
    "given",
    [
        {"on": "each", "shards": 2},
        {"fallback": "cpu", "recovery": "none"},
        {"fallback": "cpu", "backends": ["wasm"]},
        {"shard_backends": {"firefox": "wasm"}},
        {"shards": 1, "shard_backends": {"firefox": "wasm"}},
        {"sharding": "auto"},
        {"fault_tolerance": "high"},
        {"shards": 2, "backends": ["wasm"], "shard_backends": {"firefox": "wasm"}},
    ],
)
def test_contradictions_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(MarkerError):
        parse(**given)


def test_backends_of_shards_are_told_by_browser() -> None:
    needs = parse(shards=2, shard_backends={"firefox": "cpu", "chrome": ["webgpu", "wasm"]})
    assert needs.shard_backends == {"firefox": ("wasm",), "chrome": ("webgpu", "wasm")}
    assert ModelNeeds.from_plain(needs.to_plain()) == needs


def test_none_means_not_given() -> None:
    assert parse(browsers=None, shards=None, timeout=None) == ModelNeeds()


def test_the_nearest_marker_wins_keyword_by_keyword() -> None:
    merged = markers.merge(
        [
            mark("near.onnx", priority=1),
            mark(priority=2, type="audio"),
            mark("far.onnx", type="text", id="far"),
        ],
        where="x",
    )
    assert merged == {"source": "near.onnx", "priority": 1, "type": "audio", "id": "far"}


def test_two_positional_arguments_are_refused() -> None:
    with pytest.raises(MarkerError, match="one positional"):
        markers.merge([mark("a", "b")], where="x")
    with pytest.raises(MarkerError, match="one positional"):
        markers.merge([mark("a", source="b")], where="x")


# -- sources in words ----------------------------------------------------------------------------------------


def label(source: Any, root: Path) -> str | None:
    return markers.source_label(source, test_file=root / "sub" / "test_x.py", rootdir=root, where="x")


def test_a_source_that_is_no_file_name_is_left_to_who_reads_it(tmp_path: Path) -> None:
    """It is asked for while tests are collected, where an exception ends the whole run."""
    assert label("x" * 300 + ".onnx", tmp_path) == "x" * 300 + ".onnx"
    assert label("a\0b.onnx", tmp_path) == "a\0b.onnx"


def test_a_file_name_that_is_no_utf_8_is_said_so_that_every_process_can_hold_it(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"mod\xe8le.onnx")
    odd.write_bytes(b"x")
    for source in (odd.name, odd, os.fsencode(odd.name).decode("utf-8", "surrogateescape")):
        assert label(source, tmp_path) == "mod\\udce8le.onnx"
    assert describe(odd) == f"{tmp_path}/mod\\udce8le.onnx"


def test_a_proto_that_cannot_be_serialised_is_named(tmp_path: Path) -> None:
    class TooLarge:
        def SerializeToString(self, deterministic: bool) -> bytes:  # noqa: N802  protobuf's name
            raise ValueError("exceeds maximum protobuf size of 2GB")  # protobuf's words

    with pytest.raises(MarkerError, match="TooLarge that cannot be serialised"):
        label(TooLarge(), tmp_path)


def test_a_path_is_found_beside_the_test_then_under_rootdir(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "m.onnx").touch()
    assert label("m.onnx", tmp_path) == "m.onnx"
    (tmp_path / "sub" / "m.onnx").touch()
    assert label("m.onnx", tmp_path) == "sub/m.onnx"
    assert label(Path("m.onnx"), tmp_path) == "sub/m.onnx"
    assert label("../m.onnx#sha256=ab", tmp_path) == "m.onnx#sha256=ab"
    assert label("no/such.onnx", tmp_path) == "no/such.onnx"


def test_references_stay_as_they_are(tmp_path: Path) -> None:
    assert label("pypi:silero-vad==6.2.3/x.onnx", tmp_path) == "pypi:silero-vad==6.2.3/x.onnx"
    assert label(None, tmp_path) is None


def test_bytes_and_protos_go_by_content(tmp_path: Path) -> None:
    from onnx import helper

    assert label(b"abc", tmp_path) == label(bytearray(b"abc"), tmp_path)
    assert label(b"abc", tmp_path) != label(b"abd", tmp_path)
    graph = helper.make_graph([], "g", [], [])
    proto, other = helper.make_model(graph), helper.make_model(helper.make_graph([], "h", [], []))
    assert label(proto, tmp_path) == label(helper.make_model(graph), tmp_path) != label(other, tmp_path)


def test_a_function_goes_by_name_and_is_not_called(tmp_path: Path) -> None:
    def dear() -> bytes:
        raise AssertionError("called")

    found = label(dear, tmp_path)
    assert found is not None
    assert found.startswith("function:")
    assert "dear" in found


def test_functions_that_give_different_models_are_told_apart(tmp_path: Path) -> None:
    def build(size: int = 0) -> bytes:
        return bytes(size)

    def closed(size: int) -> Any:
        return lambda: build(size)

    sources = [functools.partial(build, 1), functools.partial(build, 64), functools.partial(build, size=1)]
    sources += [(lambda n=n: build(n)) for n in (1, 64)] + [closed(1), closed(64)]
    sources += [lambda: build(1), lambda: build(64)]
    sources += [(tmp_path / "a").read_bytes, (tmp_path / "b").read_bytes]
    assert len({label(source, tmp_path) for source in sources}) == len(sources)
    assert label(closed(1), tmp_path) == label(closed(1), tmp_path)
    assert [label(s, tmp_path) for s in sources] == [describe(s) for s in sources]


def test_a_function_s_label_has_no_address_and_an_end(tmp_path: Path) -> None:
    found = label(functools.partial(object, object(), b"x" * 10_000), tmp_path)
    assert found is not None
    assert "object>" in found
    assert "0x" not in found
    assert len(found) < 200


@pytest.mark.parametrize("blank", ["", " "])
def test_a_password_is_in_no_label(tmp_path: Path, blank: str) -> None:
    assert (
        label(f"{blank}https://user:s3cret@example.com/m.onnx", tmp_path) == "https://***@example.com/m.onnx"
    )


def test_any_other_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MarkerError, match="a int"):
        label(7, tmp_path)


# -- on="each" -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("browsers", "chosen", "names"),
    [
        (None, (), ["chromium", "firefox", "headless-shell"]),
        (["chrome"], (), ["chromium", "headless-shell"]),
        (["firefox", "chrome"], (), ["firefox", "chromium", "headless-shell"]),
        (["edge", "firefox"], (), ["edge", "firefox"]),
        (["chromium", "chrome"], (), ["chromium", "headless-shell"]),
        (None, ("firefox",), ["firefox"]),
    ],
)
def test_each_makes_an_item_for_each_known_or_named_browser(
    browsers: list[str] | None, chosen: tuple[str, ...], names: list[str]
) -> None:
    words = Words(installed=WORDS.installed, chosen=chosen)
    needs = markers.parse({"on": "each", "browsers": browsers}, where="x", words=words)
    assert markers.each_names(needs, words) == names


SUITE = """
    import pytest
    pytestmark = pytest.mark.model(type="audio", priority=2)

    @pytest.fixture
    def overridden(browser_pool): pass

    class TestClass:
        pytestmark = pytest.mark.model(priority=4, id="of-class")

        @pytest.mark.model("m.onnx", id="of-function")
        @pytest.mark.parametrize("x", ["a", pytest.param("b", marks=pytest.mark.model("n.onnx"))])
        def test_method(self, model, x): pass

    @pytest.mark.model(on="each")
    @pytest.mark.parametrize("x", [1, 2])
    def test_each(browser_pool, x): pass

    @pytest.mark.model(on="each", prioriy=1)
    def test_typo(model): pass

    def test_through_another(overridden): pass

    def test_without(tmp_path): pass
"""


def test_items_get_the_merged_needs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    items, _ = pytester.inline_genitems("--browserpool", "-p", "no:cacheprovider")
    needs = {item.name: markers.needs_of(item) for item in items}
    a, b = needs["test_method[a]"], needs["test_method[b]"]
    assert a is not None
    assert b is not None
    assert (a.source, a.id, a.priority, a.type) == ("m.onnx", "of-function", 4, "audio")
    assert (b.source, b.id) == ("n.onnx", "of-function")
    each = [name for name in needs if name.startswith("test_each")]
    assert each
    for name in each:
        browser = name.rstrip("]").split("-", 1)[1]
        found = needs[name]
        assert found is not None
        assert found.browsers[0].lstrip("=") == browser
    assert needs["test_typo"] is None
    with pytest.raises(MarkerError, match="did you mean 'priority'"):
        markers.request_for(next(item for item in items if item.name == "test_typo"))
    through = needs["test_through_another"]
    assert through is not None
    assert through.type == "audio"
    assert needs["test_without"] is None


def test_a_models_own_fixture_makes_the_marker_somebody_elses(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def model(): return "mine"

        @pytest.mark.model("not a path", colour="blue")
        def test_it(model): assert model == "mine"
        """
    )
    items, _ = pytester.inline_genitems("--browserpool", "-p", "no:cacheprovider")
    assert [markers.needs_of(item) for item in items] == [None]


def test_call_keywords_stand_above_the_marker(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.model("m.onnx", type="audio", backends=["wasm"])
        def test_it(browser_pool): pass
        """
    )
    items, _ = pytester.inline_genitems("--browserpool", "-p", "no:cacheprovider")
    needs, source = markers.needs_for_call(items[0], b"abc", {"backends": ["webgpu"], "timeout": 3})
    assert (needs.type, needs.backends, needs.timeout, source) == ("audio", ("webgpu",), 3.0, b"abc")
    with pytest.raises(MarkerError, match="did you mean 'timeout'"):
        markers.needs_for_call(items[0], b"abc", {"timeot": 3})
    with pytest.raises(MarkerError, match="on="):
        markers.needs_for_call(items[0], b"abc", {"on": "each"})
