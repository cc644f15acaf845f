"""What the way between test and page costs: ``make bench-transport``.

Overhead of one ``model(...)`` call over the bare ``session.run`` inside the page, with 1 KiB in and out, beside the same
through Playwright's ``page.evaluate`` with base64; and the rate of a 16 MiB round trip. Both ways run alternately in one
process against the same browser, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from pytest_browserpool.browsers.pool import Pool
from pytest_browserpool.config import Settings
from pytest_browserpool.fixtures import Model
from pytest_browserpool.node.node import Node
from pytest_browserpool.values import ModelNeeds

MIB = 1 << 20

EVALUATE = """async (text) => {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const x = new window.bench.ort.Tensor("float32", new Float32Array(bytes.buffer), [256]);
  const t0 = performance.now();
  const result = await window.bench.session.run({x});
  const ms = performance.now() - t0;
  const out = new Uint8Array(result.y.data.buffer, result.y.data.byteOffset, result.y.data.byteLength);
  let back = "";
  for (const byte of out) back += String.fromCharCode(byte);
  return [btoa(back), ms];
}"""
EVALUATE_LIST = """async (numbers) => {
  const t0 = performance.now();
  const x = new window.bench.ort.Tensor("float32", Float32Array.from(numbers), [256]);
  const result = await window.bench.session.run({x});
  const ms = performance.now() - t0;
  return [Array.from(result.y.data), ms];
}"""
SET_UP = """async ([ort, model]) => {
  const runtime = await import(ort);
  runtime.env.wasm.numThreads = 1;
  runtime.env.wasm.wasmPaths = ort.slice(0, ort.lastIndexOf("/") + 1);
  window.bench = {ort: runtime, session: await runtime.InferenceSession.create(model, {executionProviders: ["wasm"]})};
}"""


def negation() -> bytes:
    """y = -x over 256 floats: 1 KiB, and next to no work."""
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [256]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "neg", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    tenth, ninth = ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10]
    return f"p50 {statistics.median(ordered):7.3f}   p10 {tenth:7.3f}   p90 {ninth:7.3f}"


async def ordinary_page(pool: Pool, browser: str, model: Path) -> object:
    """A Playwright page with the same runtime and model, driven by ``evaluate``."""
    instance, _ = await pool.browser(browser)
    context = await instance.process.new_context()
    page = await context.new_page()
    await page.goto(pool._server.page_url("bench"))
    base = pool._server.origin + pool._server.base
    await page.evaluate(SET_UP, [f"{base}ort/ort.all.bundle.min.mjs", pool.offer("bench-model", model)])
    return page


def overhead(node: Node, browser: str, calls: int) -> dict[str, list[float]]:
    """Milliseconds of each way: ours whole, and beyond ``session.run`` ours and ``evaluate``'s with base64 and lists."""
    node.begin_test("bench")
    model = Model(
        node, node.load(ModelNeeds(browsers=(f"={browser}",), backends=("wasm",)), negation(), None)
    )
    page = node.call(lambda: ordinary_page(node.pool, browser, model.path), 60)
    x = np.arange(256, dtype=np.float32)
    text = base64.b64encode(x.tobytes()).decode()
    found: dict[str, list[float]] = {"whole": [], "ours": [], "base64": [], "list": []}
    for i in range(calls + 20):
        started = time.perf_counter()
        model({"x": x})
        total = (time.perf_counter() - started) * 1000
        page_ms = node.last_page_ms
        seconds = {}
        for way, script, argument in (("base64", EVALUATE, text), ("list", EVALUATE_LIST, x.tolist())):
            started = time.perf_counter()
            back, ms = node.call(lambda script=script, argument=argument: page.evaluate(script, argument), 60)
            seconds[way] = (time.perf_counter() - started) * 1000 - ms
            got = np.frombuffer(base64.b64decode(back), np.float32) if way == "base64" else np.array(back)
            assert np.array_equal(got, -x)
        if i >= 20:  # the first calls warm all ways up
            found["whole"].append(total)
            found["ours"].append(total - page_ms)
            found["base64"].append(seconds["base64"])
            found["list"].append(seconds["list"])
    node.call(lambda: page.context.close(), 30)
    node.end_test()
    return found


def round_trips(node: Node, browser: str, size: int, times: int) -> list[float]:
    """Seconds of each echo of ``size`` bytes, array to array."""

    async def echo() -> float:
        instance, _ = await node.pool.browser(browser)
        page = await instance.page("all")
        started = time.perf_counter()
        reply = await page.channel.call("echo", {}, {"x": payload}, timeout=60)
        seconds = time.perf_counter() - started
        assert reply.tensors["x"].nbytes == size
        return seconds

    payload = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8)
    return [node.call(echo, 60) for _ in range(times + 2)][2:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--echoes", type=int, default=12)
    parser.add_argument("--browsers", default="chromium,firefox,headless-shell")
    options = parser.parse_args()
    node = Node(Settings(rootdir=str(Path.cwd()), db=""), "bench", lambda message: None)
    with contextlib.closing(node):
        have = {b.name for b in node.capabilities().browsers}
        for browser in options.browsers.split(","):
            if browser not in have:
                print(f"{browser}: not on this machine")
                continue
            found = overhead(node, browser, options.calls)
            print(f"\n{browser}: one call, 1 KiB in and out, {options.calls} alternating calls, milliseconds")
            print(f"  model(...) whole                      {quantiles(found['whole'])}")
            print(f"  model(...) beyond run()               {quantiles(found['ours'])}   goal p50 <= 0.8")
            for way in ("base64", "list"):
                ratio = statistics.median(t / o for t, o in zip(found[way], found["ours"], strict=True))
                print(
                    f"  page.evaluate, {way:6}, beyond run()   {quantiles(found[way])}   "
                    f"{ratio:.1f} x ours, pair by pair; goal >= 15"
                )
            seconds = round_trips(node, browser, 16 * MIB, options.echoes)
            rates = sorted(2 * 16 * MIB / 1e6 / s for s in seconds)
            print(
                f"  16 MiB there and back: median {statistics.median(seconds) * 1000:.0f} ms, "
                f"{statistics.median(rates):.0f} MB/s moved (slowest {rates[0]:.0f}, fastest {rates[-1]:.0f}); "
                f"payload alone {statistics.median(rates) / 2:.0f} MB/s"
            )
    print(f"\nonnx {onnx.__version__}, numpy {np.__version__}; {asyncio.__name__} loop of CPython")


if __name__ == "__main__":
    main()
