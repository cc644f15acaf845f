"""Test AI models where they run: in real browsers, from pytest.

The public names are loaded on first use, so that a pytest run without ``--browserpool`` pays nothing for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_browserpool.compare import assert_close, tolerance
    from pytest_browserpool.fixtures import BrowserPool, Model

__all__ = ["BrowserPool", "Model", "assert_close", "tolerance"]
__version__ = "0.1.0"

_HOMES = {
    "assert_close": "pytest_browserpool.compare",
    "tolerance": "pytest_browserpool.compare",
    "BrowserPool": "pytest_browserpool.fixtures",
    "Model": "pytest_browserpool.fixtures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
