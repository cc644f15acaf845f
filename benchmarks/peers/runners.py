"""How each peer is started and what its results mean."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from pytest_browserpool.browsers.flags import SOFTWARE_FLAGS

HERE = Path(__file__).resolve().parent
WORKERS = "2"
LIMIT_SECONDS = 600.0
"""Of one run of one peer; the slowest was seen to take 175 s."""

PEERS = ("load", "worksteal", "loadgroup", "told", "playwright", "cold", "warm")
TITLES = {
    "load": "1 pytest-playwright, xdist load",
    "worksteal": "2 pytest-playwright, xdist worksteal",
    "loadgroup": "3 by hand: kept pages, xdist loadgroup",
    "told": "3b the same, told of this project's switch",
    "playwright": "4 Playwright Test",
    "cold": "5 browserpool, no history",
    "warm": "6 browserpool",
}
_NOT_THEIRS = ("html", "metadata", "timeout", "asyncio", "rerunfailures", "hypothesispytest", "anyio")
"""Plugins that happen to be installed here and that none of these suites uses."""


def pytest_command(peer: str, result: Path, history: Path) -> list[str]:
    others = [f"-pno:{name}" for name in _NOT_THEIRS]
    common = [
        "-n",
        WORKERS,
        "-q",
        f"--junitxml={result}",
        f"--rootdir={HERE}",
        "-c",
        str(HERE / "pytest.ini"),
    ]
    command = [sys.executable, "-m", "pytest", *common]
    if peer in ("cold", "warm"):
        # pytest-html and pytest-metadata are this project's dependencies: they stay
        return [
            *command, *others[2:], "-pno:playwright", "--browserpool", f"--browserpool-db={history}", str(HERE / "ours")
        ]  # fmt: skip
    if peer in ("loadgroup", "told"):
        return [*command, *others, "-pno:browserpool", "--dist", "loadgroup", str(HERE / "careful")]
    return [*command, *others, "-pno:browserpool", "--dist", peer, str(HERE / "plain")]


def playwright_home(cache: Path) -> Path:
    """Where the stock runner is installed, once, by its pinned version."""
    package = HERE / "playwright_test" / "package.json"
    version = json.loads(package.read_text())["dependencies"]["@playwright/test"]
    home = cache / "peers" / f"playwright-test-{version}"
    home.mkdir(parents=True, exist_ok=True)
    for file in (HERE / "playwright_test").iterdir():
        shutil.copyfile(file, home / file.name)
    if not (home / "node_modules" / "@playwright" / "test" / "package.json").exists():
        npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
        subprocess.run(npm, cwd=home, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return home


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def start(
    peer: str, suite: Path, work: Path, seed: int, history: Path, cache: Path
) -> tuple[list[str], dict[str, str], Path]:
    """Command, environment and directory of one run; it writes ``work/record.jsonl`` and ``work/result``."""
    record, result = work / "record.jsonl", work / "result"
    env = {
        **os.environ,
        "PEERS_SUITE": str(suite),
        "PEERS_RECORD": str(record),
        "PEERS_SEED": str(seed),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    if peer == "told":
        env["PEERS_SWITCHES"] = " ".join(SOFTWARE_FLAGS)
    if peer != "playwright":
        return pytest_command(peer, result, history), env, HERE
    home = playwright_home(cache)
    order = [test["id"] for test in json.loads((suite / "suite.json").read_text())["tests"]]
    random.Random(seed).shuffle(order)
    port = free_port()
    env |= {
        "PEERS_ORDER": json.dumps(order),
        "PEERS_RESULT": str(result),
        "PEERS_PORT": str(port),
        "PEERS_PYTHON": sys.executable,
        "PEERS_SERVER": f"{HERE / 'static.py'} {port}",
    }
    return ["node", "node_modules/@playwright/test/cli.js", "test"], env, home


def passed(peer: str, result: Path) -> int:
    """Tests that passed, by the runner's own report."""
    if not result.exists():
        return 0
    if peer == "playwright":
        return int(json.loads(result.read_text())["stats"]["expected"])
    bad = ("failure", "error", "skipped")
    good = [c for c in ET.parse(result).iter("testcase") if not any(c.find(word) is not None for word in bad)]
    return len({(c.get("classname"), c.get("name")) for c in good})


def counted(record: Path) -> dict[str, Any]:
    """Launches, loads and milliseconds per call beyond ``session.run``, from the runner's own record."""
    events = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    totals = [e for e in events if e["event"] == "totals"]
    calls = [e["ms"] - e["page_ms"] for e in events if e["event"] == "call"]

    def count(kind: str, total: str) -> int:
        return sum(e["event"] == kind for e in events) + sum(e[total] for e in totals)

    return {
        "launches": count("launch", "launches"),
        "loads": count("load", "loads"),
        "overhead_ms": sorted(calls)[len(calls) // 2] if calls else None,
    }
