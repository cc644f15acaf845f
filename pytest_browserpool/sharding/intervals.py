"""The best contiguous stages of one topological order: dynamic programming over intervals, exact for its
costs.

For n places to cut there are n²/2 intervals, so the costs of all intervals that end at one node are kept as
arrays over their starts and updated as the end moves on; that is what lets 5,000 nodes take a second. numpy
is imported when the search starts, so that importing this package costs nothing.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_browserpool.sharding.graph import GIVEN, Graph
from pytest_browserpool.sharding.plan import PARAMETER_COPIES, Host

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

COARSE_PLACES = 96
"""Places of the first, rough search whose answer bounds the exact one: enough to come within a few
percent.
"""

ASSIGNMENT_BUDGET = 400_000
"""Nodes × ways to extend a set of used hosts, about 2 s of search. Above it some hosts are left out, by ``PREFERENCES``."""

PREFERENCES: tuple[Callable[[Host], tuple[float, ...]], ...] = (
    lambda host: (-host.speed, -host.room),
    lambda host: (-host.room, -host.speed),
    lambda host: (len(host.unsupported), -host.speed, -host.room),
)
"""What hosts are taken by where there are too many unequal ones: fastest first; where that gives no cut at all, roomiest
first, then those that lack the fewest operators."""

SLACK = 1 + 1e-9
"""Sums in another order differ in the last bits."""

State = tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """Nodes ``start`` … ``end - 1`` of the order on host number ``host``."""

    host: int
    start: int
    end: int


def best_stages(
    graph: Graph, hosts: Sequence[Host], shards: int, places: Sequence[int], ceiling: float = float("inf")
) -> list[Stage] | None:
    """The ``shards`` contiguous stages, cut at ``places`` only, with the least bottleneck, up to ``ceiling``
    seconds.

    None where none is possible.

    Of all with that bottleneck it is the one with the least total time. Each stage gets another host; there
    may be more hosts than stages. ``places`` are positions 1 … n - 1. The time of a stage is
    ``plan.time_of``.
    """
    if len(hosts) < shards or not graph.nodes:
        return None
    inner = sorted({p for p in places if 0 < p < len(graph.nodes)})
    if len(inner) < shards - 1 or not _may_fit(graph, hosts, shards):
        return None
    for chosen in _choices(hosts, shards, len(graph.nodes)):
        found = _best_on(graph, [hosts[i] for i in chosen], shards, inner, ceiling)
        if found is not None:
            return [Stage(chosen[stage.host], stage.start, stage.end) for stage in found]
        if ceiling < float("inf"):  # there is a cut already
            break
    return None


def _best_on(
    graph: Graph, hosts: Sequence[Host], shards: int, inner: Sequence[int], ceiling: float
) -> list[Stage] | None:
    kinds = _Kinds(hosts, shards, len(graph.nodes))
    if len(inner) > 2 * COARSE_PLACES:
        step = len(inner) / COARSE_PLACES
        rough = _Search(graph, kinds, [inner[int(k * step)] for k in range(COARSE_PLACES)], ceiling).run()
        ceiling = min(ceiling, rough[0]) if rough else ceiling
    exact = _Search(graph, kinds, inner, ceiling * SLACK).run()
    if exact is None:
        return None
    shortest = _Search(graph, kinds, inner, exact[0] * SLACK, least_total=True).run()
    return kinds.named((shortest or exact)[1])


def complete(hosts: Sequence[Host], shards: int, nodes: int) -> bool:
    """Whether every way to use the hosts up is looked at in a graph of so many nodes."""
    kinds = Counter(host.kind for host in hosts)
    ways = math.prod(min(count, shards) + 1 for count in kinds.values())
    return len(kinds) == 1 or ways * len(kinds) * nodes <= ASSIGNMENT_BUDGET


def _choices(hosts: Sequence[Host], shards: int, nodes: int) -> Iterator[list[int]]:
    """Numbers of hosts to search over: all of them; where that is too much, as many as can be by each preference. What is
    still too much goes in a row: as the hosts come first, then by preference.
    """
    if complete(hosts, shards, nodes):
        yield list(range(len(hosts)))
        return
    tried: list[list[int]] = []
    for preference in PREFERENCES:
        order = sorted(range(len(hosts)), key=lambda i: (preference(hosts[i]), i))
        count = len(hosts)
        while count > shards and not complete([hosts[i] for i in order[:count]], shards, nodes):
            count -= 1
        chosen = order[:count]
        if not tried or complete([hosts[i] for i in chosen], shards, nodes):
            chosen.sort()
        if chosen not in tried:
            tried.append(chosen)
            yield chosen


def _may_fit(graph: Graph, hosts: Sequence[Host], shards: int) -> bool:
    """Whether there is a host for each node, were it there with nothing else, and room for all parameters; where not, no
    search is needed.
    """
    rooms = [host.room for host in hosts]
    held = {name for node in graph.nodes for name in node.parameters}
    if PARAMETER_COPIES * sum(graph.parameters[name] for name in held) > sum(sorted(rooms)[-shards:]):
        return False
    limits = {(room, host.unsupported) for room, host in zip(rooms, hosts, strict=True)}
    for node in graph.nodes:
        parameters = sum(graph.parameters[name] for name in set(node.parameters))
        values = sum(graph.values[name].size for name in {*node.inputs, *node.outputs})
        needed = PARAMETER_COPIES * parameters + values
        if not any(needed <= room and not node.ops & lacks for room, lacks in limits):
            return False
    return True


class _Kinds:
    """Hosts grouped into interchangeable kinds, and the sets of them that stages may use up."""

    def __init__(self, hosts: Sequence[Host], shards: int, size: int) -> None:
        self.shards = shards
        kinds = list(dict.fromkeys(host.kind for host in hosts))
        self.members = [[i for i, host in enumerate(hosts) if host.kind == kind] for kind in kinds]
        self.hosts = [hosts[own[0]] for own in self.members]
        counts = [min(len(own), shards) for own in self.members]
        if complete(hosts, shards, size):
            states = [s for s in itertools.product(*(range(c + 1) for c in counts)) if sum(s) <= shards]
            self.states = sorted(states, key=sum)
        else:
            self.states = self._in_order()
        self.final = [s for s in self.states if sum(s) == shards]
        self.steps = list(self._extensions())

    def _in_order(self) -> list[State]:
        """Too many ways to use the hosts up: they are taken as they come."""
        kind_of = {i: k for k, own in enumerate(self.members) for i in own}
        used: Counter[int] = Counter()
        states = [(0,) * len(self.members)]
        for i in range(self.shards):
            used[kind_of[i]] += 1
            states.append(tuple(used[k] for k in range(len(self.members))))
        return states

    def _extensions(self) -> Iterator[tuple[State, int, State, float]]:
        """Each state, each kind that may run its next stage, the state then, and the speed that is left
        then.
        """
        known = set(self.states)
        for state in self.states:
            for kind in range(len(state)):
                following = (*state[:kind], state[kind] + 1, *state[kind + 1 :])
                if following not in known:
                    continue
                unused = [
                    host.speed
                    for host, own, used in zip(self.hosts, self.members, following, strict=True)
                    for _ in own[used:]
                ]
                left = sorted(unused, reverse=True)[: self.shards - sum(following)]
                yield state, kind, following, float(sum(left))

    def named(self, stages: Sequence[Stage]) -> list[Stage]:
        """Stages on kinds as stages on hosts."""
        free = [iter(own) for own in self.members]
        return [Stage(next(free[s.host]), s.start, s.end) for s in stages]


class _Search:
    """One pass over the nodes. ``ceiling`` bounds the time of each stage, and so how far back a stage may
    start.
    """

    def __init__(
        self, graph: Graph, kinds: _Kinds, inner: Sequence[int], ceiling: float, *, least_total: bool = False
    ) -> None:
        import numpy as np

        self.np, self.graph, self.kinds, self.ceiling, self.least_total = (
            np,
            graph,
            kinds,
            ceiling,
            least_total,
        )
        size = len(graph.nodes)
        self.places = [0, *inner, size]
        self.at_least = np.searchsorted(self.places, np.arange(size + 2)).tolist()
        self.before = np.concatenate([[0.0], np.cumsum([node.seconds for node in graph.nodes])])[self.places]
        count = len(self.places)
        # all over the starts of intervals that end at the current node: bytes in, out, of parameters, of the
        # largest node
        self.received, self.sent = np.zeros(count), np.zeros(count)
        self.parameters, self.largest = np.zeros(count), np.zeros(count)
        self.last_read: dict[str, int] = {}
        self.last_parameter: dict[str, int] = {}
        self.barred = [0] * len(kinds.hosts)
        self.until = [0] * len(kinds.hosts)
        """For each kind the first start from which a stage that ends here would have only nodes that it refused."""
        self.best = {state: np.full(count, np.inf) for state in kinds.states}
        self.best[kinds.states[0]][0] = 0.0
        self.span = dict.fromkeys(kinds.states, (count, 0))
        """Where each state has been reached so far: first place, last place + 1."""
        self.span[kinds.states[0]] = (0, 1)
        self.total = sum(node.seconds for node in graph.nodes)
        self.came: dict[tuple[State, int], tuple[int, int, State]] = {}
        self.low = 0
        self.wanted = frozenset(graph.outputs)

    def run(self) -> tuple[float, list[Stage]] | None:
        """The least bottleneck (or total) and its stages, on kinds of hosts; None where there is none."""
        fastest = max(host.speed for host in self.kinds.hosts)
        compute = 0.0
        for position, node in enumerate(self.graph.nodes):
            compute += node.seconds
            while (
                self.before[self.low] < compute - self.ceiling * fastest * SLACK
                and self.places[self.low] < position
            ):
                self.low += 1
            self._take(position)
            place = self.at_least[position + 1]
            if self.places[place] == position + 1:
                self._close(place, compute)
        last = len(self.places) - 1
        final = min(self.kinds.final, key=lambda state: self.best[state][last], default=None)
        if final is None or not self.np.isfinite(self.best[final][last]):
            return None
        return float(self.best[final][last]), self._trace(final, last)

    def _take(self, position: int) -> None:
        """Let the intervals grow by the node at ``position``."""
        graph, low = self.graph, self.low
        node, high = graph.nodes[position], self.at_least[position + 1]
        moved = 0
        for name in dict.fromkeys(node.inputs):
            size, made = graph.size(name), graph.producer[name]
            moved += graph.values[name].size
            since = max(made, self.last_read.get(name, GIVEN)) + 1
            self.received[max(low, self.at_least[since]) : high] += size
            self.last_read[name] = position
            if made != GIVEN and graph.readers[name][-1] == position and name not in self.wanted:
                self.sent[low : max(low, self.at_least[made + 1])] -= size
        for name in node.outputs:
            moved += graph.values[name].size
            if name in self.wanted or graph.readers[name]:
                self.sent[low:high] += graph.size(name)
        for name in dict.fromkeys(node.parameters):
            since = self.last_parameter.get(name, GIVEN) + 1
            self.parameters[max(low, self.at_least[since]) : high] += graph.parameters[name]
            self.last_parameter[name] = position
        self.np.maximum(self.largest[low:high], moved, out=self.largest[low:high])
        for kind, host in enumerate(self.kinds.hosts):
            if node.ops & host.unsupported:
                self.barred[kind] = self.at_least[position + 1]
            if node.index not in host.refused:
                self.until[kind] = high

    def _close(self, place: int, compute: float) -> None:
        """End intervals at ``place``: extend each state by one stage on each kind of host."""
        steps = self._steps(place, self.total - compute)
        if not steps:
            return
        np, low, high = self.np, min(step[0] for step in steps), max(step[1] for step in steps)
        costs = self._costs(low, high, compute)
        for first, last, state, kind, following in steps:
            reached, cost = self.best[state][first:last], costs[kind][first - low : last - low]
            total = reached + cost if self.least_total else np.maximum(reached, cost)
            start = int(total.argmin())
            if total[start] < self.best[following][place]:
                if self.best[following][place] == np.inf:
                    self.span[following] = (min(self.span[following][0], place), place + 1)
                self.best[following][place] = total[start]
                self.came[following, place] = (first + start, kind, state)

    def _steps(self, place: int, left: float) -> list[tuple[int, int, State, int, State]]:
        """Extensions that can still end below the ceiling: first and last start, state, kind of host, next
        state.
        """
        steps = []
        at_end = place == len(self.places) - 1
        for state, kind, following, room in self.kinds.steps:
            if (room == 0.0) != at_end or (not at_end and left > room * self.ceiling * SLACK):
                continue
            first, last = self.span[state]
            first, last = max(first, self.low, self.barred[kind]), min(last, place, self.until[kind])
            if first < last:
                steps.append((first, last, state, kind, following))
        return steps

    def _costs(self, low: int, high: int, compute: float) -> list[Array]:
        """Seconds of the intervals from each of the starts ``low`` … ``high - 1`` to here, on each kind of
        host.
        """
        moved = self.received[low:high] + self.sent[low:high]
        memory = PARAMETER_COPIES * self.parameters[low:high] + self.largest[low:high] + moved
        work = compute - self.before[low:high]
        costs: list[Array] = []
        for host in self.kinds.hosts:
            cost = work / host.speed + moved / host.bytes_per_s + host.latency_s
            if host.memory is not None:
                cost[memory > host.memory] = self.np.inf
            cost[cost > self.ceiling] = self.np.inf
            costs.append(cost)
        return costs

    def _trace(self, state: State, place: int) -> list[Stage]:
        stages = []
        while place:
            start, kind, before = self.came[state, place]
            stages.append(Stage(kind, self.places[start], self.places[place]))
            state, place = before, start
        return stages[::-1]
