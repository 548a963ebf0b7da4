"""The checker of a queue finds each fault that it is there to find, and no other."""

from __future__ import annotations

import pytest

from tests.process.checker import ChannelBook, Key, Ledger, Report, make_body

ID = b"0123456789abcdef"
FAULTS = ["lost", "duplicated", "resurrected", "phantom", "mutated", "partial", "attempts", "early"]


def publish(
    ledger: Ledger, number: int = 0, *, publisher: str = "p", delay_s: float = 0.0, ok: bool = True
) -> Key:
    key = ledger.attempted(publisher, number, make_body(publisher, number), now_s=100.0, delay_s=delay_s)
    if ok:
        ledger.acknowledged([key])
    return key


def deliver(
    book: ChannelBook, key: Key, *, attempts: int = 1, message_id: bytes = ID, now_s: float = 200.0
) -> None:
    assert book.delivered(message_id, 5, attempts, make_body(*key), now_s) == key


def only(report: Report, *faults: str) -> None:
    """Check that these faults were found, and no others."""
    assert [name for name in FAULTS if getattr(report, name)] == list(faults), str(report)
    assert report.ok == (not faults)
    for name in faults:
        assert name in str(report)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def book(ledger: Ledger) -> ChannelBook:
    return ChannelBook("c", ledger)


def test_a_good_run_is_well(ledger: Ledger, book: ChannelBook) -> None:
    keys = [publish(ledger, number) for number in range(3)]
    for key in keys:
        deliver(book, key)
        book.journaled([book.finished(key)])
    only(book.report())
    assert (book.deliveries, book.distinct) == (3, 3)


def test_acknowledged_and_never_delivered_is_lost_with_its_place(ledger: Ledger, book: ChannelBook) -> None:
    for number in range(9):
        key = publish(ledger, number)
        if number not in (0, 4, 8):
            deliver(book, key)
    report = book.report()
    only(report, "lost")
    assert [text.split("(")[1].split(",")[0] for text in report.lost] == ["beginning", "middle", "end"]


def test_not_acknowledged_may_come_or_not(ledger: Ledger, book: ChannelBook) -> None:
    publish(ledger, 0, ok=False)
    deliver(book, publish(ledger, 1, ok=False))
    only(book.report())


def test_twice_in_one_life_is_duplicated(ledger: Ledger, book: ChannelBook) -> None:
    key = publish(ledger)
    deliver(book, key)
    deliver(book, key, attempts=2)
    only(book.report(), "duplicated")


def test_twice_after_a_requeue_is_right(ledger: Ledger, book: ChannelBook) -> None:
    key = publish(ledger)
    deliver(book, key)
    book.requeued(key)
    deliver(book, key, attempts=2)
    only(book.report())


def test_a_requeue_allows_one_more_delivery_only(ledger: Ledger, book: ChannelBook) -> None:
    key = publish(ledger)
    deliver(book, key)
    book.requeued(key)
    deliver(book, key, attempts=2)
    deliver(book, key, attempts=3)
    only(book.report(), "duplicated")


@pytest.mark.parametrize("attempts", [1, 2])
def test_again_after_a_crash_is_right(ledger: Ledger, book: ChannelBook, attempts: int) -> None:
    key = publish(ledger)
    deliver(book, key)
    book.finished(key)  # sent, but not known to be journaled
    book.crashed()
    deliver(book, key, attempts=attempts)
    only(book.report())


def test_again_after_a_journaled_fin_is_resurrected(ledger: Ledger, book: ChannelBook) -> None:
    key = publish(ledger)
    deliver(book, key)
    book.journaled([book.finished(key)])
    book.crashed()
    deliver(book, key, attempts=2)
    only(book.report(), "resurrected")


def test_again_after_a_fin_in_the_same_life_is_resurrected(ledger: Ledger, book: ChannelBook) -> None:
    key = publish(ledger)
    deliver(book, key)
    book.finished(key)
    deliver(book, key, attempts=2)
    only(book.report(), "resurrected")


@pytest.mark.parametrize("body", [b"x", b"p:1", b"p:x:1", b"q:0:", b"p:7:"])
def test_a_message_that_was_never_published_is_a_phantom(
    ledger: Ledger, book: ChannelBook, body: bytes
) -> None:
    deliver(book, publish(ledger))
    assert book.delivered(ID, 5, 1, body, 200.0) is None
    only(book.report(), "phantom")


