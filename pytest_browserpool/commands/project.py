"""Where the project around the current directory keeps its history, if its configuration of pytest says so."""

from __future__ import annotations

import configparser
import tomllib
from pathlib import Path
from typing import Any

FILES: dict[str, tuple[str, ...]] = {
    "pytest.toml": ("pytest",),
    ".pytest.toml": ("pytest",),
    "pytest.ini": ("pytest",),
    ".pytest.ini": ("pytest",),
    "pyproject.toml": ("tool.pytest", "tool.pytest.ini_options"),
    "tox.ini": ("pytest",),
    "setup.cfg": ("tool:pytest",),
}
"""Pytest's files in the order in which it looks, and the tables that are its own."""

ALWAYS = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini")
"""They are pytest's even where they say nothing; the others only with such a table."""


def configured_history(start: Path) -> Path | None:
    """``browserpool_db`` of the project that ``start`` lies in, from its root; None where nothing says it, or a file cannot
    be read: pytest says what is wrong with that."""
    for directory in (start, *start.parents):
        for name in FILES:
            values = _values(directory / name)
            if values is None:
                continue
            told = values.get("browserpool_db")
            return directory / Path(str(told)).expanduser() if told else None
    return None


def _values(path: Path) -> dict[str, Any] | None:
    """What a file says to pytest; None where it is not there, or none of pytest's."""
    if not path.is_file():
        return None
    found: dict[str, Any] | None = {} if path.name in ALWAYS else None
    try:
        text = path.read_text(encoding="utf-8-sig")
        tables = _toml(text) if path.suffix == ".toml" else _ini(text)
    except (OSError, ValueError, configparser.Error):
        return found
    for table in FILES[path.name]:
        if table in tables:
            found = {**(found or {}), **tables[table]}
    return found


def _ini(text: str) -> dict[str, dict[str, Any]]:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def _toml(text: str) -> dict[str, dict[str, Any]]:
    content = tomllib.loads(text)
    found = {"pytest": content.get("pytest"), "tool.pytest": content.get("tool", {}).get("pytest")}
    found["tool.pytest.ini_options"] = (found["tool.pytest"] or {}).get("ini_options")
    return {name: table for name, table in found.items() if isinstance(table, dict)}
