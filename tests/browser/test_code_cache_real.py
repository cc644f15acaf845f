"""Compiled WebAssembly outlives its browser: what Chromium's own trace says that it compiled, first and then."""

from __future__ import annotations

import json
import time
from collections import Counter

import numpy as np
import onnx_models as make
import pytest
from bench_support import here, make_bench

from pytest_browserpool.artefacts import pins
from pytest_browserpool.artefacts.cache import ENVIRONMENT_VARIABLE
from pytest_browserpool.browsers import code_cache
from pytest_browserpool.browsers.code_cache import CODE
from pytest_browserpool.browsers.instance import BrowserInstance
from pytest_browserpool.browsers.kinds import PageKind

X = {"x": np.ones((4, 4), np.float32)}
ENOUGH_BYTES = 1 << 20
"""Chromium's first write, after 40 tiny models; the three megabytes that are asked for otherwise would take 100."""

COMPILED = "wasm.GetStreamingCompilationOwnership"
"""V8's trace event of a module that it begins to compile from the response; one that it reads has ``wasm.Deserialize``."""

WRITTEN_SECONDS = 60.0
"""It takes 3 – 6 s; far more on a busy machine."""


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache with everything of the real one but compiled code."""
    real, own = pins.default_cache().root, tmp_path / "cache"
    own.mkdir()
    for entry in real.iterdir():
        if entry.name not in ("compiled", "tmp"):
            (own / entry.name).symlink_to(entry)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(own))
    return own


def compiling(bench, kind: str, page: PageKind) -> Counter[str]:
    """What V8 did about WebAssembly in a new browser while its page opened: name of a trace event → how often."""
    pool, opened = bench.node.pool, BrowserInstance._open

    async def watched(instance, kind):
        await instance.process._browser.start_tracing(categories=["v8.wasm"])
        return await opened(instance, kind)

    async def traced() -> bytes:
        instance, _ = await pool.browser(kind, 0, page)
        return await instance.process._browser.stop_tracing()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BrowserInstance, "_open", watched)
        events = json.loads(bench.node.call(traced, 60))["traceEvents"]
    return Counter(event["name"] for event in events if event["name"].startswith("wasm."))


def work_until_written(bench, kind: str) -> None:
    """Loads models until Chromium writes compiled code into its profile: it does with each megabyte that got hot."""
    pool = bench.node.pool
    process = next(i for i in pool.instances if i.name == kind).process
    directory = process._profile() / "Default" / CODE
    until = time.monotonic() + WRITTEN_SECONDS
    scale = 2.0
    while max((p.stat().st_size for p in directory.glob("*_0")), default=0) < ENOUGH_BYTES:
        assert time.monotonic() < until, f"nothing in {directory}"
        assert bench.load(make.affine(scale), kind)(X)["y"].item(0) == scale + 1
        scale += 1


@pytest.mark.parametrize(("kind", "bundle"), [("chromium", "all"), ("headless-shell", "wasm")])
def test_the_next_run_need_not_compile_what_this_one_did(kind, bundle, own_cache, tmp_path, monkeypatch):
    assert kind in here(), f"{kind} is not installed: run `browserpool install`"
    monkeypatch.setattr(code_cache, "LEAST_BYTES", ENOUGH_BYTES)
    bench = make_bench(tmp_path, browsers=(kind,))
    try:
        first = compiling(bench, kind, PageKind(bundle))
        work_until_written(bench, kind)
    finally:
        bench.node.close()
    assert first[COMPILED] == 1, first
    assert not first["wasm.Deserialize"], first
    assert {row["kept_code"] for row in bench.rows("browsers")} == {False}
    assert list((own_cache / "compiled").glob(f"{kind}-*/*/Code Cache/wasm/*_0"))
    bench = make_bench(tmp_path, browsers=(kind,))
    try:
        second = compiling(bench, kind, PageKind(bundle))
        # not how many functions were compiled: which of them are called before V8 has read the others, is a race
        assert second["wasm.Deserialize"] == 1, second
        assert not second[COMPILED], second
        model = bench.load(make.affine(5.0), kind)
        assert model(X)["y"].item(0) == 6
        script = (
            "JSON.stringify(performance.getEntriesByType('resource').map((e) => [e.name, e.transferSize]))"
        )
        sizes = {name.split("/")[-1]: size for name, size in json.loads(bench.evaluate(model, script))}
        runtime = {name: size for name, size in sizes.items() if name.startswith("ort")}
        assert runtime
        assert not any(runtime.values()), f"fetched again: {runtime}"
        assert sizes["page.js"] > 0  # ours is not kept: it changes with the version
        assert {row["kept_code"] for row in bench.rows("browsers")} == {True}
    finally:
        bench.node.close()
