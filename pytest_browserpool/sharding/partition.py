"""Cut a graph into shards for given hosts: the strategies, their choice, and refusals that say what would
work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from random import Random

from pytest_browserpool.errors import ShardingError
from pytest_browserpool.sharding import blocks, intervals, optimum, refine, scopes
from pytest_browserpool.sharding.graph import Graph, by_rank, depth_first, rising, shuffled
from pytest_browserpool.sharding.plan import Considered, Host, Load, Plan, load_of, make_plan
from pytest_browserpool.sharding.reasons import fits_evenly, largest_below, why_not

EXACT_DOWNSETS = 5_000
EXACT_VISITS = 120_000
EXACT_NODES = 200
"""Limits of the exact search: about a second. Above ``EXACT_NODES`` it is not started without a bound from
the others.
"""

MOST_ORDERS = 60
ORDER_BUDGET = 4_000
"""Random orders tried, and nodes in them together: about a second."""

GOOD_ENOUGH = 1.01
"""Costs are not known to a percent, so a plan this near to the lower bound is not worth more search."""

SINGLE = ("layer_balanced", "component", "attention_feedforward")
"""What ``auto`` chooses from."""

PERMUTATION_LIMIT = 5
"""Shards up to which attention_feedforward tries every order of hosts (120 plans)."""

Groups = Sequence[tuple[int, Sequence[int]]]


def partition(graph: Graph, hosts: Sequence[Host], shards: int, strategy: str = "layer_balanced") -> Plan:
    """Cut ``graph`` into ``shards`` and place them on ``hosts``, at least as many, with the least bottleneck.

    ``strategy``: ``layer_balanced`` (contiguous stages, the optimum of the order searched, then refined),
    ``attention_feedforward`` (attention blocks on other shards than feed-forward blocks), ``component`` (cuts
    only between named parts), ``auto`` (the best of the three as predicted). The bottleneck is the largest
    time of a shard for one request: compute by its host's speed, bytes in and out by its transfer rate, a
    latency per command. Raises ``ShardingError`` with the reason and the largest number of shards that works.
    """
    _examine(graph, hosts, shards, strategy)
    try:
        return STRATEGIES[strategy](graph, hosts, shards)
    except ShardingError as reason:
        raise _refusal(graph, hosts, shards, strategy, reason) from reason


def check(graph: Graph, hosts: Sequence[Host], shards: int, strategy: str = "layer_balanced") -> None:
    """Raises what ``partition`` would, and does not look for the best cut."""
    _examine(graph, hosts, shards, strategy)
    try:
        _cut_somehow(graph, hosts, shards, strategy)
    except ShardingError as reason:
        raise _refusal(graph, hosts, shards, strategy, reason) from reason


def _examine(graph: Graph, hosts: Sequence[Host], shards: int, strategy: str) -> None:
    if strategy not in STRATEGIES:
        raise ShardingError(
            f"unknown sharding strategy {strategy!r}", remedy=f"use one of {', '.join(STRATEGIES)}"
        )
    if isinstance(shards, bool) or not isinstance(shards, int) or shards < 1:
        raise ShardingError(
            f"shards={shards!r} is not a positive whole number", remedy="give shards=2 or more"
        )
    if not graph.nodes:
        raise ShardingError(
            "the model has no node that depends on its inputs", remedy="run it without shards"
        )
    if not hosts:
        raise ShardingError("no browser can take a shard", remedy="allow a browser that qualifies")
    if len(hosts) < shards:
        raise ShardingError(
            f"shards={shards}, but only {len(hosts)} browser(s) can take one",
            remedy=f"ask for shards={len(hosts)} or allow more browsers",
        )


def layer_balanced(
    graph: Graph, hosts: Sequence[Host], shards: int, *, exact: bool = True, first: bool = False
) -> Plan:
    """Contiguous stages of a topological order, the best cuts of the order found by dynamic programming.

    Several orders are tried: the model's, depth first, then random ones; single nodes are moved over the
    borders in between. Where the graph is narrow enough the result is then replaced by the optimum over all
    orders (unless ``exact`` is false, which is there to measure the search). ``first``: the first cut that is found will
    do.
    """
    own = list(range(len(graph.nodes)))
    best = _in_order(graph, own, hosts, shards, None)
    if first and best is not None:
        return best[0]
    if (order := depth_first(graph)) != own:
        best = _in_order(graph, order, hosts, shards, best)
    if best is None and (len(graph.nodes) > EXACT_NODES or shards > graph.most_segments):
        raise why_not(graph, hosts, shards, _free_places(graph))
    if best is not None and (
        first or shards == 1 or best[0].bottleneck_s <= best[0].lower_bound_s * GOOD_ENOUGH
    ):
        return best[0]
    ceiling = best[0].bottleneck_s if best else float("inf")
    if exact and shards <= PERMUTATION_LIMIT:
        with contextlib.suppress(optimum.ExhaustedError):  # too wide to be searched through
            found = optimum.optimum(
                graph, hosts, shards, ceiling=ceiling, downset_limit=EXACT_DOWNSETS, budget=EXACT_VISITS
            )
            if found is not None:
                return make_plan(graph, found[0], [hosts[i] for i in found[1]], "layer_balanced", hosts)
    if best is None:
        raise why_not(graph, hosts, shards, _free_places(graph))
    return _other_orders(graph, hosts, shards, *best)


def _other_orders(graph: Graph, hosts: Sequence[Host], shards: int, best: Plan, stages: list[int]) -> Plan:
    """``best``, or what is better than it along random orders: every other one keeps its ``stages``
    contiguous, so that the search goes on from there, and the rest are free, so that it does not stay there.
    """
    generator = Random(0)  # the same graph is cut the same way each time
    anywhere = [0] * len(stages)
    for number in range(min(MOST_ORDERS, ORDER_BUDGET // len(graph.nodes))):
        if best.bottleneck_s <= best.lower_bound_s * GOOD_ENOUGH:
            break
        order = shuffled(graph, anywhere if number % 2 else stages, generator)
        found = _in_order(graph, order, hosts, shards, (best, stages))
        best, stages = found or (best, stages)
    return best


def _in_order(
    graph: Graph,
    order: Sequence[int],
    hosts: Sequence[Host],
    shards: int,
    known: tuple[Plan, list[int]] | None,
) -> tuple[Plan, list[int]] | None:
    """The best plan along one topological order, refined, with the stage of each node; ``known`` where that
    is better.
    """
    ordered = graph.reordered(order)
    found = _cut(
        ordered, hosts, shards, _free_places(ordered), known[0].bottleneck_s if known else float("inf")
    )
    if found is None:
        return known
    cut, chosen = found
    stages = [0] * len(order)
    for position, stage in zip(order, cut, strict=True):
        stages[position] = stage
    if shards > 1:
        stages = refine.refine(graph, stages, chosen)
    plan = make_plan(graph, _grouped(stages), chosen, "layer_balanced", hosts)
    return known if known and _quality(known[0]) <= _quality(plan) else (plan, stages)


def component(graph: Graph, hosts: Sequence[Host], shards: int) -> Plan:
    """Cuts only between components (embedding, encoder, decoder, head), between their layers where that is
    too few.
    """
    reason: ShardingError | None = None
    for layers in (False, True):
        ranks = rising(graph, scopes.scope_ranks(graph, layers=layers))
        names = list(dict.fromkeys(scopes.component_at(rank) for rank in sorted(ranks)))
        if all(rank is None for rank in scopes.scope_ranks(graph, layers=False)):
            names = []
        ordered = graph.reordered(order := by_rank(graph, ranks))
        free = set(_free_places(ordered))
        places = [p for p in range(1, len(order)) if ranks[order[p - 1]] != ranks[order[p]] and p in free]
        found = _cut(ordered, hosts, shards, places)
        if found is not None:
            stages, chosen = found
            return make_plan(ordered, _grouped(stages), chosen, "component", hosts)
        parts = f"names tell only of {', '.join(names)}" if names else "no name tells of a component"
        reason = why_not(ordered, hosts, shards, places, parts)
    assert reason is not None
    raise reason


def attention_feedforward(graph: Graph, hosts: Sequence[Host], shards: int) -> Plan:
    """Attention blocks on some shards, everything else on the others; each shard runs several segments in
    turn.
    """
    if shards == 1:
        return _whole(graph, hosts, "attention_feedforward")
    regions = blocks.attention_regions(graph)
    if not regions:
        raise ShardingError(
            "no attention block was found in the model's structure", remedy="use layer_balanced"
        )
    phase = blocks.phases(graph, regions)
    attention = sorted({p for p in phase if p % 2})
    others = sorted({p for p in phase if p % 2 == 0})
    if not any(graph.nodes[i].weighted for i, p in enumerate(phase) if p and p % 2 == 0):
        raise ShardingError(
            "attention blocks were found, but no feed-forward block", remedy="use layer_balanced"
        )
    if shards > len(attention) + len(others):
        raise ShardingError(
            f"there are {len(attention)} attention blocks and {len(others)} groups between them"
        )
    members = {p: [i for i, own in enumerate(phase) if own == p] for p in {*attention, *others}}
    best: tuple[tuple[float, float], Groups, list[Host]] | None = None
    reason: ShardingError | None = None
    for first in range(max(1, shards - len(others)), min(len(attention), shards - 1) + 1):
        shard_of = dict(zip(attention, _chunks(graph, members, attention, first), strict=True))
        rest = _chunks(graph, members, others, shards - first)
        shard_of |= {p: first + k for p, k in zip(others, rest, strict=True)}
        groups = _merged([(shard_of[p], members[p]) for p in sorted(members)])
        try:
            quality, chosen = _best_hosts(graph, groups, hosts, shards)
        except ShardingError as failure:
            reason = failure
            continue
        if best is None or quality < best[0]:
            best = (quality, groups, chosen)
    if best is None:
        raise reason or ShardingError("no host order fits")
    return make_plan(graph, best[1], best[2], "attention_feedforward", hosts)


def auto(graph: Graph, hosts: Sequence[Host], shards: int) -> Plan:
    """The strategy with the least predicted bottleneck, then the least latency; ``considered`` tells of
    all.
    """
    considered: list[Considered] = []
    plans: list[Plan] = []
    for name in SINGLE:
        try:
            plan = STRATEGIES[name](graph, hosts, shards)
        except ShardingError as reason:
            considered.append(Considered(strategy=name, refused=reason.what))
            continue
        plans.append(plan)
        considered.append(Considered(strategy=name, bottleneck_s=plan.bottleneck_s, latency_s=plan.latency_s))
    if not plans:
        raise ShardingError("; ".join(f"{c.strategy}: {c.refused}" for c in considered))
    return dataclasses.replace(min(plans, key=_quality), considered=tuple(considered))


STRATEGIES: dict[str, Callable[[Graph, Sequence[Host], int], Plan]] = {
    "layer_balanced": layer_balanced,
    "attention_feedforward": attention_feedforward,
    "component": component,
    "auto": auto,
}


def _quality(plan: Plan) -> tuple[float, float]:
    # rounded, so that the last bits of a sum in another order do not outweigh the latency
    return (float(f"{plan.bottleneck_s:.9e}"), plan.latency_s)


def _whole(graph: Graph, hosts: Sequence[Host], strategy: str) -> Plan:
    everything = list(range(len(graph.nodes)))
    host = min(hosts, key=load_of(graph, everything).time_on)
    return make_plan(graph, [(0, everything)], [host], strategy, hosts)


def _free_places(graph: Graph) -> list[int]:
    return [
        place for place, names in enumerate(graph.barriers()) if not names and 0 < place < len(graph.nodes)
    ]


def _cut(
    graph: Graph, hosts: Sequence[Host], shards: int, places: Sequence[int], ceiling: float = float("inf")
) -> tuple[list[int], list[Host]] | None:
    """The stage of each node and the host of each stage."""
    found = intervals.best_stages(graph, hosts, shards, places, ceiling)
    if found is None:
        return None
    stages = [number for number, stage in enumerate(found) for _ in range(stage.start, stage.end)]
    return stages, [hosts[stage.host] for stage in found]


def _grouped(stages: Sequence[int]) -> Groups:
    return [(k, [p for p, stage in enumerate(stages) if stage == k]) for k in range(max(stages) + 1)]


def _merged(groups: Groups) -> Groups:
    """Neighbours on the same shard as one group."""
    merged: list[tuple[int, list[int]]] = []
    for shard, positions in groups:
        if merged and merged[-1][0] == shard:
            merged[-1][1].extend(positions)
        else:
            merged.append((shard, list(positions)))
    return merged


def _chunks(graph: Graph, members: dict[int, list[int]], units: Sequence[int], count: int) -> list[int]:
    """A chunk number for each of ``units``: ``count`` contiguous, non-empty chunks with the least largest
    compute.
    """
    costs = [sum(graph.nodes[i].seconds for i in members[unit]) for unit in units]
    total = [0.0, *itertools.accumulate(costs)]
    best: dict[tuple[int, int], tuple[float, int]] = {(0, 0): (0.0, 0)}
    for k in range(1, count + 1):
        for end in range(k, len(costs) + 1):
            options = ((best[k - 1, s][0], s) for s in range(k - 1, end) if (k - 1, s) in best)
            best[k, end] = min((max(worst, total[end] - total[s]), s) for worst, s in options)
    chunk = [0] * len(costs)
    end = len(costs)
    for k in range(count, 0, -1):
        start = best[k, end][1]
        chunk[start:end] = [k - 1] * (end - start)
        end = start
    return chunk


def _best_hosts(
    graph: Graph, groups: Groups, hosts: Sequence[Host], shards: int
) -> tuple[tuple[float, float], list[Host]]:
    """The order of hosts with the least bottleneck, then the least total; where there are many hosts, the
    likely ones only. Raises the ``ShardingError`` of ``make_plan`` where none fits.
    """
    loads = [(shard, load_of(graph, positions)) for shard, positions in groups]

    def time_of_shard(shard: int, host: Host) -> float:
        own = [load for number, load in loads if number == shard]
        if host.memory is not None and sum(load.memory for load in own) > host.memory:
            return float("inf")
        return sum(load.time_on(host) for load in own)

    if len(hosts) <= PERMUTATION_LIMIT:
        orders = {
            tuple(h.kind for h in order): list(order) for order in itertools.permutations(hosts, shards)
        }
        candidates = list(orders.values())
    else:
        candidates = list(_likely_hosts(loads, hosts, shards))
    rated = []
    for candidate in candidates:
        times = [time_of_shard(shard, host) for shard, host in enumerate(candidate)]
        rated.append(((max(times), sum(times)), candidate))
    best = min(rated, key=lambda rating: rating[0])
    if best[0][0] == float("inf"):
        make_plan(graph, groups, best[1], "attention_feedforward")  # says what does not fit
    return best


def _likely_hosts(
    loads: Sequence[tuple[int, Load]], hosts: Sequence[Host], shards: int
) -> Iterator[list[Host]]:
    """By each preference the first ``shards`` hosts, the first one for the shard with the most work, or that needs the
    most memory.
    """
    for preference in intervals.PREFERENCES:
        first = sorted(hosts, key=preference)[:shards]
        for by_memory in (False, True):
            own = [0.0] * shards
            for shard, load in loads:
                own[shard] += load.memory if by_memory else load.seconds
            order = sorted(range(shards), key=lambda shard: -own[shard])
            host_of = dict(zip(order, first, strict=True))
            yield [host_of[shard] for shard in range(shards)]


def _cut_somehow(graph: Graph, hosts: Sequence[Host], shards: int, strategy: str) -> None:
    """Raises ``ShardingError``, with the strategy's reason, where it finds no cut at all."""
    if strategy == "layer_balanced":
        if not fits_evenly(graph, hosts, shards, _free_places(graph)):
            layer_balanced(graph, hosts, shards, first=True)
        return None
    if strategy != "auto":
        STRATEGIES[strategy](graph, hosts, shards)
        return None
    refused = []
    for name in SINGLE:
        try:
            return _cut_somehow(graph, hosts, shards, name)
        except ShardingError as reason:
            refused.append(f"{name}: {reason.what}")
    raise ShardingError("; ".join(refused))


