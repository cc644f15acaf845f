"""What a node tells arrives whole and in order, in few messages."""

from __future__ import annotations

import threading
from typing import Any

from pytest_browserpool import records
from pytest_browserpool.link import each_of, packed
from pytest_browserpool.node.outbox import BATCH, Outbox


def point(number: int) -> records.MetricRecord:
    return records.MetricRecord(run_id="", node="n", at=0.0, name="m", value=float(number), instance="")


def values(sent: list[dict[str, Any]]) -> list[float]:
    return [m["row"]["value"] for message in sent for m in each_of(message) if m["kind"] == "record"]


def test_what_belongs_together_is_one_message_in_order() -> None:
    sent: list[dict[str, Any]] = []
    outbox = Outbox(sent.append)
    outbox.row("metrics", point(1))
    with outbox.together():
        outbox.emit({"kind": "beat"})
        outbox.flush()
    assert [m["kind"] for m in each_of(sent[0])] == ["beat", "record"]
    assert len(sent) == 1
    outbox.emit({"kind": "beat"})
    assert sent[1] == {"kind": "beat"}


def test_nothing_to_tell_is_no_message() -> None:
    sent: list[dict[str, Any]] = []
    outbox = Outbox(sent.append)
    with outbox.together():
        pass
    outbox.flush()
    assert not sent


def test_a_full_batch_goes_at_once_as_one() -> None:
    sent: list[dict[str, Any]] = []
    outbox = Outbox(sent.append)
    for number in range(BATCH):
        outbox.row("metrics", point(number))
    assert len(sent) == 1
    assert values(sent) == list(range(BATCH))


def test_an_error_meanwhile_holds_nothing_back() -> None:
    sent: list[dict[str, Any]] = []
    outbox = Outbox(sent.append)
    try:
        with outbox.together():
            outbox.emit({"kind": "beat"})
            raise ValueError
    except ValueError:
        pass
    assert sent == [{"kind": "beat"}]


def test_threads_lose_nothing() -> None:
    sent: list[dict[str, Any]] = []
    outbox = Outbox(sent.append)

    def tell(first: int) -> None:
        for number in range(first, first + 500):
            outbox.row("metrics", point(number))
            if number % 7 == 0:
                outbox.flush()

    threads = [threading.Thread(target=tell, args=(first,)) for first in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        with outbox.together():
            outbox.emit({"kind": "beat"})
    for thread in threads:
        thread.join()
    outbox.flush()
    assert sorted(values(sent)) == [float(n) for first in (0, 1000, 2000) for n in range(first, first + 500)]


def test_several_messages_travel_in_one_piece() -> None:
    sent: list[dict[str, Any]] = []
    outbox = Outbox(lambda message: sent.append(packed(message)))
    with outbox.together():
        outbox.emit({"kind": "event", "fields": {"seconds": 0.25, "backend": None, "test": "t[é\ud800]"}})
        outbox.row("metrics", point(1))
        outbox.flush()
    (message,) = sent
    assert {type(value) for value in message.values()} == {str, bytes}
    event, record = each_of(message)
    assert event == {"kind": "event", "fields": {"seconds": 0.25, "backend": None, "test": "t[é\ud800]"}}
    assert records.MetricRecord.from_plain(record["row"]) == point(1)
