"""The thread that writes: order, loss, recovery, the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

import attrs
import pytest

from nsqkit.audit import NOBODY, Event, Result
from nsqkit.audit.writer import LOST, AuditWriter
from tests.process.waiting import wait_until
from tests.timing import patience


@attrs.define(eq=False)
class FakeTarget:
    """A disk that can fail, hang, or take a part only."""

    lines: list[bytes] = attrs.field(factory=list)
    error: OSError | None = None
    at_most: int = 1000
    reopened: int = 0
    tries: int = 0
    free: threading.Event = attrs.field(factory=threading.Event)

    def __attrs_post_init__(self) -> None:
        self.free.set()

    def write(self, lines: Sequence[bytes]) -> int:
        assert self.free.wait(patience(20))
        self.tries += 1
        if self.error is not None:
            raise self.error
        taken = list(lines[: self.at_most])
        self.lines += taken
        return len(taken)

    def reopen(self) -> None:
        self.reopened += 1

    @property
    def texts(self) -> list[str]:
        return [line.decode() for line in self.lines]


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def writer(target: FakeTarget) -> Iterator[AuditWriter]:
    made = AuditWriter(
        target,
        "/var/log/audit",
        lambda event: f"{event.what} {event.count}".encode(),
        limit=100,
        retry_s=0.02,
    )
    made.start()
    yield made
    target.error = None
    target.free.set()
    made.close(STOP, patience(10))


def event(what: str, **values: object) -> Event:
    return attrs.evolve(Event(time=1.0, who=NOBODY, what=what), **values)


STOP = Event(time=1.0, who=NOBODY, what="stop")


def refused(what: str) -> Event:
    return event(what, result=Result.REFUSED)


def settled(writer: AuditWriter, ticket: int | None) -> None:
    """Wait until a line is written, or cannot be."""
    assert ticket is not None
    done = threading.Event()
    writer.when_settled(ticket, done.set)
    assert done.wait(patience(10))


def test_lines_are_written_in_order(writer: AuditWriter, target: FakeTarget) -> None:
    target.at_most = 3
    tickets = [writer.put(event(str(number))) for number in range(10)]
    settled(writer, tickets[-1])
    assert tickets == list(range(1, 11))
    assert target.texts == [f"{number} 1" for number in range(10)]
    assert (writer.written, writer.lost, writer.failing) == (10, 0, "")


def test_nobody_waits_for_a_disk_that_hangs(writer: AuditWriter, target: FakeTarget) -> None:
    target.free.clear()
    ticket = writer.put(event("a"))
    assert ticket is not None
    told: list[int] = []
    writer.when_settled(ticket, lambda: told.append(1))
    assert (writer.written, told) == (0, [])
    target.free.set()
    settled(writer, ticket)
    assert told == [1]


def test_a_disk_that_hangs_counts_as_failing(target: FakeTarget, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nsq")
    writer = AuditWriter(target, "audit", lambda event: event.what.encode(), hang_s=0.05)
    target.free.clear()
    writer.start()
    assert writer.failing == ""
    writer.put(event("a"))
    wait_until(lambda: writer.failing == "a write takes longer than 0.05 s", 10, "it is noticed")
    ticket = writer.put(event("b"))
    writer.put(event("c"))
    settled(writer, ticket)  # it is not, but there is no point in waiting
    assert writer.written == 0
    target.free.set()
    wait_until(lambda: writer.written == 3 and len(caplog.messages) == 2, 10, "they are written")
    assert writer.failing == ""
    writer.close(STOP, patience(10))
    assert caplog.messages == [
        "AUDIT: audit cannot be written - a write takes longer than 0.05 s; lines wait in memory, make room or mend it",
        "AUDIT: audit can be written again; lines lost: 0",
    ]


def test_a_disk_that_fails_is_said_once_and_tried_again(
    writer: AuditWriter, target: FakeTarget, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nsq")
    target.error = OSError(28, "No space left on device")
    first = writer.put(event("a"))
    settled(writer, first)
    assert (writer.failing, writer.written) == ("No space left on device", 0)
    wait_until(lambda: target.tries > 3, 10, "it is tried again")
    ticket = writer.put(event("b"))
    settled(writer, ticket)
    assert writer.written == 0
    target.error = None
    wait_until(lambda: writer.written == 2, 10, "both are written")
    assert target.texts == ["a 1", "b 1"]
    assert writer.failing == ""
    wait_until(lambda: len(caplog.messages) == 2, 10, "the end is in the log")
    assert caplog.messages == [
        "AUDIT: /var/log/audit cannot be written - No space left on device; lines wait in memory, make room or mend it",
        "AUDIT: /var/log/audit can be written again; lines lost: 0",
    ]


def test_lines_that_find_no_room_are_counted_and_said(writer: AuditWriter, target: FakeTarget) -> None:
    target.error = OSError(28, "No space left on device")
    tickets = [writer.put(event(f"{number:08}")) for number in range(20)]  # of ten bytes
    assert tickets == [*range(1, 11), *[None] * 10]
    assert writer.lost == 10
    target.error = None
    wait_until(lambda: len(target.lines) == 11, 10, "all are written")
    assert target.texts == [*(f"{number:08} 1" for number in range(10)), f"{LOST} 10"]
    settled(writer, writer.put(event("c")))
    assert target.texts[-1] == "c 1"


def test_refusals_of_a_second_are_one_line_without_another_event(
    writer: AuditWriter, target: FakeTarget
) -> None:
    for _ in range(50):
        writer.put_refusal(refused("GET"))
    wait_until(lambda: len(target.lines) == 2, 10, "the second has ended")
    assert target.texts == ["GET 1", "GET 49"]


def test_a_close_writes_everything(target: FakeTarget) -> None:
    writer = AuditWriter(target, "audit", lambda event: f"{event.what} {event.count}".encode())
    target.free.clear()
    writer.start()
    for _ in range(3):
        writer.put_refusal(refused("GET"))
    target.free.set()
    writer.close(STOP, patience(10))
    assert target.texts == ["GET 1", "GET 2", "stop 1"]
    assert target.reopened == 1, "the file is closed"


def test_a_close_does_not_wait_for_a_disk_that_fails(
    target: FakeTarget, caplog: pytest.LogCaptureFixture
) -> None:
    target.error = OSError(5, "Input/output error")
    writer = AuditWriter(target, "audit", lambda event: event.what.encode(), retry_s=patience(60))
    writer.start()
    settled(writer, writer.put(event("a")))
    tries = target.tries
    writer.close(STOP, patience(10))
    assert not writer.is_alive
    assert target.tries == tries + 1
    assert caplog.messages[-1] == "AUDIT: audit: lines lost at the end: 2"


def test_a_close_tries_once_more(target: FakeTarget) -> None:
    target.error = OSError(5, "Input/output error")
    writer = AuditWriter(target, "audit", lambda event: event.what.encode(), retry_s=patience(60))
    writer.start()
    settled(writer, writer.put(event("a")))
    target.error = None
    writer.close(STOP, patience(10))
    assert target.texts == ["a", "stop"]


def test_a_reopen_is_at_once_also_while_the_disk_fails(target: FakeTarget) -> None:
    writer = AuditWriter(target, "audit", lambda event: event.what.encode(), retry_s=patience(60))
    writer.start()
    writer.reopen()
    wait_until(lambda: target.reopened == 1, 10, "the file is let go")
    target.error = OSError(5, "Input/output error")
    ticket = writer.put(event("a"))
    settled(writer, ticket)
    target.error = None
    writer.reopen()
    wait_until(lambda: target.texts == ["a"], 10, "it is tried again before its time")
    writer.close(STOP, patience(10))


def test_lines_are_in_the_order_of_their_times(target: FakeTarget) -> None:
    """Also that of the refusals of a second, which is written at its end."""
    now = [1.0]
    writer = AuditWriter(
        target, "audit", lambda event: f"{event.what} {event.time}".encode(), clock=lambda: now[0]
    )
    writer.start()
    for _ in range(3):
        writer.put_refusal(attrs.evolve(refused("GET"), time=1.0))
    writer.put(attrs.evolve(event("change"), time=1.5))
    now[0] = 2.0
    writer.close(attrs.evolve(STOP, time=2.0), patience(10))
    assert target.texts == ["GET 1.0", "change 1.5", "GET 2.0", "stop 2.0"]
