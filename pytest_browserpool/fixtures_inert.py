"""The fixtures' names while the plugin is off: they skip with a line that says how to turn it on."""

from __future__ import annotations

from typing import NoReturn

import pytest

HINT = "pytest-browserpool is off: run pytest with --browserpool (or set browserpool = true in the ini file)"


@pytest.fixture
def model() -> NoReturn:
    """Skips: see ``pytest_browserpool.fixtures.model`` for the real one."""
    pytest.skip(HINT)


@pytest.fixture
def browser_pool() -> NoReturn:
    """Skips: see ``pytest_browserpool.fixtures.browser_pool`` for the real one."""
    pytest.skip(HINT)
