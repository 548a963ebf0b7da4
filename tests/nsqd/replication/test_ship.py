"""What a follower lacks, as frames: the order of them, and what a copy is that was cut off between two of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nsqd.replication.ship import FROM_FILE, OPEN_FILES, PIECE, Piece, Sender
from nsqd.replication.wire import (
    GREETING,
    FileFrame,
    Frame,
    Frames,
    Pass,
    Remove,
    RemoveFolder,
    Ticket,
    Whole,
    encode,
)
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, bytes_of, connect, files_of


@pytest.fixture
def leader() -> Leader:
    return Leader()


@pytest.fixture
def follower() -> Follower:
    return Follower()


def turn_over(leader: Leader, count: int = 30) -> None:
    """Messages in several segments, all finished, and the segments removed."""
    consumer = leader.consumers[0] if leader.consumers else leader.subscribe(rdy=100)
    for _ in range(count):
        leader.publish(b"m" * 300)
    leader.drain(consumer)
    for _ in range(2):
        leader.publish(b"last")
        leader.drain(consumer)
        leader.snapshot()
    leader.advance(1.0)


def segments(leader: Leader) -> list[str]:
    return [path for path in files_of(leader.memory) if path.endswith(".log")]


def frames_of(data: bytes) -> list[Frame]:
    frames = Frames()
    frames.feed(GREETING + data)
    return list(iter(frames.take, None))


def sent(leader: Leader, sender: Sender, size: int = MAX_TAKE) -> Iterator[bytes]:
    """Part by part, until there is no more."""
    while parts := sender.take(leader.written, size):
        for part in parts:
            yield part.read() if isinstance(part, Piece) else part


def test_a_copy_that_has_everything_is_equal(leader: Leader, follower: Follower) -> None:
    leader.create()
    leader.publish_many(10)
    turn_over(leader)
    follower.feed(b"".join(sent(leader, connect(leader, follower))))
    assert files_of(follower.storage) == files_of(leader.memory)
    assert follower.copy.note.complete


def test_nothing_is_sent_twice(leader: Leader, follower: Follower) -> None:
    leader.create()
    leader.publish_many(10)
    sender = connect(leader, follower)
    follower.feed(b"".join(sent(leader, sender)))
    assert not sender.take(leader.written, MAX_TAKE)
    sender.close()
    again = b"".join(sent(leader, connect(leader, follower)))
    assert frames_of(again) == [Ticket(leader.written), Pass(True)]


def test_live_appends_are_one_frame_each(leader: Leader, follower: Follower) -> None:
    """The file is named once; what is appended to it follows, and a ticket for each round."""
    leader.create()
    sender = connect(leader, follower)
    follower.feed(b"".join(sent(leader, sender)))
    kinds = []
    for _ in range(2):
        leader.publish(b"live")
        kinds.append([type(frame).__name__ for frame in frames_of(b"".join(sent(leader, sender)))])
    assert kinds == [["FileFrame", "Data", "Ticket"], ["Data", "Ticket"]]


def test_what_is_large_stays_in_its_file_until_it_is_sent(leader: Leader, follower: Follower) -> None:
    leader.create()
    for size in (FROM_FILE // 2, FROM_FILE, 2 * PIECE):
        leader.publish(b"m" * size)
    sender = connect(leader, follower)
    parts = sender.take(leader.written, MAX_TAKE)
    pieces = [part for part in parts if isinstance(part, Piece)]
    assert {FROM_FILE <= len(piece) <= PIECE for piece in pieces} == {True}
    assert sum(map(len, pieces)) > FROM_FILE + 2 * PIECE
    assert all(len(part) < FROM_FILE for part in parts if isinstance(part, bytes))
    follower.feed(bytes_of(parts))
    follower.feed(b"".join(sent(leader, sender)))
    assert files_of(follower.storage) == files_of(leader.memory)


def test_a_piece_outlives_its_file_until_the_next_is_taken(leader: Leader, follower: Follower) -> None:
    """More of them than files stay open, of topics that are deleted before they are sent."""
    for number in range(2 * OPEN_FILES):
        leader.create(topic=f"t{number}")
        leader.publish(b"m" * FROM_FILE, topic=f"t{number}")
    sender = connect(leader, follower)
    parts = sender.take(leader.written, MAX_TAKE)
    for number in range(2 * OPEN_FILES):
        leader.delete_topic(f"t{number}")
    pieces = [part for part in parts if isinstance(part, Piece)]
    assert len(pieces) == 2 * OPEN_FILES
    assert all(len(piece.read()) == len(piece) for piece in pieces)
    sender.take(leader.written, MAX_TAKE)
    assert all(piece.file.closed for piece in pieces[:OPEN_FILES])
    sender.close()
    assert all(piece.file.closed for piece in pieces)


def test_segments_that_the_leader_removes_before_they_are_sent_leave_a_gap_that_is_said(
    leader: Leader, follower: Follower
) -> None:
    leader.create()
    for _ in range(30):
        leader.publish(b"m" * 300)
    sender = connect(leader, follower)
    follower.feed(b"".join(sent(leader, sender)))
    assert follower.copy.note.complete
    before = segments(leader)
    turn_over(leader)
    assert not set(before) & set(segments(leader))
    frames = frames_of(b"".join(sent(leader, sender)))
    began = next(at for at, frame in enumerate(frames) if isinstance(frame, FileFrame))
    assert Pass(False) in frames[:began]
    assert frames[-1] == Pass(True)


def test_removals_come_after_what_makes_files_needless(leader: Leader, follower: Follower) -> None:
    leader.create()
    for _ in range(30):
        leader.publish(b"m" * 300)
    sender = connect(leader, follower)
    follower.feed(b"".join(sent(leader, sender)))
    turn_over(leader)
    frames = frames_of(b"".join(sent(leader, sender)))
    removals = [at for at, frame in enumerate(frames) if isinstance(frame, Remove)]
    wholes = [at for at, frame in enumerate(frames) if isinstance(frame, Whole)]
    assert len(removals) > 3
    assert max(wholes) < min(removals)


def test_a_follower_that_is_full_is_rid_of_what_is_gone_before_bytes_come(
    leader: Leader, follower: Follower
) -> None:
    leader.create()
    leader.create(topic="deleted")
    leader.publish(b"of another topic", topic="deleted")
    for _ in range(30):
        leader.publish(b"m" * 300)
    follower.feed(b"".join(sent(leader, connect(leader, follower))))
    before = set(segments(leader))
    leader.delete_topic("deleted")
    turn_over(leader)
    sender = connect(leader, follower)
    room = frames_of(b"".join(sender.make_room()))
    gone = before - set(segments(leader))
    assert {frame.path for frame in room if isinstance(frame, Remove)} == {
        path for path in gone if not path.startswith("topic-deleted/")
    }
    assert RemoveFolder("topic-deleted") in room
    assert Pass(False) in room
    follower.feed(b"".join(map(encode, room)))
    assert not gone & set(files_of(follower.storage))
    follower.feed(b"".join(sent(leader, sender)))
    assert files_of(follower.storage) == files_of(leader.memory)
    assert follower.copy.note.complete


def test_a_copy_of_which_nothing_is_gone_stays_complete_when_it_is_full(
    leader: Leader, follower: Follower
) -> None:
    leader.create()
    leader.publish_many(10)
    follower.feed(b"".join(sent(leader, connect(leader, follower))))
    leader.publish_many(10)
    assert connect(leader, follower).make_room() == []


@pytest.mark.parametrize("lag", [False, True])
def test_cut_off_after_any_frame_a_complete_copy_recovers_without_a_loss(
    leader: Leader, follower: Follower, lag: bool
) -> None:
    """`lag`: the follower hears of it all when it is over."""
    leader.create()
    sender = connect(leader, follower)
    follower.feed(b"".join(sent(leader, sender)))
    complete = 0
    for _ in range(3):
        leader.publish(*[b"kept"] * 3)
        for _ in range(1 if lag else 3):
            turn_over(leader, 3 if not lag else 20)
            if not lag:
                complete += follow_and_adopt(leader, follower, sender)
        complete += follow_and_adopt(leader, follower, sender)
    assert complete >= (3 if lag else 20)


def follow_and_adopt(leader: Leader, follower: Follower, sender: Sender) -> int:
    """Adopt the copy after each frame that arrives; returns how often it was complete."""
    complete = 0
    for frame in sent(leader, sender, 4000):
        follower.feed(frame)
        if follower.copy.note.complete:
            complete += 1
            adopted = follower.adopted(leader.now)
            assert not [note for note in adopted.broker.store.notes if "lost" in note or "damaged" in note]
    return complete
