"""The ``model`` marker: merges class, module and function, validates, and keeps the raw source on the
item."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_browserpool.config import did_you_mean
from pytest_browserpool.errors import MarkerError
from pytest_browserpool.keywords import KEYWORDS, check, normalise
from pytest_browserpool.models.references import function_name, in_words
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.keywords import Words

MARKER = "model"
FIXTURES = ("model", "browser_pool")
EACH = "_browserpool_each"
"""Name of the hidden fixture that ``on="each"`` parametrizes; it comes last, so ids end in the browser's
name."""

NONE_KNOWN = "browser known to the controller"
"""What an ``on="each"`` asks for where the controller knows no browser; the reason says that there is no such."""

REFERENCES = ("pypi:", "npm:", "hf:", "https:", "http:", "file:", "data:")
"""Prefixes of sources that are no paths. Whether one is supported is for ``models.sources`` to say."""


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """What one test asks for, on the node that runs it. ``source`` is the raw object, which may not be
    picklable."""

    needs: ModelNeeds
    source: Any = None
    test_file: Path = Path()
    where: str = ""
    """The test's node id, for messages."""


MODEL_KEY: pytest.StashKey[ModelRequest] = pytest.StashKey()
WORDS_KEY: pytest.StashKey[Words] = pytest.StashKey()
"""On ``config.stash``: the browser words that markers may use. Set by the plugin when it is active."""


def request_for(item: pytest.Item) -> ModelRequest:
    """What ``item`` asks for: its markers merged and validated, computed once.

    Raises:
        MarkerError: a keyword or value is wrong, or two contradict each other.
    """
    known = item.stash.get(MODEL_KEY, None)
    if known is None:
        known = item.stash[MODEL_KEY] = _request(item)
    return known


def uses_pool(item: pytest.Item) -> bool:
    """Whether ``item`` asks for one of our fixtures, directly or through others.

    A marker that happens to be called ``model`` on a test that uses neither means something to somebody else.
    """
    names = getattr(item, "fixturenames", ())
    if "browser_pool" in names:
        return True
    return "model" in names and _is_ours(item)


def _is_ours(item: pytest.Item) -> bool:
    """Whether the ``model`` fixture that ``item`` sees is this package's, not one that overrides it."""
    info = getattr(item, "_fixtureinfo", None)
    definitions = info.name2fixturedefs.get("model") if info is not None else None
    if not definitions:
        return False
    return str(getattr(definitions[-1].func, "__module__", "")).startswith("pytest_browserpool.")


def needs_of(item: pytest.Item) -> ModelNeeds | None:
    """What the scheduler must know of ``item``: None for a test that uses no browser, or whose marker is
    wrong.

    A wrong marker fails its own test at set-up, where the fixtures call :func:`request_for`; any node can
    do that.
    """
    if not uses_pool(item):
        return None
    try:
        return request_for(item).needs
    except MarkerError:
        return None


def needs_for_call(item: pytest.Item, source: Any, keywords: Mapping[str, Any]) -> tuple[ModelNeeds, Any]:
    """Needs and raw source for ``browser_pool.load(source, **keywords)``: keywords stand above markers.

    Raises:
        MarkerError: a keyword or value is wrong.
    """
    where = f"{item.nodeid}, browser_pool.load"
    merged = merge(marks_of(item), where=item.nodeid)
    merged.pop("source", None)
    if "on" in keywords:
        raise MarkerError(
            "browser_pool.load takes no on=", where=where, remedy="put on= into the test's marker"
        )
    merged.pop("on", None)
    merged.update({key: value for key, value in keywords.items() if value is not None})
    label = source_label(source, test_file=item.path, rootdir=item.config.rootpath, where=where)
    needs = replace(parse(merged, where=where, words=config_words(item)), source=label)
    narrowed = request_for(item).needs if _each_browser(item) is not None else None
    if narrowed is not None and "browsers" not in keywords:
        needs = replace(needs, browsers=narrowed.browsers)
    return needs, source


def config_words(item: pytest.Item) -> Words:
    """The browser words that markers in ``item``'s run may use."""
    return item.config.stash[WORDS_KEY]


def _request(item: pytest.Item) -> ModelRequest:
    merged = merge(marks_of(item), where=item.nodeid)
    source = merged.pop("source", None)
    needs = parse(merged, where=item.nodeid, words=config_words(item))
    test_file = item.path
    label = source_label(source, test_file=test_file, rootdir=item.config.rootpath, where=item.nodeid)
    needs = replace(needs, source=label)
    if needs.on == "each":
        needs = _narrowed(item, needs)
    return ModelRequest(needs=needs, source=source, test_file=test_file, where=item.nodeid)


def _narrowed(item: pytest.Item, needs: ModelNeeds) -> ModelNeeds:
    browser = _each_browser(item)
    words = config_words(item)
    if browser is None and not each_names(needs, words):
        # one item that nothing can run, which fails or skips with the reason like any other; never one in some browser
        return replace(needs, on="best", browsers=(NONE_KNOWN,))
    if browser is None:
        raise MarkerError(
            'on="each" cannot take effect here',
            where=item.nodeid,
            remedy="put the marker on a test function, its class or its module; "
            "not on a pytest.param or a unittest method",
        )
    shared = any(name != browser and family == browser for name, family in words.installed.items())
    return replace(needs, browsers=(f"={browser}" if shared else browser,))


