"""Which build of onnxruntime-web a page takes: the small one where wasm is all that is wanted."""

from __future__ import annotations

import numpy as np
import onnx_models as make
import pytest
from bench_support import here, open_bench

from pytest_browserpool.values import ModelNeeds

X = {"x": np.ones((4, 4), np.float32)}
KINDS = ("chromium", "firefox", "headless-shell")


def built(bench, model) -> str:
    """As the page itself says."""
    assert model(X)["y"].item(0) == 3.0
    return bench.evaluate(model, "performance.getEntriesByType('resource').map((e) => e.name).join(' ')")


@pytest.mark.parametrize("kind", KINDS)
def test_wasm_alone_takes_the_small_build_and_one_page_serves_once_the_whole_one_is_open(kind, tmp_path):
    assert kind in here(), f"{kind} is not installed: run `browserpool install`"
    with open_bench(tmp_path, browsers=(kind,)) as bench:
        first = bench.load(make.affine(2.0), kind)
        assert "ort-wasm-simd-threaded.wasm" in built(bench, first)
        explicit = bench.load(make.affine(2.0), kind, session_options={"bundle": "jsep"})
        assert "ort-wasm-simd-threaded.jsep.wasm" in built(bench, explicit)
        assert bench.page_of(explicit) is not bench.page_of(first)
        page = bench.page_of(first)
        bench.node.call(lambda: bench.node.pool.instances[0].drop(page), 20)
        again = bench.load(make.affine(2.0), kind)
        assert again(X)["y"].item(0) == 3.0
        assert bench.page_of(again) is bench.page_of(explicit)


def test_a_run_that_needs_more_of_the_browser_begins_with_the_whole_build(tmp_path):
    with open_bench(tmp_path, browsers=("firefox",)) as bench:
        bench.node.expected = [ModelNeeds(backends=("wasm",)), ModelNeeds(backends=("webgpu",))]
        model = bench.load(make.affine(2.0), "firefox")
        assert "ort-wasm-simd-threaded.jsep.wasm" in built(bench, model)
        assert len(bench.node.pool.instances[0].pages) == 1
