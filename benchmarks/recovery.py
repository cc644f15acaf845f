"""Seconds from SIGKILL of a browser to the right answer: ``make bench-recovery``.

Ours (progressive; immediate with a cold browser of another name; immediate with a hot standby) beside what a careful user
of pytest-playwright with pytest-rerunfailures gets: the call fails, a new browser is launched by Playwright, the model is
loaded anew in a fresh page with the same onnxruntime-web, the call is made again (pytest's own share of a rerun left out).
By hand twice: with the build that has every backend, and with the one for wasm alone, which the pool takes where wasm is all
that is wanted.
All ways take turns in one run, each time from a warm call on. Then what supervision costs a call that meets no fault, and
what its record costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from playwright.async_api import async_playwright

from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.browsers.flags import (
    CHROMIUM_FLAGS,
    EXTRA_FLAGS,
    FIREFOX_PREFS,
    ROOT_FLAGS,
    merge_flags,
)
from pytest_browserpool.browsers.post import Post
from pytest_browserpool.config import Settings
from pytest_browserpool.fixtures import Model
from pytest_browserpool.link import each_of
from pytest_browserpool.node import warm
from pytest_browserpool.node.node import Node
from pytest_browserpool.values import ModelNeeds

SOURCE = "pypi:silero-vad==6.2.3/silero_vad/data/silero_vad_openvino_16k.onnx"
ELSEWHERE = {"chromium": "firefox", "firefox": "chromium"}
WAYS = ("progressive", "immediate cold", "immediate hot", "plain", "plain, wasm build")
BUNDLES = {"plain": "ort.all.bundle.min.mjs", "plain, wasm build": "ort.wasm.bundle.min.mjs"}

LOAD = """async ([ort, model, backend]) => {
  const runtime = await import(ort);
  runtime.env.wasm.numThreads = 1;
  runtime.env.wasm.wasmPaths = ort.slice(0, ort.lastIndexOf("/") + 1);
  const session = await runtime.InferenceSession.create(model, {executionProviders: [backend]});
  window.bench = {ort: runtime, session};
}"""
RUN = """async (inputs) => {
  const feeds = {};
  for (const [name, [dims, data]] of Object.entries(inputs))
    feeds[name] = new window.bench.ort.Tensor("float32", Float32Array.from(data), dims);
  const result = await window.bench.session.run(feeds);
  const outputs = {};
  for (const [name, tensor] of Object.entries(result)) outputs[name] = Array.from(await tensor.getData());
  return outputs;
}"""

Inputs = Mapping[str, NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]


def same(answer: Outputs, wanted: Outputs) -> None:
    """An answer that is not the undisturbed one stops the benchmark."""
    for name, array in wanted.items():
        np.testing.assert_allclose(np.asarray(answer[name]).ravel(), array.ravel(), rtol=1e-4, atol=1e-5)


@contextlib.contextmanager
def node_with(**settings: Any) -> Iterator[tuple[Node, list[dict[str, Any]]]]:
    """As one of the nodes of ``-n auto``: a core each, and so one thread of WebAssembly, as by hand."""
    told: list[dict[str, Any]] = []
    node = Node(
        Settings(rootdir=str(Path.cwd()), db="", **settings),
        "bench",
        lambda message: told.extend(each_of(message)),
        neighbours=os.cpu_count(),
    )
    with contextlib.closing(node):
        node.begin_test("bench")
        yield node, told


def ours(way: str, browser: str, options: argparse.Namespace, inputs: Inputs) -> tuple[float, float, str]:
    """Seconds from the kill to the answer, of a warm call, and the steps that were taken."""
    immediate = way.startswith("immediate")
    settings = {
        "recovery": "immediate" if immediate else "progressive",
        "redundancy": 2 if "hot" in way else 1,
    }
    with node_with(**settings) as (node, told):
        names = (f"={browser}", f"={ELSEWHERE[browser]}") if immediate else (f"={browser}",)
        needs = ModelNeeds(browsers=names, backends=(options.backend,))
        model = Model(node, node.load(needs, options.source, None))
        assert model.browser is not None
        assert model.browser.name == browser, f"the order of browsers= did not decide: {model.browser}"
        wanted = model(inputs)
        if "hot" in way:
            standby = model._resident.standby
            assert standby is not None
            assert node.call(lambda: standby.ready(120), 120), standby.reason
        started = time.perf_counter()
        model(inputs)
        warm = time.perf_counter() - started
        loaded = model._resident.loaded
        assert loaded is not None
        assert loaded.instance.process.pid is not None
        main = psutil.Process(loaded.instance.process.pid)
        started = time.perf_counter()
        main.kill()
        while model.recoveries == 0:  # a page outlives its killed browser by some calls
            answer = model(inputs)
        seconds = time.perf_counter() - started
        same(answer, wanted)
        node.report.flush()
        (fault,) = [m["row"] for m in told if m["kind"] == "record" and m["table"] == "faults"]
        return seconds, warm, " > ".join(a["action"] for a in json.loads(fault["attempts"])[1:])


def plain(way: str, browser: str, options: argparse.Namespace, inputs: Inputs) -> tuple[float, float, str]:
    """The same by Playwright alone; the node only serves the files."""
    with node_with() as (node, _):
        pool = node.pool
        content, _ = node.resolve(options.source, None)
        path = pool.offer("bench-model", content.path)
        ort = f"{pool._server.origin}{pool._server.runtime}{BUNDLES[way]}"
        arguments = [ort, path, options.backend]
        sent = {name: [list(a.shape), a.ravel().tolist()] for name, a in inputs.items()}
        installed = pool.installed[browser]

        async def measure() -> tuple[float, float]:
            async with async_playwright() as playwright:

                async def fresh() -> tuple[Any, Any]:
                    started = await launch(playwright, installed)
                    page = await started.new_page()
                    await page.goto(pool._server.page_url("bench", None))
                    await page.evaluate(LOAD, arguments)
                    return started, page

                running, page = await fresh()
                wanted = {n: np.array(v) for n, v in (await page.evaluate(RUN, sent)).items()}
                started = time.perf_counter()
                await page.evaluate(RUN, sent)
                warm = time.perf_counter() - started
                victim = main_process(installed)
                started = time.perf_counter()
                victim.kill()
                try:
                    while True:
                        await page.evaluate(RUN, sent)
                except Exception:  # noqa: BLE001 - how the fault shows to a user of Playwright
                    running, page = await fresh()
                answer = {n: np.array(v) for n, v in (await page.evaluate(RUN, sent)).items()}
                seconds = time.perf_counter() - started
                same(answer, wanted)
                await running.close()
                return seconds, warm

        seconds, warm = node.call(measure, 300)
        return seconds, warm, "new browser, page and session"


async def launch(playwright: Any, installed: InstalledBrowser) -> Any:
    """With the flags that make WebGPU work, as in the pool."""
    common = {"executable_path": installed.executable, "channel": installed.channel}
    if installed.engine == "firefox":
        return await playwright.firefox.launch(firefox_user_prefs=dict(FIREFOX_PREFS), **common)
    args = merge_flags(CHROMIUM_FLAGS, ROOT_FLAGS, EXTRA_FLAGS.get(installed.name, ()), ())
    return await playwright.chromium.launch(args=args, **common)


def main_process(installed: InstalledBrowser) -> psutil.Process:
    """The one of the one browser that runs below us."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            helper = "-contentproc" in words or any(w.startswith("--type=") for w in words)
            if any("remote-debugging" in w for w in words) and not helper and "run-driver" not in words:
                found.append(process)
    assert found, f"no process of {installed.name} was found"
    return min(found, key=lambda p: p.create_time())


