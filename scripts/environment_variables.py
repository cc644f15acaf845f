"""The environment variables that the package looks up, and what each is for."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent.parent / "pytest_browserpool"

ENVIRONMENT = {
    "BROWSERPOOL_CACHE": "The cache directory, in place of the platform's (`~/.cache/browserpool` on Linux).",
    "HF_ENDPOINT": "Where `hf:` sources come from: a mirror in place of `https://huggingface.co`.",
    "HF_TOKEN": "Opens private repositories of `hf:` sources; it is never sent on to where the hub redirects.",
    "PLAYWRIGHT_BROWSERS_PATH": "Playwright's own variable: where its downloaded browsers are looked for.",
    "PYTEST_XDIST_WORKER_COUNT": "Set by pytest-xdist; the nodes of one machine share its memory and cores by it.",
    "BROWSERPOOL_FIREFOX": "Set by us for the script that starts Firefox: which executable it is. Do not set it.",
    "BROWSERPOOL_CHROMIUM": "Set by us for the script that starts Chromium with compiled code in its profile: which "
    "executable it is. Do not set it.",
    "BROWSERPOOL_SEED": "Set by us for that script: what it puts into the profile. Do not set it.",
    "BROWSERPOOL_INSTANCE": "Set by us in every browser that we start: by it leftovers are found and ended. "
    "Do not set it.",
    "GITHUB_STEP_SUMMARY": "Set by GitHub Actions: the file that the run's summary is appended to.",
    "CI": "Where it is set, as in CI, there is a plain line now and then in place of the live view.",
    "HOME": "Where it is another user's, a Firefox of root's gets one of its own, without which it refuses to start.",
    "XDG_CACHE_HOME": "Where that Firefox keeps its shaders all the same; `.cache` in the home unless set.",
    "TERM": "The terminal's kind; `dumb` has no live view.",
    "TMPDIR": "Where temporary profiles are made. Each browser gets one below, which is removed at the end.",
}
"""What each variable that the package reads or sets is for; a test compares the names with the code."""

LOOKS_UP = tuple(f"environ{call}.{method}" for call in ("", "()") for method in ("get", "pop", "setdefault"))


def variables_in_code() -> set[str]:
    """Every name that the package looks up in ``os.environ`` or in another process's environment."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "environ" in text:
            module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
            found |= {resolved(node, module) for node in looked_up(ast.parse(text))}
    return found


def looked_up(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value):
            yield node.slice
        elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith(LOOKS_UP):
            yield node.args[0]


def resolved(node: ast.expr, module: ModuleType) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return str(functools.reduce(getattr, ast.unparse(node).split("."), module))