def _each_browser(item: pytest.Item) -> str | None:
    """The browser that ``on="each"`` made this item for."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get(EACH) if callspec is not None else None


def marks_of(node: pytest.Item | Any) -> list[pytest.Mark]:
    """The ``model`` marks of ``node``, nearest first: of its parameter set, its function, its class, its
    module."""
    marks = list(node.iter_markers(MARKER))
    callspec = getattr(node, "callspec", None)
    own = [mark for mark in callspec.marks if mark.name == MARKER] if callspec is not None else []
    return own + [mark for mark in marks if not any(mark is other for other in own)]


def merge(marks: Iterable[pytest.Mark], *, where: str) -> dict[str, Any]:
    """The keywords of ``marks`` (nearest first) as one mapping, the nearest of each winning.

    Raises:
        MarkerError: an unknown keyword, or more than one positional argument.
    """
    merged: dict[str, Any] = {}
    for mark in marks:
        given = dict(mark.kwargs)
        if len(mark.args) > 1 or (mark.args and "source" in given):
            raise MarkerError(
                f"@pytest.mark.model takes one positional argument, the source; it has {mark.args!r}",
                where=where,
                remedy="give everything else by keyword",
            )
        if mark.args:
            given["source"] = mark.args[0]
        for key, value in given.items():
            if key != "source" and key not in KEYWORDS:
                raise MarkerError(
                    f"@pytest.mark.model has no keyword {key!r}{did_you_mean(key, KEYWORDS)}",
                    where=where,
                    remedy=f"known: source, {', '.join(KEYWORDS)}",
                )
            merged.setdefault(key, value)
    return merged


def parse(merged: Mapping[str, Any], *, where: str, words: Words) -> ModelNeeds:
    """Turn merged keywords (without ``source``) into needs. ``browser_pool.load`` uses it for its keywords
    too.

    Raises:
        MarkerError: an unknown keyword, a wrong value, or keywords that contradict each other.
    """
    values: dict[str, Any] = {}
    for key, value in merged.items():
        if key not in KEYWORDS:
            raise MarkerError(
                f"no keyword {key!r}{did_you_mean(key, KEYWORDS)}",
                where=where,
                remedy=f"known: {', '.join(KEYWORDS)}",
            )
        if value is not None:
            values[key] = normalise(key, value, where=where, words=words)
    needs = ModelNeeds(**values)
    check(needs, where=where)
    return needs


def source_label(source: Any, *, test_file: Path, rootdir: Path, where: str) -> str | None:
    """``source`` in words, the same on every node: what tests share a model by before its bytes are known.

    A path is given relative to ``rootdir`` where it exists, so that two tests in different directories
    agree; bytes
    and protos by their SHA-256; a function by its name and what it was made with, for calling it may be dear.

    Raises:
        MarkerError: ``source`` is none of the kinds that a model can come from.
    """
    if source is None:
        return None
    if isinstance(source, os.PathLike):
        source = os.fsdecode(source)
    if isinstance(source, str):
        return in_words(source if source.startswith(REFERENCES) else _path_label(source, test_file, rootdir))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"sha256:{hashlib.sha256(source).hexdigest()}"
    if callable(getattr(source, "SerializeToString", None)):
        return f"sha256:{hashlib.sha256(_serialised(source, where)).hexdigest()}"
    if callable(source):
        return f"function:{function_name(source)}"
    raise MarkerError(
        f"source is {source!r}, a {type(source).__name__}",
        where=where,
        remedy="give a path, a pypi:, npm:, hf: or https: reference, bytes, an onnx.ModelProto, "
        "or a function that returns one of those",
    )


def _serialised(proto: Any, where: str) -> bytes:
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except Exception as error:  # protobuf's own: more than 2 GiB, a field that is missing
        raise MarkerError(
            f"source is a {type(proto).__name__} that cannot be serialised: {error}",
            where=where,
            remedy="save the model to a file, its weights as external data, and give its path",
        ) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a directory that may not be read: reading it will say so
        return False


def _path_label(source: str, test_file: Path, rootdir: Path) -> str:
    path, hash_mark, pin = source.partition("#sha256=")
    for base in (test_file.parent, rootdir):
        candidate = base / path
        if _exists(candidate):
            resolved = Path(os.path.normpath(candidate))
            inside = (
                resolved.relative_to(rootdir).as_posix()
                if resolved.is_relative_to(rootdir)
                else str(resolved)
            )
            return inside + hash_mark + pin
    return source


# -- on="each" -----------------------------------------------------------------------------------------------


def each_names(needs: ModelNeeds, words: Words) -> list[str]:
    """The browser names that ``on="each"`` makes items for, sorted as the user named them, else by name.

    A name or family that the user wrote stands for all known browsers that answer to it; a word that none
    answers
    to gets an item of its own, which is skipped with the reason.
    """
    wanted = needs.browsers or words.chosen
    if not wanted:
        return sorted(words.installed)
    names: dict[str, None] = {}
    for word in wanted:
        answering = [name for name, family in sorted(words.installed.items()) if word in (name, family)]
        names.update(dict.fromkeys(answering or [word]))
    return list(names)


@pytest.fixture
def _browserpool_each(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item for each browser where the marker says ``on="each"``."""
    marks = marks_of(metafunc.definition)
    if not marks or not {"model", "browser_pool"} & set(metafunc.fixturenames):
        return
    words = metafunc.config.stash[WORDS_KEY]
    nodeid = metafunc.definition.nodeid
    try:
        merged = merge(marks, where=nodeid)
        if not isinstance(merged.get("on"), str) or merged["on"] != "each":
            return
        merged.pop("source", None)
        names = each_names(parse(merged, where=nodeid, words=words), words)
    except MarkerError:
        return  # the test stays one item and fails at set-up, where request_for raises this again
    if not names:
        return  # pytest would make an item without a value; see ``_narrowed``
    metafunc.fixturenames.append(EACH)
    metafunc.parametrize(EACH, names, ids=names, indirect=True)
