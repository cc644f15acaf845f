"""What to do about what was found: each with its evidence, and what it is expected to save. Pure.

A recommendation is only made on an interval that leaves out "no difference". Its gain counts the seconds of those tests
alone that may run elsewhere (their decisions name alternatives), less what dearer loads take away again.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_browserpool.analysis.best import Best
from pytest_browserpool.analysis.flaky import Flaky
from pytest_browserpool.analysis.intervals import EFFECT, LEAST_BLOCKS, Interval
from pytest_browserpool.analysis.nodes import Spread
from pytest_browserpool.analysis.samples import Cell, Free, RunInfo, Samples, Share, Way
from pytest_browserpool.preferences import AppliedChange, Preference

_PACKAGE = re.compile(r"(?:pypi|npm|hf):((?:@[^/]+/)?[^/@=]+)")

LEAST_GAIN_S = 0.5
"""Seconds a run: less is not worth a change of anything."""
IDLE = 0.4
"""Share of idle node time that is worth a word: at that, three nodes do the work of five."""
KEPT = 0.85
"""Share of use to aim at with fewer nodes: the end of a run is never even."""
LONGEST = 0.5
"""Share of a run that one test takes before splitting it is worth a word: no number of nodes makes it shorter."""
RECENT = 10
"""Runs that tell what a run is like now; older ones only help to compare ways."""

PREFER, POOL, NODES, ADVICE = "prefer", "pool", "nodes", "advice"


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One thing to do."""

    id: str
    kind: str
    """prefer, pool or nodes: ``browserpool apply`` does it; advice: a person must."""
    title: str
    evidence: str
    gain_s: float | None = None
    """Seconds that a run is expected to save; None where that cannot be said."""
    gain_low_s: float | None = None
    gain_high_s: float | None = None
    prefer: Preference | None = None
    max_browsers: int | None = None
    nodes: tuple[tuple[str, int], ...] = ()
    of_nodes: int | None = None

    @property
    def appliable(self) -> bool:
        return self.kind != ADVICE

    def applied(self, at: float) -> AppliedChange:
        """What is written down when it is applied at ``at`` (seconds since the epoch)."""
        return AppliedChange(
            id=self.id,
            title=self.title,
            evidence=self.evidence,
            applied_at=at,
            expected_s=self.gain_s,
            prefer=self.prefer,
            max_browsers=self.max_browsers,
            nodes=dict(self.nodes),
            of_nodes=self.of_nodes,
        )


def recommendations(
    samples: Samples,
    models: Sequence[Best],
    types: Sequence[Best],
    spread: Spread | None,
    flaky: Iterable[Flaky],
) -> list[Recommendation]:
    """Everything worth doing, the largest gain first, then what has none in seconds."""
    recent = [run.run for run in samples.runs[-RECENT:]]
    free = [row for row in samples.free if row.run in recent]
    found = preferences(models, types, free, samples.loads, recent)
    shares = [share for share in samples.shares if share.run in recent]
    seconds = {run.run: run for run in samples.runs if run.run in recent}
    found += pool(shares)
    found += nodes(shares, seconds)
    found.sort(key=lambda r: (-(r.gain_s or 0.0), r.id))
    return [*found, *_of_flaky(flaky), *_of_spread(spread)]


# -- preferred ways ------------------------------------------------------------------------------------------


def preferences(
    models: Sequence[Best],
    types: Sequence[Best],
    free: Sequence[Free],
    loads: Sequence[Cell],
    recent: Sequence[str],
) -> list[Recommendation]:
    """Ways to prefer, by model; one for a whole type where that is as good for each of its models."""
    of_model: dict[str, list[Free]] = defaultdict(list)
    for row in free:
        of_model[row.model].append(row)
    single = {
        best.subject: made
        for best in models
        if (made := _prefer(best, of_model[best.subject], loads, recent)) is not None
    }
    found = []
    for best in types:
        members = [m for m in models if m.type == best.subject and of_model[m.subject]]
        together = _standard(best, members, single, of_model)
        if together is not None:
            found.append(together)
            for member in members:
                single.pop(member.subject, None)
    return found + list(single.values())