BLOCK = 50
"""Calls of each way between two ratios: enough for a median, and short beside what else the machine does."""


def supervision(browser: str, options: argparse.Namespace, inputs: Inputs, calls: int) -> None:
    """A warm call bare, under supervision, and on the record too, taking turns; prints medians and ratios.

    Bare is the same command to the same page from the same thread, with nothing that could recover it.
    """
    with node_with() as (node, _):
        needs = ModelNeeds(browsers=(f"={browser}",), backends=(options.backend,))
        resident = node.load(needs, options.source, None)
        node.run(resident, inputs)
        loaded = resident.loaded
        assert loaded is not None
        channel, command = loaded.page.channel, {"session": loaded.session.name}

        def bare() -> None:
            post = Post(channel.number(), "run", command, inputs)
            node.soon(channel.post, post)
            post.result(60)

        ways: dict[str, Callable[[], Any]] = {
            "bare": bare,
            "supervised": lambda: warm.run(node, resident, inputs),
            "recorded": lambda: node.run(resident, inputs),
        }
        blocks = alternating(ways, max(BLOCK, calls))
        told = {way: statistics.median(ms for block in blocks[way] for ms in block) for way in ways}
        print(f"  a warm call: {', '.join(f'{way} {ms:.3f} ms' for way, ms in told.items())}")
        for what, way, than in (
            ("supervision", "supervised", "bare"),
            ("the record", "recorded", "supervised"),
        ):
            ratios = sorted(
                statistics.median(a) / statistics.median(b)
                for a, b in zip(blocks[way], blocks[than], strict=True)
            )
            low, middle, high = (ratios[int(share * (len(ratios) - 1))] for share in (0.25, 0.5, 0.75))
            goal = " (goal < 1.02)" if what == "supervision" else ""
            print(
                f"  {what}: {middle:.4f} of it, quarters of {len(ratios)} blocks {low:.4f} to {high:.4f}{goal}"
            )