@pytest.mark.parametrize("where", [10, 50, 99])
def test_a_flipped_bit_is_mutated(ledger: Ledger, book: ChannelBook, where: int) -> None:
    key = publish(ledger)
    body = bytearray(make_body(*key))
    body[where] ^= 1
    book.delivered(ID, 5, 1, bytes(body), 200.0)
    only(book.report(), "mutated")


def test_a_missing_or_extra_byte_is_mutated(ledger: Ledger, book: ChannelBook) -> None:
    book.delivered(ID, 5, 1, make_body(*publish(ledger, 0))[:-1], 200.0)
    book.delivered(ID, 5, 1, make_body(*publish(ledger, 1)) + b"\0", 200.0)
    report = book.report()
    only(report, "mutated")
    assert len(report.mutated) == 2


def test_another_id_the_second_time_is_mutated(ledger: Ledger, book: ChannelBook) -> None:
    key = publish(ledger)
    deliver(book, key)
    book.crashed()
    deliver(book, key, message_id=b"f" * 16)
    only(book.report(), "mutated")


def test_another_time_stamp_the_second_time_is_mutated(ledger: Ledger, book: ChannelBook) -> None:
    key = publish(ledger)
    deliver(book, key)
    book.crashed()
    book.delivered(ID, 6, 1, make_body(*key), 200.0)
    only(book.report(), "mutated")


@pytest.mark.parametrize(("came", "faults"), [(0, []), (1, ["partial"]), (2, ["partial"]), (3, [])])
def test_an_mpub_comes_wholly_or_not_at_all(
    ledger: Ledger, book: ChannelBook, came: int, faults: list[str]
) -> None:
    keys = ledger.attempted_together("p", 0, [make_body("p", number) for number in range(3)], 100.0)
    for key in keys[:came]:
        deliver(book, key)
    only(book.report(), *faults)


@pytest.mark.parametrize(("second", "faults"), [(1, ["attempts"]), (2, []), (3, ["attempts"])])
def test_attempts_grow_by_one_in_one_life(
    ledger: Ledger, book: ChannelBook, second: int, faults: list[str]
) -> None:
    key = publish(ledger)
    deliver(book, key)
    book.requeued(key)
    deliver(book, key, attempts=second)
    only(book.report(), *faults)


@pytest.mark.parametrize(("third", "faults"), [(1, ["attempts"]), (2, []), (3, [])])
def test_journaled_attempts_outlive_a_crash(
    ledger: Ledger, book: ChannelBook, third: int, faults: list[str]
) -> None:
    key = publish(ledger)
    deliver(book, key)
    book.journaled([book.requeued(key)])
    book.crashed()
    deliver(book, key, attempts=third)
    only(book.report(), *faults)


def test_a_journaled_requeue_says_nothing_of_a_later_fin(ledger: Ledger, book: ChannelBook) -> None:
    key = publish(ledger)
    deliver(book, key)
    requeued = book.requeued(key)
    deliver(book, key, attempts=2)
    book.finished(key)
    book.journaled([requeued])  # its barrier is answered only now
    book.crashed()
    deliver(book, key, attempts=2)
    only(book.report())


@pytest.mark.parametrize("attempts", [0, 2])
def test_the_first_delivery_of_the_first_life_is_attempt_one(
    ledger: Ledger, book: ChannelBook, attempts: int
) -> None:
    deliver(book, publish(ledger), attempts=attempts)
    only(book.report(), "attempts")


@pytest.mark.parametrize(("now_s", "faults"), [(101.9, ["early"]), (102.0, []), (110.0, [])])
def test_deferred_is_never_early(ledger: Ledger, book: ChannelBook, now_s: float, faults: list[str]) -> None:
    deliver(book, publish(ledger, delay_s=2.0), now_s=now_s)
    only(book.report(), *faults)


def test_each_channel_has_a_book_of_its_own(ledger: Ledger, book: ChannelBook) -> None:
    other = ChannelBook("d", ledger)
    deliver(book, publish(ledger))
    only(book.report())
    only(other.report(), "lost")


def test_a_number_is_used_once(ledger: Ledger) -> None:
    publish(ledger)
    with pytest.raises(AssertionError, match="number used twice"):
        publish(ledger)


def test_bodies_have_the_size_asked_for_and_differ() -> None:
    bodies = {make_body(name, number, 300) for name in "pq" for number in range(20)}
    assert len(bodies) == 40
    assert {len(body) for body in bodies} == {300}
    assert len(make_body("a-long-name", 12345, 3)) == len(b"a-long-name:12345:")