def _prefer(
    best: Best, free: Sequence[Free], loads: Sequence[Cell], recent: Sequence[str]
) -> Recommendation | None:
    used = _seconds_by_way(free)
    slow = {way: rival for way in used if (rival := best.rival(way)) is not None and _worth(rival.ratio)}
    if not slow:
        return None
    gains = [0.0, 0.0, 0.0]
    for way, rival in slow.items():
        extra = _extra_load(way, best.way, best.subject, loads, recent)
        for i, ratio in enumerate((rival.ratio.middle, rival.ratio.low, rival.ratio.high)):
            gains[i] += used[way] * (1 - math.exp(-ratio)) - extra
    if gains[0] < LEAST_GAIN_S:
        return None
    now = max(slow, key=lambda way: used[way])
    return Recommendation(
        id=f"prefer/{best.subject}",
        kind=PREFER,
        title=f"run {short(best.subject)} on {best.way}",
        evidence=f"{now} takes {times(slow[now].ratio)} as long a call",
        gain_s=gains[0],
        gain_low_s=gains[1],
        gain_high_s=gains[2],
        prefer=_preference(best.way, model=best.subject),
    )


def _preference(way: Way, *, model: str = "", type: str = "") -> Preference:
    return Preference(browser=way.browser, backend=way.backend, adapter=way.adapter, model=model, type=type)


def _worth(ratio: Interval) -> bool:
    return ratio.beyond() and ratio.middle >= EFFECT


def _seconds_by_way(free: Iterable[Free]) -> dict[Way, float]:
    """Seconds of calls that a run spends on each way: medians over the runs in which it was used."""
    grouped: dict[Way, list[float]] = defaultdict(list)
    for row in free:
        grouped[row.way].append(row.call_s)
    return {way: statistics.median(values) for way, values in grouped.items()}


def _extra_load(way: Way, better: Way, model: str, loads: Iterable[Cell], recent: Sequence[str]) -> float:
    """Seconds that loading in the better way takes beyond loading in this one, over a run's nodes."""
    typical: dict[Way, list[float]] = defaultdict(list)
    times_a_run: dict[str, int] = defaultdict(int)
    for cell in loads:
        if cell.model == model and cell.way in (way, better) and cell.run in recent:
            typical[cell.way].append(cell.typical)
            if cell.way == way:
                times_a_run[cell.run] += cell.count
    if not typical[way] or not typical[better]:
        return 0.0
    each = statistics.median(typical[better]) - statistics.median(typical[way])
    return max(0.0, each) * statistics.median(times_a_run.values())


def _standard(
    best: Best, members: Sequence[Best], single: dict[str, Recommendation], of_model: dict[str, list[Free]]
) -> Recommendation | None:
    """One way for a type, where no model of it is shown to lose more than 10 % by it and several ways are in use."""
    if len(members) < 2 or not best.settled:
        return None
    ways = {way for member in members for way in _seconds_by_way(of_model[member.subject])}
    if len(ways) < 2 or not all(_near_best(member, best.way) for member in members):
        return None
    gain = 0.0
    for member in members:
        for way, seconds in _seconds_by_way(of_model[member.subject]).items():
            rival = best.rival(way)
            if rival is not None and rival.slower:
                gain += seconds * (1 - math.exp(-rival.ratio.middle))
    if gain < LEAST_GAIN_S and not any(m.subject in single for m in members):
        return None
    return Recommendation(
        id=f"prefer/type:{best.subject}",
        kind=PREFER,
        title=f"run all {best.subject} models on {best.way}",
        evidence=f"within 10 % of the best way of each of its {len(members)} models, which now run {len(ways)} ways",
        gain_s=gain,
        prefer=_preference(best.way, type=best.subject),
    )


def _near_best(member: Best, way: Way) -> bool:
    if member.way == way:
        return True
    rival = member.rival(way)
    return rival is not None and rival.ratio.known and rival.ratio.high < EFFECT


# -- pool and nodes ------------------------------------------------------------------------------------------


def pool(shares: Sequence[Share]) -> list[Recommendation]:
    """A larger pool, where browsers are closed for want of room and launched again."""
    evicted: dict[str, int] = defaultdict(int)
    lost: dict[str, float] = defaultdict(float)
    kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
    crowded = sum(share.crowded for share in shares)
    for share in shares:
        if share.browser and share.launches:
            kinds[share.run, share.node].add(share.browser)
            evicted[share.run] += share.evicted
            again = min(share.evicted, share.launches - 1)
            lost[share.run] += again * (share.launch_s + share.load_s) / share.launches
    hit = [run for run, count in evicted.items() if count and lost[run] > 0]
    if crowded or len(hit) < LEAST_BLOCKS or 2 * len(hit) < len(evicted):
        return []
    wanted = max(len(names) for (run, _), names in kinds.items() if run in hit)
    gain = statistics.median(lost[run] for run in hit)
    if gain < LEAST_GAIN_S:
        return []
    times_closed = statistics.median(evicted[run] for run in hit)
    return [
        Recommendation(
            id="pool/max-browsers",
            kind=POOL,
            title=f"let each node keep {wanted} browsers",
            evidence=f"in {len(hit)} of {len(evicted)} runs browsers were closed for want of room "
            f"({times_closed:g} in a run) and launched again",
            gain_s=gain,
            max_browsers=wanted,
        )
    ]


