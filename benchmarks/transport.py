"""What the way between test and page costs: ``make bench-transport``.

Overhead of one ``model(...)`` call over the bare ``session.run`` inside the page, with 1 KiB in and out, beside the same
through ``page.evaluate`` of Playwright's synchronous API, with base64 and with lists, and beside the floor: the same
message over the same connection by a bare socket, with no event loop and no thread between; and the rate of a 16 MiB
round trip. The ways take turns in one process, so that a noisy machine is noisy for all.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from playwright.sync_api import Page, sync_playwright

from pytest_browserpool.browsers.flags import (
    CHROMIUM_FLAGS,
    EXTRA_FLAGS,
    FIREFOX_PREFS,
    ROOT_FLAGS,
    merge_flags,
)
from pytest_browserpool.browsers.protocol import header_of
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


def quantiles(rounds: list[list[float]]) -> str:
    ordered = sorted(v for values in rounds for v in values)
    tenth, ninth = ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10]
    return f"p50 {statistics.median(ordered):7.3f}   p10 {tenth:7.3f}   p90 {ninth:7.3f}"


@contextlib.contextmanager
def ordinary_page(node: Node, browser: str, model: Path) -> Iterator[Page]:
    """The same browser, runtime and model in a page of Playwright's synchronous API: what a test has without us."""
    installed = node.pool.installed[browser]
    server = node.pool._server
    with sync_playwright() as playwright:
        engine = getattr(playwright, installed.engine)
        extra = {"args": merge_flags(CHROMIUM_FLAGS, ROOT_FLAGS, EXTRA_FLAGS.get(browser, ()))}
        if installed.engine == "firefox":
            extra = {"firefox_user_prefs": dict(FIREFOX_PREFS)}
        launched = engine.launch(executable_path=installed.executable, channel=installed.channel, **extra)
        page = launched.new_page()
        page.goto(server.page_url("bench", None))
        page.evaluate(
            SET_UP,
            [f"{server.origin}{server.runtime}ort.all.bundle.min.mjs", node.pool.offer("bench-model", model)],
        )
        yield page
        launched.close()


@contextlib.contextmanager
def bare_socket(node: Node, page: Any) -> Iterator[socket.socket]:
    """A page's own connection, which the node's loop does not read meanwhile."""
    transport = page.channel._socket._req.transport

    async def pause() -> None:
        transport.pause_reading()

    async def resume() -> None:
        transport.resume_reading()

    node.call(pause, 10)
    with socket.fromfd(
        transport.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM
    ) as bare:
        bare.settimeout(10)
        yield bare
    node.call(resume, 10)


def over(bare: socket.socket, message: bytes) -> bytes:
    """One WebSocket message of more than 125 and less than 64 Ki bytes to the page, and the page's answer (RFC 6455)."""
    bare.sendall(struct.pack(">BBH", 0x82, 126, len(message)) + message)
    got = bytearray()
    while len(got) < 8 or len(got) < 8 + struct.unpack_from(">H", got, 2)[0]:
        got += bare.recv(1 << 16)
    assert got[1] == 128 | 126, "not a masked message of that size"
    data = np.frombuffer(got, np.uint8, offset=8)
    return bytes(data ^ np.resize(np.frombuffer(got, np.uint8, count=4, offset=4), len(data)))


BLOCK = 25
"""Calls of one way before it is the other's turn: alone, as in a test, yet minutes apart from nothing."""


