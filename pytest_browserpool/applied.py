"""The file beside the history that ``browserpool apply`` writes and the next run reads: TOML, for people to read too."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_browserpool.config import Settings, did_you_mean
from pytest_browserpool.errors import ConfigurationError
from pytest_browserpool.preferences import AppliedChange, Preference
from pytest_browserpool.values import BACKENDS

HEAD = """\
# What `browserpool apply` set for the next runs that write to the history beside this file.
# `browserpool apply --undo` takes the last change back. Edit or remove it as you like: markers and options that say
# otherwise win, and where a node has not the browser or backend that is preferred here, nothing is preferred.
"""

_WAY = ("model", "type", "browser", "backend", "adapter")
_TEXT = ("id", "title", "evidence")
_KEYS = (
    *_TEXT,
    "applied_at",
    "expected_s",
    "model",
    "type",
    "browser",
    "backend",
    "adapter",
    "max_browsers",
    "nodes",
    "of_nodes",
)


def path_of(db: Path) -> Path:
    """Where the file of the history ``db`` is: ``history.applied.toml`` beside ``history.duckdb``."""
    return db.with_name(f"{db.stem}.applied.toml")


def read(path: Path) -> tuple[AppliedChange, ...]:
    """What the file says; nothing where there is none.

    Raises:
        ConfigurationError: it is no TOML, or says something that is not understood.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(f"cannot be read: {error}", path) from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(f"is not TOML: {error}", path) from error
    entries = tables.pop("applied", [])
    if tables or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _wrong(f"has {', '.join(tables) or 'applied'} in it, and takes only [[applied]] tables", path)
    return tuple(_change(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, 1))


def _wrong(what: str, where: object) -> ConfigurationError:
    remedy = "mend or remove it; `browserpool apply --undo` brings the one before back"
    return ConfigurationError(f"the file of applied recommendations {what}", where=str(where), remedy=remedy)


def _change(entry: Mapping[str, Any], where: str) -> AppliedChange:
    for key in entry:
        if key not in _KEYS:
            raise _wrong(f"has the unknown key {key!r}{did_you_mean(key, _KEYS)}", where)
    for key in (*_WAY, *_TEXT):
        if not isinstance(entry.get(key, ""), str):
            raise _wrong(f"has {key} = {entry[key]!r}, which should be text", where)
    at = entry.get("applied_at", datetime.fromtimestamp(0, UTC))
    expected = entry.get("expected_s")
    if not isinstance(at, datetime) or not isinstance(expected, (int, float, type(None))):
        raise _wrong("needs a time in applied_at and a number in expected_s", where)
    most, nodes = entry.get("max_browsers"), entry.get("nodes", {})
    counts = [*nodes.values()] if isinstance(nodes, dict) else [None]
    if most is not None:
        counts.append(most)
    if "of_nodes" in entry:
        counts.append(entry["of_nodes"])
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in counts):
        raise _wrong("needs whole numbers of at least 1 in max_browsers, nodes and of_nodes", where)
    return AppliedChange(
        **{key: entry.get(key, "") for key in _TEXT},
        applied_at=(at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp(),
        expected_s=expected,
        prefer=_preference(entry, where),
        max_browsers=most,
        nodes=dict(nodes),
        of_nodes=entry.get("of_nodes"),
    )


def _preference(entry: Mapping[str, Any], where: str) -> Preference | None:
    given = {key: entry[key] for key in _WAY if entry.get(key)}
    if not given:
        return None
    if "browser" not in given or "backend" not in given or ("model" in given) == ("type" in given):
        raise _wrong("prefers a way by browser and backend, for either a model or a type", where)
    if given["backend"] not in BACKENDS:
        hint = did_you_mean(given["backend"], BACKENDS)
        raise _wrong(f"has backend = {given['backend']!r}{hint}; one of {', '.join(BACKENDS)}", where)
    if given.get("adapter", "software") not in ("software", "hardware"):
        raise _wrong(f"has adapter = {given['adapter']!r}; software or hardware, or leave it out", where)
    return Preference(**given)


def header(settings: Settings) -> str:
    """The line at the start of a run that uses what was applied."""
    titles = "; ".join(change.title for change in settings.applied)
    return f"browserpool: as applied: {titles} (browserpool apply --undo takes the last back)"


# -- writing -------------------------------------------------------------------------------------------------


def text_of(changes: Iterable[AppliedChange]) -> str:
    """``changes`` as the file has them."""
    parts = [HEAD]
    for change in changes:
        lines = ["[[applied]]", *(f"{key} = {_string(getattr(change, key))}" for key in _TEXT)]
        lines.append(f"applied_at = {datetime.fromtimestamp(change.applied_at, UTC):%Y-%m-%dT%H:%M:%SZ}")
        if change.expected_s is not None:
            lines.append(f"expected_s = {change.expected_s:.3f}")
        if change.prefer is not None:
            for key in _WAY:
                if getattr(change.prefer, key):
                    lines.append(f"{key} = {_string(getattr(change.prefer, key))}")
        if change.max_browsers is not None:
            lines.append(f"max_browsers = {change.max_browsers}")
        if change.nodes:
            pairs = ", ".join(f"{_string(name)} = {count}" for name, count in sorted(change.nodes.items()))
            lines.append(f"nodes = {{ {pairs} }}")
        if change.of_nodes is not None:
            lines.append(f"of_nodes = {change.of_nodes}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _string(text: str) -> str:
    """A basic string of TOML: JSON's escapes are among TOML's, which wants DEL escaped as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def merged(old: Sequence[AppliedChange], new: Sequence[AppliedChange]) -> tuple[AppliedChange, ...]:
    """``old`` with ``new``: one with an id that is there already takes its place."""
    by_id = {change.id: change for change in old}
    for change in new:
        by_id.pop(change.id, None)
        by_id[change.id] = change
    return tuple(by_id.values())


def write(path: Path, changes: Sequence[AppliedChange]) -> None:
    """Replace the file; what it said before is kept beside it, for ``undo``.

    Raises:
        ConfigurationError: the directory cannot be written to.
    """
    text, backup = text_of(changes).encode(), None
    try:
        before = path.read_bytes() if path.exists() else b""
        kept = _kept(path)
        number = int(kept[-1].suffix[1:]) + 1 if kept else 1
        backup = path.with_name(f"{path.name}.{number:03d}")
        backup.write_bytes(before)
        _replace(path, text)
    except OSError as error:
        if backup is not None:  # nothing was changed: the next undo is not to bring back what is there
            with suppress(OSError):
                backup.unlink(missing_ok=True)
        raise _wrong(f"cannot be written: {error}", path) from error


def undo(path: Path) -> bool:
    """Bring back what the file said before the last change. False: nothing is kept, nothing was changed.

    Raises:
        ConfigurationError: the directory cannot be written to.
    """
    kept = _kept(path)
    if not kept:
        return False
    try:
        before = kept[-1].read_bytes()
        if before:
            _replace(path, before)
        else:
            path.unlink(missing_ok=True)
        kept[-1].unlink()
    except OSError as error:
        raise _wrong(f"cannot be restored: {error}", path) from error
    return True


def _kept(path: Path) -> list[Path]:
    try:
        beside = [each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}.")]
    except FileNotFoundError:
        return []
    found = [each for each in beside if each.stem == path.name and each.suffix[1:].isdecimal()]
    return sorted(found, key=lambda each: int(each.suffix[1:]))


def _replace(path: Path, content: bytes) -> None:
    """All of it or nothing: a run that starts meanwhile reads either."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
