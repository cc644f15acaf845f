"""A run's rows wait for its report packed: in order, whole, and no more than wanted."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.records import MetricRecord
from pytest_browserpool.store.rows import PACK, _Packed


def row(number: int) -> MetricRecord:
    return MetricRecord(
        run_id="r", node="gw0", at=float(number), name="memory_bytes", value=1.0, instance="b1"
    )


@given(st.integers(0, 3 * PACK), st.one_of(st.none(), st.integers(1, 2 * PACK)))
def test_the_latest_rows_come_back_in_order(count: int, most: int | None) -> None:
    kept = _Packed(most)
    for number in range(count):
        kept.append(row(number))
    found = list(kept)
    assert found == [row(number) for number in range(count)][-len(found) or count :]
    assert len(found) >= min(count, most if most is not None else count)
    assert most is None or len(found) <= most + 2 * PACK


def test_a_packed_row_is_a_fraction_of_an_object() -> None:
    kept = _Packed()
    for number in range(4 * PACK):
        kept.append(row(number))
    assert sum(map(sys.getsizeof, kept._packs)) / (4 * PACK) < 60, "bytes a row; an object takes 600"