def most_shards(graph: Graph, strategy: str) -> int:
    """Shards above which the strategy has no cut, whatever the hosts; known without a search."""
    if strategy == "auto":
        most = max(most_shards(graph, name) for name in SINGLE)
    elif strategy == "component":
        most = max(
            len(set(rising(graph, scopes.scope_ranks(graph, layers=layers)))) for layers in (False, True)
        )
    elif strategy == "attention_feedforward":
        regions = blocks.attention_regions(graph)
        most = len(set(blocks.phases(graph, regions))) if regions else 1
    else:
        most = graph.most_segments
    return min(most, graph.most_segments)


def _refusal(
    graph: Graph, hosts: Sequence[Host], shards: int, strategy: str, reason: ShardingError
) -> ShardingError:
    """``reason`` with the largest number of shards below that works."""

    def works(fewer: int) -> bool:
        try:
            _cut_somehow(graph, hosts, fewer, strategy)
        except ShardingError:
            return False
        return True

    found = largest_below(min(shards, most_shards(graph, strategy) + 1), works)
    if found is None:
        remedy = reason.remedy or "no number of shards works on these browsers"
    elif found.number == 1:
        # the others have no more freedom than these two
        other = "leave shards out" if strategy in ("layer_balanced", "auto") else "use another strategy"
        remedy = f"{reason.remedy or other}; by this one it stays whole (shards=1)"
    elif found.all_above_tried:
        remedy = f"the largest number that works is shards={found.number}"
    else:
        remedy = f"shards={found.number} works, shards={found.number + 1} does not"
    return ShardingError(
        f"cannot cut the model into {shards} shards by {strategy}: {reason.what}",
        where=reason.where,
        remedy=remedy,
    )
