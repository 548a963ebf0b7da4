"""What a follower has, compared with what is here: what is taken for ours, and what is not touched."""

from __future__ import annotations

import pytest

from nsqd.log.storage import Storage
from nsqd.replication.wire import FolderHeld, by_folder
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, connect, files_of


@pytest.fixture
def leader() -> Leader:
    leader = Leader(max_segment_bytes=20_000)
    leader.create()
    leader.publish_many(10)
    return leader


def copied(leader: Leader) -> Follower:
    follower = Follower()
    catch_up(leader, follower)
    return follower


def catch_up(leader: Leader, follower: Follower) -> list[bytes]:
    """Returns the ids of what was published again."""
    leader.taken_back = []
    sender = connect(leader, follower)
    while frames := sender.take(leader.written, MAX_TAKE):
        follower.feed(b"".join(frames))
    sender.close()
    assert sender.complete
    return leader.taken_back


def last_segment(storage: Storage) -> str:
    return f"topic-t/{[name for name in storage.files('topic-t') if name.endswith('.log')][-1]}"


def overwrite(follower: Follower, path: str, at: int, data: bytes) -> None:
    """As another writer would have written it, or a power loss has left it."""
    file = follower.storage.open(path)
    before = file.read(0, file.size)
    file.truncate(at)
    file.append([data + before[at + len(data) :]])
    file.close()


def test_a_copy_of_a_prefix_gets_the_rest(leader: Leader) -> None:
    follower = copied(leader)
    leader.publish_many(10)
    assert catch_up(leader, follower) == []
    assert files_of(follower.storage) == files_of(leader.memory)


@pytest.mark.parametrize("at", ["head", "tail"])
def test_a_damaged_segment_is_sent_again(leader: Leader, at: str) -> None:
    """As a power loss of the follower has left it."""
    follower = copied(leader)
    path = last_segment(follower.storage)
    size = len(files_of(follower.storage)[path])
    overwrite(follower, path, 20 if at == "head" else size - 100, b"\0" * 20)
    leader.publish_many(10)
    assert catch_up(leader, follower) == []
    assert files_of(follower.storage) == files_of(leader.memory)


def test_a_copy_does_not_claim_to_be_complete_while_a_damaged_segment_is_sent_again(leader: Leader) -> None:
    """Cut off at any frame: it has no gap, or says that it has one."""
    follower = copied(leader)
    path = last_segment(follower.storage)
    leader.restart()
    leader.kill()
    leader.publish_many(10)
    assert catch_up(leader, follower) == []
    overwrite(follower, path, 20, b"\0" * 20)
    sender = connect(leader, follower)
    while frames := sender.take(leader.written, 100):
        for frame in frames:
            follower.feed(frame)
            assert follower.storage.exists(path) or not follower.copy.note.complete
    assert files_of(follower.storage) == files_of(leader.memory)


def test_damage_in_the_middle_is_found_after_an_unclean_stop(leader: Leader) -> None:
    follower = copied(leader)
    for _ in range(60):
        leader.publish(b"m" * 100)
    assert catch_up(leader, follower) == []
    path = last_segment(follower.storage)
    overwrite(follower, path, 200, b"\0" * 20)
    assert catch_up(leader, follower) == []
    assert files_of(follower.storage) != files_of(leader.memory)
    follower.suspect = True
    assert catch_up(leader, follower) == []
    assert files_of(follower.storage) == files_of(leader.memory)


def test_each_file_that_is_read_as_a_whole_is_told_at_once(leader: Leader) -> None:
    """A leader that hears nothing for some seconds gives up, and asks for all of it again."""
    for _ in range(30):
        leader.publish(b"m" * 2000)
    follower = copied(leader)
    (name, told), *_ = ((frame.folder, len(frame.files)) for frame in follower.copy.held() if frame.folder)
    assert (name, told) == ("topic-t", len(follower.storage.files("topic-t")))
    plain = by_folder(follower.copy.held())
    follower.suspect = True
    follower.begin()
    assert all(len(frame.files) == 1 for frame in follower.copy.held() if not frame.generation)
    found = by_folder(follower.copy.held())
    assert [(key, gen, files.keys()) for key, (gen, files) in found.items()] == [
        (key, gen, files.keys()) for key, (gen, files) in plain.items()
    ]


def test_bytes_that_are_no_record_are_sent_over(leader: Leader) -> None:
    follower = copied(leader)
    path = last_segment(follower.storage)
    file = follower.storage.open(path)
    file.append([b"what a power loss has left"])
    file.close()
    assert catch_up(leader, follower) == []
    assert files_of(follower.storage) == files_of(leader.memory)


def test_a_manifest_with_other_bytes_is_sent_again(leader: Leader) -> None:
    leader.restart()
    follower = copied(leader)
    overwrite(follower, "topic-t/manifest", 30, b"\0\0")
    assert catch_up(leader, follower) == []
    assert files_of(follower.storage) == files_of(leader.memory)


def test_a_topic_that_was_deleted_meanwhile_is_removed_there(leader: Leader) -> None:
    follower = copied(leader)
    leader.delete_topic("t")
    leader.create(topic="u")
    assert catch_up(leader, follower) == []
    assert files_of(follower.storage) == files_of(leader.memory)


def test_files_without_content_are_not_asked_for(leader: Leader) -> None:
    """The answer would be none, and the session would end and begin for ever."""
    sender = connect(leader, Follower())
    names = [f"{0:020}.log", f"{9:020}.log", f"{5:020}.snap", f"{9:020}.snap"]
    files = [[name, size, 0, 1] for name, size in zip(names, (100, 0, 100, 0), strict=True)]
    for _ in sender.compare([FolderHeld("topic-u", 7, files)]):
        pass
    (stranded,) = sender.stranded
    assert [piece.name for piece in stranded.pieces] == [names[2], names[0]]
    sender.close()
