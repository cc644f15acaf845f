"""WebGPU on a hardware adapter, headless: ``make bench-gpu``.

Tries the known combinations of switches on each Chromium here until one shows a hardware adapter, then runs the example
suite with it and measures models beside wasm in the same browser and beside native onnxruntime.

Exit status: 0 measured; 1 the example suite failed; 2 wrong arguments; 3 no browser shows a hardware adapter, and
nothing was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "peers"))

from prepare import SUITE, Kind  # noqa: E402

from pytest_browserpool.browsers.catalogue import InstalledBrowser, discover  # noqa: E402
from pytest_browserpool.browsers.probe import probe_all  # noqa: E402
from pytest_browserpool.config import CustomBrowser, Settings  # noqa: E402
from pytest_browserpool.errors import BrowserPoolError  # noqa: E402
from pytest_browserpool.fixtures import Model  # noqa: E402
from pytest_browserpool.models.lock import LockFile  # noqa: E402
from pytest_browserpool.models.sources import resolve_file  # noqa: E402
from pytest_browserpool.node.node import Node  # noqa: E402
from pytest_browserpool.values import Adapter, ModelNeeds  # noqa: E402

NO_HARDWARE = 3
NAME = "chromium-gpu"

_VULKAN = ("--use-angle=vulkan", "--disable-vulkan-surface", "--ignore-gpu-blocklist")
COMBINATIONS: tuple[tuple[str, ...], ...] = (
    (),  # a desktop's own driver may need nothing
    # what Chromium's documentation and others report for NVIDIA without a display
    (*_VULKAN, "--enable-features=Vulkan"),
    (*_VULKAN, "--enable-features=Vulkan,VulkanFromANGLE,DefaultANGLEVulkan"),
    # Playwright's --headless is the old shell in some builds, which has no GPU process of its own
    (*_VULKAN, "--enable-features=Vulkan,VulkanFromANGLE,DefaultANGLEVulkan", "--headless=new"),
    ("--use-webgpu-adapter=default", "--ignore-gpu-blocklist", "--enable-features=Vulkan"),
)

Arrays = dict[str, NDArray[Any]]


def adapter_of(browser: InstalledBrowser, settings: Settings) -> tuple[Adapter | None, str]:
    """The WebGPU adapter that a page really gets, or why there is none."""
    (found,) = probe_all([browser], settings)
    support = next(b for b in found.backends if b.name == "webgpu")
    return (support.adapter if support.available else None), support.detail


def search(settings: Settings) -> tuple[InstalledBrowser, Adapter] | None:
    """The first browser and combination of switches that show a hardware adapter."""
    for browser in discover(settings).installed:
        if browser.engine != "chromium" or browser.endpoint:
            continue
        for flags in COMBINATIONS:
            # under a name of its own: the headless shell's own switches ask for the software adapter
            tried = replace(browser, name=NAME, flags=(*browser.flags, *flags))
            adapter, detail = adapter_of(tried, settings)
            said = str(adapter) if adapter else detail or "no adapter"
            print(f"{browser.name} {' '.join(flags) or '(no switches)'}: {said}", flush=True)
            if adapter is not None and not adapter.software:
                return tried, adapter
    return None


def example_suite(found: InstalledBrowser) -> int:
    """The example suite in a project of its own, where that browser is defined."""
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        project = Path(name)
        shutil.copytree(ROOT / "example_suite", project / "example_suite")
        shutil.copy(ROOT / "browserpool.lock", project)
        (project / "pyproject.toml").write_text(
            "[tool.pytest.ini_options]\nmarkers = ['slow: takes more than ten seconds']\n"
            f"[tool.browserpool.browsers.{NAME}]\nfamily = 'chrome'\n"
            f"executable = {json.dumps(found.executable)}\nflags = {json.dumps(list(found.flags))}\n"
        )
        command = [sys.executable, "-m", "pytest", "--browserpool", f"--browserpool-browsers={NAME}", "-q"]
        # a test that names another browser, or a backend that this one lacks, is not this command's subject
        command += ["--browserpool-missing=skip", "-n", "2", "-m", "not slow", "example_suite"]
        return subprocess.run(command, cwd=project, timeout=1800, check=False).returncode


@contextlib.contextmanager
def node_with(found: InstalledBrowser) -> Iterator[Node]:
    custom = CustomBrowser(
        name=NAME, family="chrome", executable=found.executable, channel=found.channel, flags=found.flags
    )
    settings = Settings(rootdir=str(ROOT), db="", browsers=(NAME,), custom=(custom,))
    node = Node(settings, "bench", lambda message: None)
    with contextlib.closing(node):
        node.begin_test("bench")
        yield node


def in_browser(node: Node, kind: Kind, backend: str, inputs: Arrays, runs: int) -> str:
    """First run and median of the warm ones, milliseconds."""
    needs = ModelNeeds(browsers=(f"={NAME}",), backends=(backend,), timeout=120)
    try:
        model = Model(node, node.load(needs, kind.source, None))
        started = time.perf_counter()
        model(inputs)
        first = (time.perf_counter() - started) * 1000
        return f"{first:.0f} / {statistics.median(model.benchmark(inputs, runs)):.2f}"
    except BrowserPoolError as error:
        return f"does not run: {error.what[:60]}"


def native(kind: Kind, provider: str, inputs: Arrays, runs: int) -> str:
    if provider not in onnxruntime.get_available_providers():
        return "not installed"
    path = resolve_file(kind.source, lock=LockFile.of(ROOT)).path
    session = onnxruntime.InferenceSession(str(path), providers=[provider])
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        session.run(None, inputs)
        times.append((time.perf_counter() - started) * 1000)
    return f"{times[0]:.0f} / {statistics.median(times[1:]):.2f}"


def latencies(found: InstalledBrowser, runs: int) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    with node_with(found) as node:
        for name, kind in SUITE.items():
            inputs = {n: np.ascontiguousarray(a) for n, a in kind.inputs()[0].items()}
            rows[name] = {
                "webgpu": in_browser(node, kind, "webgpu", inputs, runs),
                "wasm": in_browser(node, kind, "wasm", inputs, runs),
                "native CUDA": native(kind, "CUDAExecutionProvider", inputs, runs),
                "native CPU": native(kind, "CPUExecutionProvider", inputs, runs),
            }
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=50, help="warm runs of each model")
    parser.add_argument("--no-suite", action="store_true", help="leave the example suite out")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    options = parser.parse_args()
    found = search(Settings(rootdir=str(ROOT), db=""))
    if found is None:
        print("no browser on this machine shows a hardware adapter: nothing was measured")
        return NO_HARDWARE
    browser, adapter = found
    print(f"\n{adapter}, with {' '.join(browser.flags) or 'no switches'}; {os.cpu_count()} cores")
    status = 0 if options.no_suite else int(example_suite(browser) != 0)
    rows = latencies(browser, options.runs)
    ways = ("webgpu", "wasm", "native CUDA", "native CPU")
    print(
        f"\n| model, first / median of {options.runs} runs, ms | {' | '.join(ways)} |\n|---|---|---|---|---|"
    )
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(row[way] for way in ways)} |")
    if options.json:
        options.json.write_text(
            json.dumps({"adapter": str(adapter), "flags": browser.flags, "ms": rows}, indent=1)
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
