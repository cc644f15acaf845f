"""The commands of ``browserpool``, one module each; here what several of them share."""

from __future__ import annotations

from pathlib import Path

from pytest_browserpool.config import Settings, custom_browsers

ROOT_MARKS = ("pyproject.toml", "pytest.ini", "tox.ini", "setup.cfg", ".git")
"""What the top of a project has; pytest looks for the same files."""


def find_rootdir(start: Path | None = None) -> Path:
    """The nearest directory from ``start`` (the working directory) upwards that looks like a project."""
    here = (start or Path.cwd()).absolute()
    return next((d for d in (here, *here.parents) if any((d / m).exists() for m in ROOT_MARKS)), here)


def settings_of(rootdir: Path) -> Settings:
    """Default settings with the project's own browsers, for a command outside pytest.

    Raises:
        ConfigurationError: a wrong ``[tool.browserpool.browsers]`` table.
    """
    db = rootdir / ".browserpool" / "history.duckdb"
    return Settings(rootdir=str(rootdir), db=str(db), custom=custom_browsers(rootdir))


def readable_size(size: int) -> str:
    """Bytes as people read them, in powers of 1000."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
