"""The keywords of the ``model`` marker: what each may hold, and which contradict each other. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_browserpool.config import FAMILIES, MOST_SECONDS, did_you_mean
from pytest_browserpool.errors import MarkerError
from pytest_browserpool.values import BACKEND_ALIASES, BACKENDS, STRATEGIES, ModelNeeds

SHARDINGS = ("layer_balanced", "attention_feedforward", "component", "auto")
TOLERANCES = ("none", "low", "medium", "high")
ON = ("best", "each")

NAMES = ("chrome", "chromium", "edge", "firefox", "headless-shell", "webkit")
"""Browser names of the built-in catalogue; families and custom names are allowed beside them."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """The browser words that a run knows, the same on every node: the controller's."""

    installed: Mapping[str, str] = field(default_factory=dict)
    """Browser name → family of what the controller found."""
    custom: tuple[str, ...] = ()
    """Names from ``[tool.browserpool.browsers]`` and from hooks."""
    chosen: tuple[str, ...] = ()
    """``--browserpool-browsers``."""
    strategies: tuple[str, ...] = STRATEGIES
    """Recovery strategies: the built-in ones, and those that hooks add."""

    @property
    def allowed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*NAMES, *FAMILIES, *self.custom, *self.installed)))

    def to_plain(self) -> dict[str, Any]:
        return {
            "installed": dict(self.installed),
            "custom": list(self.custom),
            "chosen": list(self.chosen),
            "strategies": list(self.strategies),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Words:
        return cls(
            installed=dict(plain["installed"]),
            custom=tuple(plain["custom"]),
            chosen=tuple(plain["chosen"]),
            strategies=tuple(plain.get("strategies", STRATEGIES)),
        )


def normalise(key: str, value: Any, *, where: str, words: Words) -> Any:
    """The value of keyword ``key`` in the form that :class:`ModelNeeds` holds.

    Raises:
        MarkerError: the value is wrong; says what would be right.
    """
    return KEYWORDS[key](key, value, where, words)


def _wrong(key: str, value: Any, where: str, remedy: str, hint: str = "") -> MarkerError:
    return MarkerError(f"{key} is {value!r}{hint}", where=where, remedy=remedy)


def _unicode(text: str) -> bool:
    """Whether UTF-8 can say it: half a surrogate pair travels to no other process."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _word(key: str, value: Any, where: str, words: Words) -> str:
    if not isinstance(value, str) or not value.strip() or not _unicode(value):
        raise _wrong(key, value, where, "give a word")
    return value


def _one_of(allowed: Sequence[str]) -> Callable[[str, Any, str, Words], str]:
    def validate(key: str, value: Any, where: str, words: Words) -> str:
        if not isinstance(value, str) or value not in allowed:  # an array has no single truth
            hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
            raise _wrong(key, value, where, f"one of {', '.join(allowed)}", hint)
        return str(value)

    return validate


def _recovery(key: str, value: Any, where: str, words: Words) -> str:
    return _one_of(words.strategies)(key, value, where, words)


def _list(key: str, value: Any, where: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(word, str) for word in value):
        raise _wrong(key, value, where, "give a name, or a list of names with at least one")
    return list(value)


def _browsers(key: str, value: Any, where: str, words: Words) -> tuple[str, ...]:
    names = _list(key, value, where)
    for name in names:
        if name not in words.allowed:
            raise _wrong(
                key,
                name,
                where,
                f"one of {', '.join(words.allowed)}, or define it in [tool.browserpool.browsers]",
                did_you_mean(name, words.allowed),
            )
    return tuple(dict.fromkeys(names))


def _backends(key: str, value: Any, where: str, words: Words) -> tuple[str, ...]:
    known = (*BACKENDS, *BACKEND_ALIASES)
    names = _list(key, value, where)
    for name in names:
        if name not in known:
            raise _wrong(key, name, where, f"one of {', '.join(known)}", did_you_mean(name, known))
    return tuple(dict.fromkeys(BACKEND_ALIASES.get(name, name) for name in names))


def _shard_backends(key: str, value: Any, where: str, words: Words) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, Mapping) or not value:
        remedy = 'give {"chromium": "webgpu", "firefox": "wasm", …}: a backend, or a list in order, for each browser'
        raise _wrong(key, value, where, remedy)
    browsers = _browsers(key, list(value), where, words)
    return {name: _backends(key, value[name], where, words) for name in browsers}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _above_zero(unit: str) -> Callable[[str, Any, str, Words], float]:
    def validate(key: str, value: Any, where: str, words: Words) -> float:
        if not _is_number(value) or not 0 < value < float("inf"):
            raise _wrong(key, value, where, f"give a finite number of {unit} above 0")
        if value > MOST_SECONDS:  # of GiB too that is a slip
            raise _wrong(key, value, where, f"give at most {MOST_SECONDS:.0f} {unit}")
        return float(value)

    return validate


def _whole(low: int, high: int | None, remedy: str) -> Callable[[str, Any, str, Words], int]:
    def validate(key: str, value: Any, where: str, words: Words) -> int:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < low
            or (high is not None and value > high)
        ):
            raise _wrong(key, value, where, remedy)
        return value

    return validate


def _concurrency_key(key: str, value: Any, where: str, words: Words) -> tuple[str, int]:
    name, limit = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, 1)
    if (
        not isinstance(name, str)
        or not name
        or not _unicode(name)
        or not isinstance(limit, int)
        or isinstance(limit, bool)
        or limit < 1
    ):
        raise _wrong(
            key, value, where, 'give a word such as "gpu", or a word and how many at once such as ("gpu", 2)'
        )
    return name, limit


def _shapes(key: str, value: Any, where: str, words: Words) -> dict[str, tuple[int, ...]]:
    remedy = f'give {{"input": (1, 3, 224, 224), …}}: whole numbers from 0 to {MAX_SIZE}'
    if not isinstance(value, Mapping):
        raise _wrong(key, value, where, remedy)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in value.items():
        sound = isinstance(shape, (tuple, list)) and all(
            isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MAX_SIZE for size in shape
        )
        if not isinstance(name, str) or not _unicode(name) or not sound:
            raise _wrong(key, value, where, remedy)
        shapes[name] = tuple(shape)
    return shapes


MAX_DEPTH = 32
"""Of a dict of session options: those of onnxruntime-web have three levels, and one that holds itself has no end."""


def _plain(value: Any, deep: int = 0) -> bool:
    if deep > MAX_DEPTH:
        return False
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no others, whatever Python writes
    if isinstance(value, str):
        return _unicode(value)
    if value is None or isinstance(value, (int, bool)):
        return True
    if isinstance(value, Mapping):
        return all(
            isinstance(name, str) and _unicode(name) and _plain(inner, deep + 1)
            for name, inner in value.items()
        )
    return isinstance(value, (list, tuple)) and all(_plain(inner, deep + 1) for inner in value)


def _options(key: str, value: Any, where: str, words: Words) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not _plain(value):
        raise _wrong(
            key, value, where, "give a dict that JSON can hold; onnxruntime-web gets it as session options"
        )
    for name in value:
        if name in OURS:
            raise MarkerError(f"session_options has {name!r}", where=where, remedy=OURS[name])
    return dict(value)


MAX_SHARDS = 10_000
"""Far more than anybody has browsers for: each shard has a place in one, and places are made before a model is looked at."""

MAX_SIZE = 1 << 32
"""Of an axis: WebAssembly addresses four GiB, so that no tensor there has more elements."""

OURS: Mapping[str, str] = {
    "executionProviders": "say it with backends=[…]",
    "logSeverityLevel": "drop it: the placement is read from the log, which is complete",
}
"""Session options that every session sets itself, and what to do in their place."""

KEYWORDS: Mapping[str, Callable[[str, Any, str, Words], Any]] = {
    "type": _word,
    "id": _word,
    "browsers": _browsers,
    "backends": _backends,
    "on": _one_of(ON),
    "min_memory": _above_zero("GiB"),
    "priority": _whole(1, 5, "give a whole number from 1 (first) to 5 (last)"),
    "timeout": _above_zero("seconds"),
    "recovery": _recovery,
    "fallback": _one_of(("cpu",)),
    "shards": _whole(1, MAX_SHARDS, f"give a whole number from 1 to {MAX_SHARDS}"),
    "sharding": _one_of(SHARDINGS),
    "shard_backends": _shard_backends,
    "fault_tolerance": _one_of(TOLERANCES),
    "expected_duration": _above_zero("seconds"),
    "concurrency_key": _concurrency_key,
    "input_shapes": _shapes,
    "session_options": _options,
}
"""Keyword → its validator. ``source`` is apart: it is the raw object and stays on the node."""


def check(needs: ModelNeeds, *, where: str) -> None:
    """Refuse keywords that contradict each other.

    Raises:
        MarkerError: names both keywords.
    """
    if needs.on == "each" and (needs.shards or 1) > 1:
        raise MarkerError(
            f'on="each" and shards={needs.shards} contradict each other: '
            "the shards of one model run in several browsers",
            where=where,
            remedy="drop one, or write one test for each set of browsers with browsers=[…] and shards=…",
        )
    if needs.shard_backends and (needs.shards or 1) < 2:
        raise MarkerError(
            f"shard_backends={dict(needs.shard_backends)} without shards: a whole model runs in one browser",
            where=where,
            remedy="give shards=2 or more, or backends=[…] in its place",
        )
    usual = ModelNeeds()
    for name in ("sharding", "fault_tolerance") if needs.shards is None else ():
        if (given := getattr(needs, name)) != getattr(usual, name):
            raise MarkerError(
                f"{name}={given!r} without shards: a whole model is not cut",
                where=where,
                remedy=f"give shards=, or drop {name}",
            )
    if needs.shard_backends and needs.backends:
        raise MarkerError(
            f"backends={list(needs.backends)} and shard_backends={dict(needs.shard_backends)} contradict each other",
            where=where,
            remedy="drop one: backends is one order for all browsers, shard_backends says each one's",
        )
    if needs.fallback == "cpu" and needs.recovery == "none":
        raise MarkerError(
            'fallback="cpu" and recovery="none" contradict each other: '
            "the fallback is the last step of a recovery",
            where=where,
            remedy="drop one of them",
        )
    if needs.fallback == "cpu" and needs.backends == ("wasm",):
        raise MarkerError(
            'fallback="cpu" with backends=["wasm"] changes nothing: wasm is the CPU',
            where=where,
            remedy="drop fallback",
        )


def unequal_limits(tests: Iterable[ModelNeeds | None]) -> list[str]:
    """A line for each word that ``concurrency_key`` of different tests gives different numbers: the least holds."""
    limits: dict[str, set[int]] = {}
    for needs in tests:
        if needs is not None and needs.concurrency_key is not None:
            name, limit = needs.concurrency_key
            limits.setdefault(name, set()).add(limit)
    return [
        f"concurrency_key {name!r} is given with {' and '.join(map(str, sorted(given)))} at once by different tests; "
        f"{min(given)} holds for all of them"
        for name, given in sorted(limits.items())
        if len(given) > 1
    ]
