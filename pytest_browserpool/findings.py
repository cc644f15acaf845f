"""From a history to its analysis: which runs, the questions to the store, the answers to ``analysis/``."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool import applied
from pytest_browserpool.analysis import Analysis, examine, top_recommendation
from pytest_browserpool.analysis.gain import Came, TestTime, of_preference, of_setup
from pytest_browserpool.analysis.regress import LEAST_FREEDOM, RAW
from pytest_browserpool.analysis.samples import (
    Cell,
    Faulty,
    Free,
    Pace,
    Peak,
    RunInfo,
    Samples,
    Share,
    Way,
)
from pytest_browserpool.errors import HistoryError
from pytest_browserpool.preferences import AppliedChange
from pytest_browserpool.store import measured, queries
from pytest_browserpool.store.connect import reading

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

WINDOW = 30
"""Runs that are looked at unless ``since`` says otherwise: what the scheduler learns from too."""

LEAST_RUNS = 3
"""Runs below which the end of a run says nothing about what to do: no interval can be given yet."""

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Which runs are looked at, and which are compared."""

    window: tuple[RunInfo, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


def look(
    con: DuckDBPyConnection,
    *,
    since: str | None = None,
    against: str | None = None,
    changes: Sequence[AppliedChange] = (),
    now: float | None = None,
) -> Analysis:
    """The analysis of the runs ``since`` a time (7d, 12h), a date or a run; of the last ``WINDOW`` unless given.

    Args:
        against: a run, or a version of pytest-browserpool, of onnxruntime-web or of a browser: what came after it is
            compared with it. Unless given, the last run is compared with those before it.
        changes: what ``browserpool apply`` set, for the gain that came.
        now: seconds since the epoch, for ``since`` as a time span.

    Raises:
        HistoryError: ``since`` or ``against`` names nothing that the history has.
    """
    runs = [run_info(row) for row in measured.runs_of(con)]
    sides = chosen(con, runs, since, against, time.time() if now is None else now)
    samples = asked(con, sides)
    came = [_came(con, change, sides.window, samples.shares) for change in changes]
    return examine(samples, sides.before, sides.after, came)


def chosen(
    con: DuckDBPyConnection, runs: Sequence[RunInfo], since: str | None, against: str | None, now: float
) -> Sides:
    """The runs to look at and to compare."""
    window = list(runs[-WINDOW:]) if since is None else _since(con, runs, since, now)
    if against is None:
        ids = tuple(run.run for run in window)
        return Sides(window=tuple(window), before=ids[:-1], after=ids[-1:])
    before = _baseline(con, runs, against)
    first = min(run.started_at for run in runs if run.run in before)
    after = tuple(run.run for run in runs if run.started_at >= first and run.run not in before)
    wanted = {*before, *after, *(run.run for run in window)}
    return Sides(window=tuple(run for run in runs if run.run in wanted), before=before, after=after)


def _since(con: DuckDBPyConnection, runs: Sequence[RunInfo], since: str, now: float) -> list[RunInfo]:
    span = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", since)
    if span:
        begin = now - float(span[1]) * _UNITS[span[2]]
        return [run for run in runs if run.started_at >= begin]
    try:
        at = datetime.fromisoformat(since)
    except ValueError:
        wanted = queries.find_run(con, since)
        names = [run.run for run in runs]
        if wanted not in names:
            raise _left_out(con, wanted) from None
        return list(runs[names.index(wanted) :])
    begin = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return [run for run in runs if run.started_at >= begin]


def _baseline(con: DuckDBPyConnection, runs: Sequence[RunInfo], against: str) -> tuple[str, ...]:
    """The run that is meant, or all runs of a version; ``153`` is every 153.x.

    Of builds of onnxruntime-web that share a version the pinned one is meant; the others by the hash in their label.
    """
    pinned = any(run.runtime == against for run in runs)

    def means(version: str) -> bool:
        return version == against or version.startswith(f"{against}.")

    found = tuple(
        run.run
        for run in runs
        if means(run.version)
        or means(run.runtime)
        or _is_own(run.runtime, against, by_version=not pinned)
        or any(
            b == against or means(b.rpartition(" ")[2]) or b.startswith(f"{against}.") for b in run.browsers
        )
    )
    if found:
        return found
    try:
        wanted = queries.find_run(con, against)
    except HistoryError:
        remedy = "name a run (browserpool history lists them) or a version that ran, such as 153.0 or 'firefox 153.0'"
        raise HistoryError(f"no run and no version is called {against!r}", remedy=remedy) from None
    if wanted not in [run.run for run in runs]:
        raise _left_out(con, wanted)
    return (wanted,)


def _left_out(con: DuckDBPyConnection, run: str) -> HistoryError:
    """What to raise for a run that the analysis does not look at."""
    why = "ended without tests" if measured.finished(con, run) else "did not end: it goes on, or was killed"
    return HistoryError(f"run {run} {why}", remedy="name another one (browserpool history lists them)")


def _is_own(runtime: str, against: str, *, by_version: bool) -> bool:
    """Whether ``runtime`` is a build of the user's, ``1.29.0 (own, c68f4ca6)``, that is called so: by all of it, its hash,
    or its version."""
    version, own, rest = runtime.partition(" (own, ")
    return bool(own) and (against in (runtime, rest.removesuffix(")")) or (by_version and against == version))


# -- rows to samples -----------------------------------------------------------------------------------------


def asked(con: DuckDBPyConnection, sides: Sides) -> Samples:
    """All that the analysis reads of these runs."""
    ids = [run.run for run in sides.window]
    few = len(sides.before) + len(sides.after) - 2 < LEAST_FREEDOM
    raw = RAW if few and sides.before and sides.after else 0
    alike = _alike(con, sides)
    return Samples(
        runs=sides.window,
        calls=tuple(cell(alike(row), "latency") for row in measured.calls(con, ids, raw)),
        loads=tuple(cell(alike(row), "load time") for row in measured.loads(con, ids, raw)),
        memory=tuple(Peak(**alike(row)) for row in measured.memory(con, ids)),
        pace=tuple(Pace(**row) for row in measured.pace(con, sides.before, sides.after)),
        faulty=tuple(Faulty(**{**row, "kinds": tuple(row["kinds"])}) for row in measured.faulty(con, ids)),
        shares=tuple(Share(**row) for row in measured.shares(con, ids)),
        free=tuple(free(row) for row in measured.free(con, ids[-WINDOW:])),
    )


def _alike(con: DuckDBPyConnection, sides: Sides) -> Callable[[queries.Row], queries.Row]:
    """Puts the kind of a machine in the place of its name where no host ran both before and after: machines that are
    rented for one run each have another name every time, and only their kind stays."""
    rows = measured.machines(con, [*sides.before, *sides.after])
    before = {row["host"] for row in rows if row["run"] in sides.before}
    after = {row["host"] for row in rows if row["run"] in sides.after}
    if before & after or not before or not after:
        return lambda row: row
    kinds = {row["host"]: row["kind"] for row in rows}
    return lambda row: {**row, "host": kinds.get(row["host"], row["host"])}


def run_info(row: Mapping[str, Any]) -> RunInfo:
    return RunInfo(**{**row, "browsers": tuple(row["browsers"])})


def _way(row: Mapping[str, Any]) -> tuple[Way, dict[str, Any]]:
    rest = {key: value for key, value in row.items() if key not in ("browser", "backend", "adapter")}
    return Way(row["browser"], row["backend"], row["adapter"]), rest


def cell(row: Mapping[str, Any], metric: str) -> Cell:
    way, rest = _way(row)
    return Cell(**{**rest, "raw": tuple(rest.get("raw", ()))}, way=way, metric=metric)


def free(row: Mapping[str, Any]) -> Free:
    way, rest = _way(row)
    return Free(**rest, way=way)


def _came(
    con: DuckDBPyConnection, change: AppliedChange, runs: Sequence[RunInfo], shares: Iterable[Share]
) -> Came:
    since = [
        run for run in measured.runs_with(con, change.id, change.applied_at) if run in {r.run for r in runs}
    ]
    if change.prefer is None:
        return of_setup(change, shares, since)
    if not since:
        return Came(change=change, runs=0, saved=None)
    of = {"type": change.prefer.type} if change.prefer.type else {"model": change.prefer.model}
    rows = measured.seconds_of_tests(con, [run.run for run in runs], **of)
    return of_preference(change, [TestTime(**row) for row in rows], since)


def ever_applied(con: DuckDBPyConnection) -> list[Came]:
    """What any run used of what ``browserpool apply`` set, taken back since or not, and what came of it; the last of
    each id."""
    runs = [run_info(row) for row in measured.runs_of(con)]
    shares = [Share(**row) for row in measured.shares(con, [run.run for run in runs])]
    changes = [AppliedChange.from_plain(json.loads(text)) for text in measured.changes(con)]
    return [_came(con, change, runs, shares) for change in changes]


# -- the end of a run ----------------------------------------------------------------------------------------


def advice(db: Path) -> str | None:
    """The one line for the end of a run: what matters most in the history ``db``, or None.

    Raises:
        HistoryError: the history cannot be read.
    """
    if not db.exists():
        return None
    with reading(db) as con:
        runs = con.execute("SELECT count(*) FROM runs").fetchone()
        if runs is None or runs[0] < LEAST_RUNS:
            return None
        try:
            return top_recommendation(look(con, changes=applied.read(applied.path_of(db))))
        except Exception as error:  # noqa: BLE001  the tests are over and their outcome stands: it is said, not raised
            return f"none: the analysis failed with {error!r}; browserpool analyze shows where"
