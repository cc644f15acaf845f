"""A workload's file: text that is JSON, and says nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_browserpool.simulation.workload import Workload, WorkloadError, parse


def read(path: Path) -> Workload:
    """The workload in the JSON file ``path``.

    Raises:
        WorkloadError: the file cannot be read, is not JSON, or does not describe a workload.
    """
    where = str(path)

    def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # json itself takes the last of them without a word: a model would replace another
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise WorkloadError(
                    f"an object has the key {key!r:.80} twice", where=where, remedy="drop one"
                )
            found[key] = value
        return found

    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unambiguous)
    except OSError as error:
        raise WorkloadError(f"cannot read the workload: {error.strerror}", where=where) from error
    except ValueError as error:  # what is not UTF-8, too
        raise WorkloadError(f"not JSON: {error}", where=where) from error
    except RecursionError as error:
        raise WorkloadError("not JSON: nested too deeply", where=where) from error
    return parse(data, where)
