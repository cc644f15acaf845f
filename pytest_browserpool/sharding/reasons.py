"""Why a graph cannot be cut as asked, and which number of shards works in its place. Pure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_browserpool.errors import ShardingError
from pytest_browserpool.sharding import intervals
from pytest_browserpool.sharding.graph import Graph
from pytest_browserpool.sharding.plan import MIB, Host, load_of, make_plan

ONE_BY_ONE = 8
"""Numbers tried one after the other from the top, and from the bottom: models are cut into no more as a rule. Between
them every try is half of the one before, because each is a search of its own."""

UNTRIED = "; with so many unequal browsers not every way to use them was tried"


@dataclass(frozen=True)
class Fewer:
    """A number of shards that works."""

    number: int
    all_above_tried: bool
    """Otherwise only the next one above is known not to work."""


def largest_below(limit: int, works: Callable[[int], bool]) -> Fewer | None:
    """The largest number below ``limit``, which does not work, that does; None where none was found.

    Up to 17 every number is tried. Beyond that the tries grow with the logarithm of ``limit``.
    """
    numbers = list(range(limit - 1, max(0, limit - 1 - ONE_BY_ONE), -1))
    while numbers and numbers[-1] // 2 > ONE_BY_ONE:
        numbers.append(numbers[-1] // 2)
    numbers += range(min(ONE_BY_ONE, numbers[-1] - 1) if numbers else 0, 0, -1)
    failed, above = limit, 0
    for number in numbers:
        if works(number):
            break
        failed, above = number, above + 1
    else:
        return None
    while failed - number > 1:
        middle = (failed + number) // 2
        if works(middle):
            number = middle
        else:
            failed, above = middle, above + 1
    return Fewer(number, above == limit - 1 - number)


def fits_evenly(graph: Graph, hosts: Sequence[Host], shards: int, places: Sequence[int]) -> bool:
    """Whether the hosts as they come can take the stages between evenly spread ``places``: mostly they can, and then no
    search is needed to know that some cut is possible.
    """
    if len(places) < shards - 1:
        return False
    taken = [places[len(places) * k // shards] for k in range(1, shards)]
    bounds = itertools.pairwise([0, *taken, len(graph.nodes)])
    try:
        make_plan(graph, [(k, range(*b)) for k, b in enumerate(bounds)], hosts[:shards], "layer_balanced")
    except ShardingError:
        return False
    return True


def _possible(graph: Graph, hosts: Sequence[Host], shards: int, places: Sequence[int]) -> bool:
    if fits_evenly(graph, hosts, shards, places):
        return True
    return intervals.best_stages(graph, hosts, shards, places) is not None


def why_not(
    graph: Graph, hosts: Sequence[Host], shards: int, places: Sequence[int], parts: str = ""
) -> ShardingError:
    """The reason that no partition fits: too few places, an operator that every choice of hosts lacks, or
    memory.
    """
    if len(places) < shards - 1:
        reason = f"it can be cut in {len(places)} place(s) only" + (f": {parts}" if parts else "")
        stuck = next((graph.values[n] for names in graph.barriers() for n in names), None)
        return ShardingError(
            reason + (f"; {stuck.name!r} is {stuck.barrier} and cannot pass" if stuck else "")
        )
    willing = [dataclasses.replace(host, refused=frozenset()) for host in hosts]
    untried = "" if intervals.complete(hosts, shards, len(graph.nodes)) else UNTRIED
    if any(host.refused for host in hosts) and _possible(graph, willing, shards, places):
        told = "; ".join(
            f"{host.name} refused {graph.names_of(host.refused)}" for host in hosts if host.refused
        )
        found = "was found" if untried else "is left"
        return ShardingError(
            f"no cut {found} that gives each browser a node that its backend runs: {told}{untried}",
            remedy="allow another browser or backend",
        )
    roomy = [dataclasses.replace(host, memory=None) for host in willing]
    if _possible(graph, roomy, shards, places):
        return _too_small(graph, hosts, untried)
    lacking = sorted(
        frozenset().union(*(n.ops for n in graph.nodes)) & frozenset().union(*(h.unsupported for h in hosts))
    )
    found = "no cut was found that goes round them" if untried else "no cut goes round them"
    return ShardingError(
        f"operators {', '.join(lacking)} are not supported by every browser, and {found}{untried}"
    )


def _too_small(graph: Graph, hosts: Sequence[Host], untried: str) -> ShardingError:
    largest = max(host.room for host in hosts)
    least = min(load_of(graph, [p]).memory for p in range(len(graph.nodes)))
    whole = load_of(graph, list(range(len(graph.nodes)))).memory
    room = "no limit" if largest == float("inf") else f"{largest / MIB:.1f} MiB"
    found = (
        "in every cut that was tried some browser is too small" if untried else "some browser is too small"
    )
    return ShardingError(
        f"{found} for its shard: the model needs about {whole / MIB:.1f} MiB in one piece,"
        f" no node less than {least / MIB:.1f} MiB, and the roomiest browser has {room}{untried}",
        remedy="use more shards, or browsers with more memory" if least <= largest else None,
    )
