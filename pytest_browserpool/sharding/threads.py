"""How many threads of WebAssembly a page gets: the cores are shared by nodes, and by the shards that compute at once."""

from __future__ import annotations

MOST = 4
"""For one page: onnxruntime-web gains little beyond four threads."""


def cores_of(machine: int, nodes: int) -> int:
    """The cores of one of ``nodes`` nodes on a machine of ``machine`` cores; at least one."""
    return max(1, machine // nodes)


def of_whole(cores: int) -> int:
    """Threads for a model that runs in one browser of a node with so many cores: nothing else of its test computes."""
    return min(MOST, cores)


def of_shard(cores: int, shards: int) -> int:
    """Threads for each of ``shards`` shards, whose pages compute at once where requests follow each other.

    Threads beyond the cores gain nothing, and the page whose thread has to wait for a core holds up the next stage: so
    each has its part of the cores, at least one thread, and never more than a whole model would get.
    """
    return max(1, min(of_whole(cores), cores // shards))
