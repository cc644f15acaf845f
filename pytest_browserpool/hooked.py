"""What hooks and paths add to the settings, in each process of a run: browsers, and a build of onnxruntime-web."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_browserpool.errors import ConfigurationError

if TYPE_CHECKING:
    import pytest

    from pytest_browserpool.config import OwnRuntime, Settings

OPTION = "--browserpool-runtime or browserpool_runtime"
HOOK = "pytest_browserpool_runtime"


def with_browsers(config: pytest.Config, settings: Settings) -> Settings:
    """``settings`` with the browsers that ``pytest_browserpool_browsers`` adds in this process."""
    hooked = [
        browser
        for found in config.hook.pytest_browserpool_browsers(settings=settings)
        if found
        for browser in found
    ]
    custom = {browser.name: browser for browser in (*settings.custom, *hooked)}
    return dataclasses.replace(settings, custom=tuple(custom.values()))


def with_runtime(config: pytest.Config, settings: Settings) -> Settings:
    """On the controller: ``settings`` with the build of onnxruntime-web that the option, else the hook, names.

    Raises:
        ConfigurationError: it is none that pages can load.
    """
    given = Path(settings.runtime) if settings.runtime else _answer(config, settings)
    if given is None:
        return settings
    from pytest_browserpool.artefacts.runtime import examine

    found = examine(given, OPTION if settings.runtime else HOOK)
    return dataclasses.replace(settings, own_runtime=found)


def runtime_of_node(config: pytest.Config, settings: Settings) -> OwnRuntime | None:
    """On a node: the controller's build where this node's own hook says it is here; None where it says nothing.

    A run has one onnxruntime-web, and its record names one: the node's must be the same, file by file.

    Raises:
        ConfigurationError: it is none that pages can load, or another build than the controller's.
    """
    told = settings.own_runtime
    answer = None if settings.runtime else _answer(config, settings)
    if answer is None:
        return None
    from pytest_browserpool.artefacts.runtime import examine, label_of

    found = examine(answer, HOOK)
    if told is None or found.sha256 != told.sha256:
        raise ConfigurationError(
            f"{answer} is onnxruntime-web {found.label}; the controller's is {label_of(settings)}",
            where=HOOK,
            remedy="put the same files there, or return None on this node: the controller then sends its own",
        )
    return found


def _answer(config: pytest.Config, settings: Settings) -> Path | None:
    answer = config.hook.pytest_browserpool_runtime(settings=settings)
    if not answer:
        return None
    if not isinstance(answer, (str, os.PathLike)):
        raise ConfigurationError(
            f"the answer is {answer!r}", where=HOOK, remedy="return a path as str or Path, or None"
        )
    return Path(settings.rootdir) / Path(answer).expanduser()
