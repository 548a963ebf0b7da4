"""What a follower has, compared with what is here: what is taken for ours, and what is not touched."""

from __future__ import annotations

import pytest

from nsqd.log.storage import Storage
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, connect, files_of


@pytest.fixture
def leader() -> Leader:
    leader = Leader()
    leader.create()
    leader.publish_many(10)
    return leader


def copied(leader: Leader) -> Follower:
    follower = Follower()
    catch_up(leader, follower)
    return follower


def catch_up(leader: Leader, follower: Follower) -> dict[str, str]:
    """Returns what is in the way."""
    sender = connect(leader, follower)
    while frames := sender.take(leader.written, MAX_TAKE):
        follower.feed(b"".join(frames))
    sender.close()
    return sender.troubles


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
    assert catch_up(leader, follower) == {}
    assert files_of(follower.storage) == files_of(leader.memory)


@pytest.mark.parametrize("at", ["head", "tail"])
def test_a_segment_with_other_bytes_is_neither_appended_to_nor_acknowledged(leader: Leader, at: str) -> None:
    """A data path that was copied and has two futures; or zeros at the end, after a power loss of the follower."""
    follower = copied(leader)
    path = last_segment(follower.storage)
    size = len(files_of(follower.storage)[path])
    overwrite(follower, path, 20 if at == "head" else size - 100, b"\0" * 20)
    before = files_of(follower.storage)[path]
    leader.publish_many(10)
    assert "other bytes" in catch_up(leader, follower)["topic-t"]
    assert files_of(follower.storage)[path] == before
    assert not follower.copy.note.complete


def test_a_segment_with_more_bytes_is_left_alone(leader: Leader) -> None:
    follower = copied(leader)
    path = last_segment(follower.storage)
    file = follower.storage.open(path)
    file.append([b"what the leader has lost"])
    file.close()
    assert "24 bytes more" in catch_up(leader, follower)["topic-t"]


def test_a_manifest_with_other_bytes_is_sent_again(leader: Leader) -> None:
    leader.restart()
    follower = copied(leader)
    overwrite(follower, "topic-t/manifest", 30, b"\0\0")
    assert catch_up(leader, follower) == {}
    assert files_of(follower.storage) == files_of(leader.memory)


def test_a_topic_that_is_not_known_is_left_alone(leader: Leader) -> None:
    follower = copied(leader)
    stranger = Leader()
    assert "not known here" in catch_up(stranger, follower)["topic-t"]
    assert files_of(follower.storage).keys() >= files_of(leader.memory).keys() - {"nsqd.ids"}


def test_a_topic_that_was_deleted_meanwhile_is_removed_there(leader: Leader) -> None:
    follower = copied(leader)
    leader.delete_topic("t")
    leader.create(topic="u")
    assert catch_up(leader, follower) == {}
    assert files_of(follower.storage) == files_of(leader.memory)