def overhead(node: Node, browser: str, rounds: int) -> dict[str, list[list[float]]]:
    """Milliseconds by way and round: ours whole, and beyond ``session.run`` ours, ``evaluate`` with base64 and lists."""
    node.begin_test("bench")
    needs = ModelNeeds(browsers=(f"={browser}",), backends=("wasm",))
    model = Model(node, node.load(needs, negation(), None))
    x = np.arange(256, dtype=np.float32)
    text = base64.b64encode(x.tobytes()).decode()
    found: dict[str, list[list[float]]] = {"whole": [], "ours": [], "base64": [], "list": [], "floor": []}
    loaded = model._resident.loaded
    assert loaded is not None
    message = loaded.page.run_of(loaded.session, {"x": x}).message

    def ours() -> tuple[float, float]:
        started = time.perf_counter()
        y = model({"x": x})["y"]
        total = (time.perf_counter() - started) * 1000
        assert np.array_equal(y, -x)
        return total, total - node.last_page_ms

    def floor(bare: socket.socket) -> float:
        started = time.perf_counter()
        header, _ = header_of(over(bare, message))
        return (time.perf_counter() - started) * 1000 - header["values"]["run_ms"]

    with ordinary_page(node, browser, model.path) as page:

        def base_64() -> float:
            started = time.perf_counter()
            back, ms = page.evaluate(EVALUATE, text)
            y = np.frombuffer(base64.b64decode(back), np.float32)
            total = (time.perf_counter() - started) * 1000
            assert np.array_equal(y, -x)
            return total - ms

        def lists() -> float:
            started = time.perf_counter()
            back, ms = page.evaluate(EVALUATE_LIST, x.tolist())
            y = np.array(back, np.float32)
            total = (time.perf_counter() - started) * 1000
            assert np.array_equal(y, -x)
            return total - ms

        for round_ in range(rounds + 1):
            mine = [ours() for _ in range(BLOCK)]
            block = {"whole": [w for w, _ in mine], "ours": [o for _, o in mine]}
            block["base64"] = [base_64() for _ in range(BLOCK)]
            block["list"] = [lists() for _ in range(BLOCK)]
            with bare_socket(node, loaded.page) as bare:
                block["floor"] = [floor(bare) for _ in range(BLOCK)]
            if round_:  # the first round warms all ways up
                for way, values in block.items():
                    found[way].append(values)
    node.end_test()
    return found


def round_trips(node: Node, browser: str, size: int, times: int) -> list[float]:
    """Seconds of each echo of ``size`` bytes, array to array."""

    async def echo() -> float:
        instance, _ = await node.pool.browser(browser)
        page = await instance.page()
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
    parser.add_argument("--rounds", type=int, default=12)
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
            found = overhead(node, browser, options.rounds)
            print(
                f"\n{browser}: one call, 1 KiB in and out, {options.rounds} rounds of {BLOCK} each in turn, milliseconds"
            )
            print(f"  model(...) whole                      {quantiles(found['whole'])}")
            print(f"  model(...) beyond run()               {quantiles(found['ours'])}   goal p50 <= 0.8")
            for way in ("base64", "list"):
                pairs = zip(found[way], found["ours"], strict=True)
                ratios = sorted(statistics.median(t) / statistics.median(o) for t, o in pairs)
                middle = statistics.median(ratios)
                print(
                    f"  page.evaluate, {way:6}, beyond run()   {quantiles(found[way])}   "
                    f"{middle:.1f} x ours ({ratios[0]:.1f} to {ratios[-1]:.1f} by round); goal >= 15"
                )
            least = statistics.median(v for values in found["floor"] for v in values)
            print(
                f"  a bare socket, beyond run()           {quantiles(found['floor'])}   the floor of any WebSocket; "
                + ", ".join(
                    f"evaluate with {way} is {statistics.median(v for r in found[way] for v in r) / least:.1f} x that"
                    for way in ("base64", "list")
                )
            )
            seconds = round_trips(node, browser, 16 * MIB, options.echoes)
            rates = sorted(2 * 16 * MIB / 1e6 / s for s in seconds)
            print(
                f"  16 MiB there and back: median {statistics.median(seconds) * 1000:.0f} ms, "
                f"{statistics.median(rates):.0f} MB/s moved (slowest {rates[0]:.0f}, fastest {rates[-1]:.0f}); "
                f"payload alone {statistics.median(rates) / 2:.0f} MB/s"
            )
    print(f"\nonnx {onnx.__version__}, numpy {np.__version__}")


if __name__ == "__main__":
    main()