def nodes(shares: Sequence[Share], runs: dict[str, RunInfo]) -> list[Recommendation]:
    """Browsers that are set up on more nodes than their work fills, in runs with as many nodes as the last one.

    ``n`` nodes do a browser's work ``w`` in ``w/n`` after a set-up of ``s``; that fits beside the rest as long as
    ``w/n + s`` is no more than what a node works on the mean. The smallest such ``n`` is enough.
    """
    found: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    of_nodes = next(reversed(runs.values())).nodes if runs else 1
    for run, info in runs.items():
        if info.nodes != of_nodes:
            continue
        mine = [share for share in shares if share.run == run]
        mean = sum(share.busy_s for share in mine) / max(1, info.nodes)
        for browser in {share.browser for share in mine if share.browser}:
            used = [share for share in mine if share.browser == browser and share.tests]
            if len(used) < 2:
                continue
            # what was prepared beside other tests is counted with them: a set-up never takes more than the tests did
            setup = sum(min(s.busy_s, s.launch_s + s.load_s) for s in used) / len(used)
            work = sum(s.busy_s for s in used) - setup * len(used)
            enough = math.ceil(work / (mean - setup)) if mean > setup else len(used)
            enough = max(1, min(enough, len(used)))
            found[browser].append((enough, len(used), (len(used) - enough) * setup / info.nodes))
    made = []
    for browser, seen in sorted(found.items()):
        wanted = max(enough for enough, _, _ in seen)
        gain = statistics.median(saved for _, _, saved in seen)
        if len(seen) < LEAST_BLOCKS or gain < LEAST_GAIN_S or any(used <= wanted for _, used, _ in seen):
            continue
        made.append(
            Recommendation(
                id=f"nodes/{browser}",
                kind=NODES,
                title=f"use {browser} on {count_of(wanted, 'node')} at most",
                evidence=f"in each of {len(seen)} runs its work fitted on {wanted}, and it was set up on "
                f"{min(used for _, used, _ in seen)} or more",
                gain_s=gain,
                nodes=((browser, wanted),),
                of_nodes=of_nodes,
            )
        )
    return made


# -- advice --------------------------------------------------------------------------------------------------


def _of_flaky(flaky: Iterable[Flaky]) -> list[Recommendation]:
    return [
        Recommendation(
            id=f"advice/flaky/{each.browser}",
            kind=ADVICE,
            title=f"look at {each.browser}: it fails under {100 * each.faulty / each.tests:.1f} % of its tests",
            evidence=f"{each.faulty} of {each.tests} tests ({100 * each.low:.1f} – {100 * each.high:.1f} %), more than "
            f"the other browsers: {', '.join(each.kinds)}",
        )
        for each in flaky
        if each.worse and each.enough
    ]


def _of_spread(spread: Spread | None) -> list[Recommendation]:
    if spread is None or not spread.enough or not spread.idle.beyond(IDLE):
        return []
    idle = 100 * spread.idle.middle
    if spread.longest_share >= LONGEST:
        title = (
            f"split {short(spread.longest)}: it takes {100 * spread.longest_share:.0f} % of the run by itself"
        )
    else:
        fewer = max(1, math.ceil(spread.nodes * (1 - spread.idle.middle) / KEPT))
        if fewer >= spread.nodes:
            return []
        title = f"{count_of(fewer, 'node')} would take about as long as {spread.nodes}"
    return [
        Recommendation(
            id="advice/nodes",
            kind=ADVICE,
            title=title,
            evidence=f"the {spread.nodes} nodes are idle {idle:.0f} % of the time "
            f"({100 * spread.idle.low:.0f} – {100 * spread.idle.high:.0f} %, {spread.runs} runs)",
        )
    ]


# -- words ---------------------------------------------------------------------------------------------------


def times(ratio: Interval) -> str:
    """``3.1 × (2.6 – 3.7, 8 runs)``: blocks are said as runs."""
    return f"{factor(ratio.middle)} × ({factor(ratio.low)} – {factor(ratio.high)}, {count_of(ratio.blocks, 'run')})"


def factor(log_ratio: float) -> str:
    """A ratio with two digits that matter."""
    value = math.exp(log_ratio)
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def count_of(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def short(name: str) -> str:
    """A model or test without the directories before it; a model from a package with the package's name."""
    package = _PACKAGE.match(name)
    last = name.split("#", 1)[0].rsplit("/", 1)[-1]
    return f"{package[1]}/{last}" if package else last
