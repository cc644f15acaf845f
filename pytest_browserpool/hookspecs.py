"""Hooks of our own, called through pluggy as pytest's are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_browserpool.config import CustomBrowser, Settings
    from pytest_browserpool.recovery.strategies import Strategy


@pytest.hookspec
def pytest_browserpool_browsers(settings: Settings) -> list[CustomBrowser] | None:
    """Return browsers to add to the catalogue; one of a name that exists replaces that.

    Called once on the controller and once on every node, so that a remote node can answer with its own paths.
    """


@pytest.hookspec(firstresult=True)
def pytest_browserpool_runtime(settings: Settings) -> str | Path | None:
    """Return the directory of a build of onnxruntime-web to use in place of the pinned one, or None; a relative path is
    meant from the rootdir.

    Called once on the controller and once on every node, so that a remote node can answer with its own path; it must
    have the controller's very files there. Not called where ``--browserpool-runtime`` or its ini twin is given.
    """


@pytest.hookspec
def pytest_browserpool_recovery_strategies() -> list[Strategy] | None:
    """Return recovery strategies to add, for ``recovery=`` and ``--browserpool-recovery``; one of a name that exists
    replaces that.

    Called once on the controller and once on every node.
    """
