"""What kills of shards came to, as ``sharding_recovery.py`` keeps it in a file and prints it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Unit:
    """What is run in one go: a shard killed at some steps in a row."""

    level: str
    phase: str
    shard: int
    steps: tuple[int, int]
    """The first one, and the one after the last."""

    def within(self, other: Unit) -> bool:
        first, after = other.steps
        return replace(self, steps=other.steps) == other and first <= self.steps[0] and self.steps[1] <= after


@dataclass
class Outcome:
    """What its kills came to."""

    unit: Unit
    browser: str = ""
    kills: int = 0
    same: int = 0
    """Steps whose answer had the bits of the undisturbed run."""
    told: int = 0
    """Steps that failed, with the fault in the history."""
    replayed: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of each disturbed step."""
    load: float = 0.0
    """Of the machine, one minute's mean, when the unit ended."""

    @property
    def right(self) -> bool:
        expected = self.told if self.unit.level == "none" else self.same
        return 0 < self.kills == expected


def together(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One for each level, phase and shard."""
    found = dict[tuple[str, str, int], Outcome]()
    for each in outcomes:
        unit = each.unit
        whole = found.setdefault(
            (unit.level, unit.phase, unit.shard), Outcome(unit, browser=each.browser, load=each.load)
        )
        whole.unit = replace(
            unit, steps=(min(whole.unit.steps[0], unit.steps[0]), max(whole.unit.steps[1], unit.steps[1]))
        )
        if each.browser not in whole.browser.split(", "):  # the cut may change with the speeds that were seen
            whole.browser += f", {each.browser}"
        whole.kills, whole.same = whole.kills + each.kills, whole.same + each.same
        whole.told, whole.replayed = whole.told + each.told, whole.replayed + each.replayed
        whole.seconds += each.seconds
        whole.load = max(whole.load, each.load)
    return list(found.values())


def line(outcome: Outcome) -> str:
    unit, seconds = outcome.unit, outcome.seconds
    same = f"{outcome.told} failed, told" if unit.level == "none" else f"{outcome.same} the same bits"
    return (
        f"| {unit.level} | {unit.phase} | {unit.shard}, {outcome.browser} "
        f"| {unit.steps[0]} – {unit.steps[1] - 1} | {outcome.kills} | {same} "
        f"| {statistics.median(seconds):.2f} | {max(seconds):.2f} | {outcome.replayed} | {outcome.load:.1f} |"
    )


def kept(path: Path | None) -> list[Outcome]:
    """What an earlier run left there."""
    if path is None or not path.exists():
        return []
    rows = [json.loads(each) for each in path.read_text().splitlines()]
    units = [Unit(**{**row["unit"], "steps": tuple(row["unit"]["steps"])}) for row in rows]
    return [Outcome(**{**row, "unit": unit}) for row, unit in zip(rows, units, strict=True)]


def keep(outcome: Outcome, path: Path | None) -> None:
    if path is not None:
        with path.open("a") as out:
            out.write(json.dumps(asdict(outcome)) + "\n")
