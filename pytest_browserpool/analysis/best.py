"""The best browser and backend for a model or a type of models, from ways that were measured in the same runs. Pure.

Two ways are compared only where both were measured: in one run on one host, on the same input sizes (and for a type, on
the same models). Each such block gives one log ratio, the median over what both did there. Blocks where only one ran
say nothing and are left out, so a slow day of the machine favours nobody.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_browserpool.analysis.intervals import ALPHA, Interval, blocks_wanted, paired
from pytest_browserpool.analysis.samples import Cell, Way

Block = tuple[str, str]
"""(run, host)."""

BEST, TIE, OPEN, ALONE = "best", "tie", "not enough data", "only one way"
"""Verdicts: one way is shown to be the quickest; the rest of the near ones is shown to be within 10 %; undecided; no
other way was measured in the same runs."""


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One way beside the quickest."""

    way: Way
    ratio: Interval
    """Log of its time over the quickest's."""
    calls: int
    typical_ms: float
    """Median over its blocks: for orientation, the ratio is what was tested."""
    more_blocks: int | None
    """Blocks that would probably settle it; 0: settled. None: hundreds."""

    @property
    def slower(self) -> bool:
        return self.ratio.beyond()


@dataclass(frozen=True, kw_only=True)
class Best:
    """What is known of the ways to run one subject."""

    subject: str
    """A model, or a type of models."""
    of_type: bool
    type: str
    verdict: str
    way: Way
    """The quickest; with verdict tie or not enough data, the one that looks so."""
    typical_ms: float
    calls: int
    blocks: int
    """Runs × hosts in which it was measured beside another."""
    rivals: tuple[Rival, ...]
    """By time, the quickest first."""
    apart: tuple[Way, ...]
    """Ways that never ran in one run with the quickest: nothing is said of them."""
    more_runs: int | None
    """Runs like the last ones that would probably settle it; 0: settled. None: hundreds."""

    @property
    def settled(self) -> bool:
        return self.verdict in (BEST, TIE)

    def rival(self, way: Way) -> Rival | None:
        return next((r for r in self.rivals if r.way == way), None)

    @property
    def as_good(self) -> tuple[Way, ...]:
        """The ways that are not shown to be slower, the quickest first."""
        return (self.way, *(r.way for r in self.rivals if not r.slower))


Table = dict[Way, dict[Block, dict[tuple[str, int], float]]]
"""Way → block → (model, size) → log of the typical time."""


def of_models(cells: Iterable[Cell], alpha: float = ALPHA) -> list[Best]:
    """One verdict for each model, by name."""
    grouped: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        grouped[cell.model].append(cell)
    return [verdict(name, group, of_type=False, alpha=alpha) for name, group in sorted(grouped.items())]


def of_types(cells: Iterable[Cell], alpha: float = ALPHA) -> list[Best]:
    """One verdict for each type that has two models or more; with one, the model's own says it all."""
    grouped: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.type:
            grouped[cell.type].append(cell)
    return [
        verdict(name, group, of_type=True, alpha=alpha)
        for name, group in sorted(grouped.items())
        if len({cell.model for cell in group}) > 1
    ]


def verdict(subject: str, cells: Sequence[Cell], *, of_type: bool, alpha: float = ALPHA) -> Best:
    """Which way is the quickest, with 1 − ``alpha`` confidence that no wrong one is called so.

    The quickest is picked from the same data that it is then tested with. A wrong one can only be called best if one
    of the k − 1 intervals between the truly best way and another lies on the wrong side; each is given
    ``alpha / (k − 1)``, so together they do so with at most ``alpha``.
    """
    table, calls, typical = _tables(cells)
    ways = sorted(table)
    differences = {(a, b): _differences(table[a], table[b]) for a in ways for b in ways if a != b}
    first = _quickest(ways, differences, typical)
    others = [w for w in ways if w != first and differences[w, first]]
    share = alpha / max(1, len(others))
    rivals = []
    for way in others:
        found = paired(differences[way, first], share)
        settled = found.known and (found.beyond() or found.within())
        more = 0 if settled else blocks_wanted(differences[way, first], share)
        rivals.append(
            Rival(way=way, ratio=found, calls=calls[way], typical_ms=typical[way], more_blocks=more)
        )
    rivals.sort(key=lambda r: (r.ratio.middle, r.way))
    blocks = {block for way in others for block in table[way] if block in table[first]}
    return Best(
        subject=subject,
        of_type=of_type,
        type=next((c.type for c in cells if c.type), ""),
        verdict=_word(rivals),
        way=first,
        typical_ms=typical[first],
        calls=calls[first],
        blocks=len(blocks),
        rivals=tuple(rivals),
        apart=tuple(way for way in ways if way != first and way not in others),
        more_runs=_runs(rivals, blocks),
    )


def _tables(cells: Sequence[Cell]) -> tuple[Table, dict[Way, int], dict[Way, float]]:
    table: Table = defaultdict(lambda: defaultdict(dict))
    calls: dict[Way, int] = defaultdict(int)
    all_of: dict[Way, list[float]] = defaultdict(list)
    for cell in cells:
        if cell.typical > 0:
            table[cell.way][cell.run, cell.host][cell.model, cell.size] = math.log(cell.typical)
            calls[cell.way] += cell.count
            all_of[cell.way].append(cell.typical)
    return table, calls, {way: statistics.median(values) for way, values in all_of.items()}


def _differences(
    here: dict[Block, dict[tuple[str, int], float]], there: dict[Block, dict[tuple[str, int], float]]
) -> list[float]:
    """Log of here over there, one for each block that both have something in common in."""
    found = []
    for block in sorted(here.keys() & there.keys()):
        common = here[block].keys() & there[block].keys()
        if common:
            found.append(statistics.median(here[block][work] - there[block][work] for work in common))
    return found


def _quickest(
    ways: Sequence[Way], differences: dict[tuple[Way, Way], list[float]], typical: dict[Way, float]
) -> Way:
    """One that no other beats in the median of their blocks; of several such, the one compared with the most others.
    Where each is beaten by some other, the one that is beaten by least."""

    def rank(way: Way) -> tuple[bool, float, int, float, Way]:
        medians = [statistics.median(d) for (a, _), d in differences.items() if a == way and d]
        return not medians, max(0.0, *medians, 0.0), -len(medians), typical[way], way

    return min(ways, key=rank)


def _word(rivals: Sequence[Rival]) -> str:
    if not rivals:
        return ALONE
    if any(not (r.slower or r.ratio.within()) for r in rivals):
        return OPEN
    return BEST if all(r.slower for r in rivals) else TIE


def _runs(rivals: Sequence[Rival], blocks: set[Block]) -> int | None:
    """Blocks to runs: a run on three hosts gives three."""
    if any(r.more_blocks is None for r in rivals):
        return None
    most = max((r.more_blocks or 0 for r in rivals), default=0)
    runs = len({run for run, _ in blocks}) or 1
    return math.ceil(most * runs / max(1, len(blocks)))
