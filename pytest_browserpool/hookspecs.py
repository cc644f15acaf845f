"""Hooks of our own: add a browser, a runtime of your own, a scoring factor, a recovery strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_browserpool.config import CustomBrowser, Settings


@pytest.hookspec
def pytest_browserpool_browsers(settings: Settings) -> list[CustomBrowser] | None:
    """Return browsers to add to the catalogue; called once on every node and on the controller."""