def alternating(ways: Mapping[str, Callable[[], Any]], calls: int) -> dict[str, list[list[float]]]:
    """Milliseconds of ``calls`` calls of each way, call by call in turn, in blocks; the first block warms up."""
    blocks: dict[str, list[list[float]]] = {way: [] for way in ways}
    names = list(ways)
    for number in range(calls // BLOCK + 1):
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(BLOCK):
            for way in names[turn % len(names) :] + names[: turn % len(names)]:
                started = time.perf_counter()
                ways[way]()
                times[way].append((time.perf_counter() - started) * 1000)
        if number:
            for way in ways:
                blocks[way].append(times[way])
    return blocks


def by_way(browser: str, options: argparse.Namespace, inputs: Inputs) -> None:
    """Each way in each round, another one first in each; prints every figure when it is there, then the medians."""
    ways = [way for way in WAYS if way in options.ways.split("/")]
    if options.backend != "wasm" and "plain, wasm build" in ways:
        ways.remove("plain, wasm build")
    seen: dict[str, list[tuple[float, float, str]]] = {way: [] for way in ways}
    for number in range(options.rounds):
        turn = number % len(ways)
        for way in ways[turn:] + ways[:turn]:
            measure = plain if way in BUNDLES else ours
            seen[way].append(measure(way, browser, options, inputs))
            print(f"  {browser}, round {number + 1}, {way}: {seen[way][-1][0]:.3f} s", flush=True)
    print(f"\n{browser}: seconds from SIGKILL to the right answer")
    for way in ways:
        seconds = sorted(s for s, _, _ in seen[way])
        usual = statistics.median(w for _, w, _ in seen[way]) * 1000
        line = f"  {way:17} median {statistics.median(seconds):6.3f}  ({seconds[0]:.3f} - {seconds[-1]:.3f})"
        for other in BUNDLES:
            if other in seen:
                ratios = sorted(p[0] / o[0] for p, o in zip(seen[other], seen[way], strict=True))
                middle = statistics.median(ratios)
                line += f"   {other} / this {middle:6.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})"
        steps = ", ".join(sorted({steps for _, _, steps in seen[way]}))
        print(f"{line}   warm call {usual:7.2f} ms   {steps}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="0: only what supervision costs")
    parser.add_argument("--calls", type=int, default=2000, help="warm calls for the cost of supervision")
    parser.add_argument("--ways", default="/".join(WAYS), help="to the answer, with / between them")
    parser.add_argument("--source", default=SOURCE)
    parser.add_argument("--backend", default="wasm")
    parser.add_argument("--browsers", default="chromium,firefox")
    options = parser.parse_args()
    with node_with() as (node, _):
        _, info = node.resolve(options.source, None)
        source = np.random.default_rng(1)
        inputs = {
            t.name: source.standard_normal([d if isinstance(d, int) else 1 for d in t.dims]).astype(
                np.float32
            )
            for t in info.inputs
        }
        have = {b.name for b in node.installed}
    print(f"{options.source} on {options.backend}; {options.rounds} rounds, ways in turn")
    for browser in options.browsers.split(","):
        if browser not in have:
            print(f"{browser}: not on this machine")
            continue
        if options.rounds:
            by_way(browser, options, inputs)
        supervision(browser, options, inputs, options.calls)
    print(
        f"\nPython {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    )


if __name__ == "__main__":
    main()
