"""Which nodes' browsers take the shards of a model that one node alone cannot hold. Pure.

A hop over the network costs, and a browser that is lent is missing where it is: so a node lends only what another one
needs, and never its last browser; of the shards as many as can be stay on the node of the test.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_browserpool.errors import CapabilityError
from pytest_browserpool.node.cutting import WASM_MEMORY, Seat, seats
from pytest_browserpool.values import ModelNeeds, NodeCapabilities

KEPT = 1
"""Browsers that a node keeps for its own tests, whatever it lends: each of its tests of whole models can always run."""


@dataclass(frozen=True)
class Arrangement:
    """As many browsers as there are shards, and what memory each may use there."""

    places: tuple[Seat, ...]
    memory: tuple[int, ...]
    """Bytes, by place."""

    @property
    def lent(self) -> dict[str, int]:
        """Node → browsers that it lends."""
        nodes = [place.node for place in self.places if place.node]
        return {node: nodes.count(node) for node in dict.fromkeys(nodes)}

    def limit(self, seat: Seat) -> int:
        """Bytes that a shard may use there."""
        return self.memory[self.places.index(seat)]


def alone(own: NodeCapabilities, shards: int) -> int:
    """Bytes for each shard where all run on one node."""
    return min(WASM_MEMORY, _bytes(own) // shards)


def arrangements(
    needs: ModelNeeds,
    own: NodeCapabilities,
    others: Sequence[NodeCapabilities],
    *,
    where: str,
    avoid: Collection[str] = (),
) -> Iterator[Arrangement]:
    """The ways to spread the shards over nodes, best first: as many as can be on ``own``, then on few other nodes, those
    with the most memory first. ``avoid``: as for ``seats``.

    Raises:
        CapabilityError: nothing of ``own`` qualifies.
    """
    shards = needs.shards or 1
    lenders = sorted(
        _lenders(needs, own, others, where, avoid), key=lambda each: (-_bytes(each[0]), each[0].node)
    )
    for count in range(min(shards - 1, own.max_browsers), 0, -1):
        places, missing = (
            [(own, seats(needs, own.browsers, where=where, count=count, avoid=avoid)[:count])],
            shards - count,
        )
        for lender, offered in lenders:
            taken = offered[:missing]
            places.append((lender, taken))
            missing -= len(taken)
            if not missing:
                break
        if not missing:
            yield _arranged(places)


def _lenders(
    needs: ModelNeeds,
    own: NodeCapabilities,
    others: Sequence[NodeCapabilities],
    where: str,
    avoid: Collection[str],
) -> Iterator[tuple[NodeCapabilities, tuple[Seat, ...]]]:
    """Each node that can lend something, and the seats there."""
    shards = needs.shards or 1
    first = seats(needs, own.browsers, where=where, count=1)[0].backends[0]
    for other in others:
        most = min(shards - 1, other.max_browsers - KEPT)
        if most < 1:
            continue
        try:
            found = seats(needs, other.browsers, where=where, count=most, node=other.node, avoid=avoid)
        except CapabilityError:
            continue
        # backends= is one order for all shards, wherever they run
        same = [
            seat for seat in found if not needs.backends or needs.shard_backends or seat.backends[0] == first
        ]
        if same:
            yield other, tuple(same[:most])


def further(
    needs: ModelNeeds, others: Sequence[NodeCapabilities], taken: Mapping[str, int], *, like: Seat
) -> Iterator[Seat]:
    """One more seat of each node that can lend one beside those ``taken`` (by node) already, in place of ``like``."""
    for other in others:
        count = taken.get(other.node, 0) + 1
        if count > other.max_browsers - KEPT:
            continue
        try:
            found = seats(needs, other.browsers, where="", count=count, node=other.node)
        except CapabilityError:
            continue
        seat = found[count - 1]
        if not needs.backends or needs.shard_backends or seat.backends[0] == like.backends[0]:
            yield seat


def _arranged(places: Sequence[tuple[NodeCapabilities, tuple[Seat, ...]]]) -> Arrangement:
    found = [(seat, alone(node, len(taken))) for node, taken in places for seat in taken]
    return Arrangement(tuple(seat for seat, _ in found), tuple(memory for _, memory in found))


def _bytes(node: NodeCapabilities) -> int:
    return int(node.memory_gib * (1 << 30))


def why_no_more(own: NodeCapabilities, others: Sequence[NodeCapabilities]) -> str:
    """In words, what the nodes of the run could have given."""
    lines = [f"{own.node}: {own.max_browsers} browsers, {own.memory_gib:.3g} GiB (runs the test)"]
    lines += [
        f"{each.node}: lends {max(0, each.max_browsers - KEPT)} of {each.max_browsers} browsers "
        f"({', '.join(b.name for b in each.browsers) or 'none'}), {each.memory_gib:.3g} GiB"
        for each in others
    ]
    return "\n    ".join(lines)
