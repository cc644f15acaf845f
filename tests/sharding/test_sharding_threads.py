"""How many threads of WebAssembly each page gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.sharding.threads import MOST, cores_of, of_shard, of_whole

counts = st.integers(1, 256)


@pytest.mark.parametrize(
    ("cores", "shards", "threads"),
    [(1, 2, 1), (2, 2, 1), (2, 3, 1), (4, 2, 2), (4, 3, 1), (8, 3, 2), (64, 2, 4)],
)
def test_shards_share_the_cores_of_their_node(cores: int, shards: int, threads: int) -> None:
    assert of_shard(cores, shards) == threads


@given(machine=counts, nodes=counts, shards=counts)
def test_all_compute_at_once_and_none_has_more_than_a_whole_model(
    machine: int, nodes: int, shards: int
) -> None:
    cores = cores_of(machine, nodes)
    threads = of_shard(cores, shards)
    assert 1 <= threads <= of_whole(cores) <= min(MOST, cores)
    assert threads == 1 or threads * shards <= cores
    assert cores == 1 or cores * nodes <= machine
    # not fewer than there is room for
    assert threads == of_whole(cores) or (threads + 1) * shards > cores
