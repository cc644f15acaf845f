"""The physical limit: every launch, page, load and run that no runner can avoid, each measured alone."""

from __future__ import annotations

import asyncio
import base64
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import tree
from playwright.async_api import async_playwright
from static import serving

from pytest_browserpool.browsers.flags import SOFTWARE_FLAGS

Piece = dict[str, Any]
CORES = 2


def cpu_of(pids: list[int]) -> float:
    """Processor seconds of these processes so far."""
    ticks = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        words = stat[stat.rindex(")") + 2 :].split()
        ticks += sum(map(int, words[11:15]))  # own and ended children's, user and system
    return ticks / os.sysconf("SC_CLK_TCK")


async def timed(
    pieces: list[Piece], kind: str, browser: str, what: str, act: Callable[[], Awaitable[Any]]
) -> Any:
    cpu, began = cpu_of(tree(os.getpid())), time.perf_counter()
    result = await act()
    wall = time.perf_counter() - began
    pieces.append(
        {"kind": kind, "browser": browser, "what": what, "wall": wall, "cpu": cpu_of(tree(os.getpid())) - cpu}
    )
    return result


def measure(suite: dict[str, Any], directory: Path) -> list[Piece]:
    """One browser after the other, alone on the machine: its launch, its page, each session, each test's run."""
    os.environ["PEERS_SUITE"] = str(directory)
    pieces: list[Piece] = []
    with serving() as address:
        asyncio.run(_measure(suite, directory, address, pieces))
    return pieces


async def _measure(suite: dict[str, Any], directory: Path, address: str, pieces: list[Piece]) -> None:
    async with async_playwright() as playwright:
        for name, how in suite["browsers"].items():
            # with the switch that spares SwiftShader work: what it spares can be avoided
            args = [*how["args"], *(SOFTWARE_FLAGS if how["engine"] == "chromium" else ())]
            options = {"executable_path": how["executable"], "channel": how["channel"], "args": args}
            if how["prefs"]:
                options["firefox_user_prefs"] = how["prefs"]
            engine = getattr(playwright, how["engine"])
            browser = await timed(pieces, "launch", name, name, lambda e=engine, o=options: e.launch(**o))
            page = await timed(pieces, "page", name, name, lambda b=browser: _opened(b, address))
            loaded: set[str] = set()
            for test in (t for t in suite["tests"] if t["browser"] == name):
                session = f"{test['model']} {test['backend']}"
                if session not in loaded:
                    arguments = [session, f"/models/{test['model']}", test["backend"]]
                    script = "([n, m, b]) => window.bench.load(n, m, b)"
                    await timed(
                        pieces, "load", name, session, lambda p=page, s=script, a=arguments: p.evaluate(s, a)
                    )
                sent = {n: _sent(directory, t) for n, t in test["inputs"].items()}
                script = "([n, i]) => window.bench.run(n, i).then((r) => r.ms)"
                kind = "run" if session in loaded else "first run"
                loaded.add(session)
                cpu = cpu_of(tree(os.getpid()))
                ms = await page.evaluate(script, [session, sent])
                used = cpu_of(tree(os.getpid())) - cpu
                # the call's own cost is not unavoidable: the page's clock counts, and no more of the processor's than
                # every core could give in it
                pieces.append(
                    {"kind": kind, "browser": name, "what": test["id"], "wall": ms / 1000,
                     "cpu": min(used, CORES * ms / 1000)}
                )  # fmt: skip
            await browser.close()


async def _opened(browser: Any, address: str) -> Any:
    page = await browser.new_page()
    await page.goto(f"{address}/page/index.html")
    await page.wait_for_function("window.bench !== undefined")
    return page


def _sent(directory: Path, tensor: dict[str, Any]) -> dict[str, Any]:
    data = np.fromfile(directory / tensor["file"], np.uint8)
    return {"type": tensor["type"], "dims": tensor["dims"], "data": base64.b64encode(data.tobytes()).decode()}


def bound(pieces: list[Piece]) -> dict[str, float]:
    """Seconds that no schedule over two cores can beat, and what makes them up.

    ``bound``: each piece occupies one of two workers for its wall time, or both cores for its processor time, whichever
    is more; all of it over two. ``cpu``: processor seconds over two cores alone, if waiting cost nothing. Neither is
    less than the longest chain of launch, page, load and first run.
    """
    area = sum(max(p["wall"], p["cpu"]) for p in pieces)
    chain = max(
        sum(p["wall"] for p in pieces if p["browser"] == name and p["kind"] in ("launch", "page"))
        + max(_starts(pieces, name), default=0.0)
        for name in {p["browser"] for p in pieces}
    )
    return {
        "row": sum(p["wall"] for p in pieces),
        "chain": chain,
        "bound": max(area / CORES, chain),
        "cpu": max(sum(p["cpu"] for p in pieces) / CORES, chain),
    }


def _starts(pieces: list[Piece], browser: str) -> list[float]:
    """Load and first run of each of its sessions; a first run follows its load."""
    own = [p for p in pieces if p["browser"] == browser]
    return [p["wall"] + own[i + 1]["wall"] for i, p in enumerate(own[:-1]) if p["kind"] == "load"]


def show(pieces: list[Piece], warm: list[dict[str, Any]]) -> None:
    print(
        "\nThe unavoidable work, each piece alone:\n\n| piece | number | wall, s | CPU, s |\n|---|---|---|---|"
    )
    for kind in ("launch", "page", "load", "first run", "run"):
        found = [p for p in pieces if p["kind"] == kind]
        print(
            f"| {kind} | {len(found)} | {sum(p['wall'] for p in found):.1f} | {sum(p['cpu'] for p in found):.1f} |"
        )
    known = bound(pieces)
    print(
        f"\nin a row {known['row']:.1f} s; over two cores no less than {known['bound']:.1f} s "
        f"({known['cpu']:.1f} s if waiting cost nothing; longest chain {known['chain']:.1f} s)"
    )
    if warm:
        seconds = statistics.median(row["seconds"] for row in warm)
        print(f"warm: {seconds / known['bound']:.2f} × that, median (goal 1.25)")
