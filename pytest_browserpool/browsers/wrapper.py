"""Scripts that Playwright starts in place of a browser; each becomes the browser, in the same process."""

from __future__ import annotations

import os
from pathlib import Path


def script(folder: Path, name: str, text: str) -> Path | None:
    """``text`` as an executable file ``folder/name``, written once.

    None where ``folder`` is on a disk from which nothing may be executed, or on Windows.
    """
    if os.name != "posix":
        return None
    path = folder / name
    if not path.exists():
        partial = path.with_suffix(".new")
        partial.write_text(text)
        partial.chmod(0o700)
        partial.replace(path)
    return path if os.access(path, os.X_OK) else None
