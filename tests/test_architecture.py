"""The layout: pure modules stay pure, files stay short, each says what it is for, imports point downward."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pytest_browserpool"

EDGES = (
    "pytest",
    "_pytest",
    "xdist",
    "execnet",
    "playwright",
    "duckdb",
    "aiohttp",
    "anyio",
    "psutil",
    "asyncio",
)
CLOCKS_AND_IO = ("time", "socket", "subprocess", "threading", "asyncio", "requests", "urllib", "sqlite3")

PURE = (
    "errors",
    "values",
    "records",
    "keywords",
    "preferences",
    "analysis.examine",
    "placement.engine",
    "placement.events",
    "placement.history",
    "placement.policy",
    "recovery.breaker",
    "browsers.failures",
    "browsers.symptoms",
    "recovery.limits",
    "recovery.machine",
    "recovery.strategies",
    "browsers.choice",
    "browsers.health",
    "sharding.partition",
    "sharding.plan",
    "sharding.reasons",
)
"""What decides: values and events in, decisions out."""

PURE_FILES = (
    *(PACKAGE / "placement").glob("*.py"),
    *(PACKAGE / "analysis").glob("*.py"),
    *(PACKAGE / (name.replace(".", "/") + ".py") for name in PURE),
)

LONGEST = 450
"""Lines of a file: about 400 is what one can hold in the head, with some room for a table."""


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_loads_none_of_the_edges(name: str) -> None:
    script = (
        f"import json, sys, pytest_browserpool.{name}\n"
        f"print(json.dumps([m for m in {EDGES!r} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("path", sorted(set(PURE_FILES)), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_pure_module_has_no_clock_and_no_io(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    imported |= {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert imported & set(CLOCKS_AND_IO) == set()
    assert called & {"open", "print", "input", "exec", "eval"} == set()


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text)), "a module opens with one line that says what it is for"


def test_imports_point_downward() -> None:
    """The contracts of ``.importlinter``."""
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / ".importlinter"), is_debug_mode=False) == 0


def test_each_test_file_has_a_name_of_its_own() -> None:
    """pytest imports test files by their names alone; two of one name cannot be collected in one run."""
    names = Counter(
        p.name for p in (ROOT / "tests").rglob("*.py") if p.name not in ("conftest.py", "__init__.py")
    )
    assert not [name for name, count in names.items() if count > 1]
