"""Messages that only a follower has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from nsqd.broker import Broker, Republished
from nsqd.broker.topic import Topic
from nsqd.copies import Copies
from nsqd.copies.publish_again import PublishAgain
from nsqd.options import load
from nsqd.replication.frame_stream import first_to_end
from nsqd.replication.take_back import Stranded, TakeBack
from tests.nsqd.copies.setting import FOLLOWER, Setting
from tests.nsqd.replication.pair import MAX_TAKE, Follower, Leader, bytes_of, connect


@attrs.define(eq=False)
class OnlyThere:
    """A topic of more than one batch that is at a follower, and not here."""

    setting: Setting
    ids: list[bytes] = attrs.field(init=False)
    copy: Follower = attrs.field(factory=Follower)

    def __attrs_post_init__(self) -> None:
        lost = Leader(max_segment_bytes=1 << 20)
        lost.create("c", topic="u")
        self.ids = [each for _ in range(3) for each in lost.publish(*[b"m" * 2000] * 600, topic="u").ids]
        sender = connect(lost, self.copy)
        while frames := sender.take(lost.written, MAX_TAKE):
            self.copy.feed(bytes_of(frames))

    async def take_back(self) -> int:
        """As a link does it."""
        leader = self.setting.leader
        sender = leader._new_sender("127.0.0.1:4159")
        for _ in sender.compare(self.copy.copy.held()):
            pass
        (stranded,) = sender.stranded
        taken = leader._again.begin(stranded)
        try:
            while (wanted := taken.wanted) is not None:
                taken.feed(self.copy.copy.read(*wanted))
            counts: list[int] = []

            async def publish_again() -> None:
                counts.append(await leader._again.publish(stranded, taken))

            await first_to_end(self.setting.rounds.run_jobs, publish_again)
        finally:
            taken.close()
        return counts[0]

    @property
    def depth(self) -> int:
        return self.setting.nsqd.channel("c", "u").depth


@pytest.fixture
def only_there(tmp_path: Path) -> OnlyThere:
    return OnlyThere(Setting(tmp_path, FOLLOWER, "--min-free-space=0"))


async def test_what_two_followers_have_is_published_again_once(only_there: OnlyThere) -> None:
    assert await only_there.take_back() == len(only_there.ids)
    assert only_there.setting.broker.store.syncer.synced == only_there.setting.broker.store.syncer.written
    assert await only_there.take_back() == 0
    assert only_there.depth == len(only_there.ids)


async def test_what_was_published_before_a_failure_is_not_published_again(
    only_there: OnlyThere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the disk were full now and then."""
    publish, failures = Broker.publish_again, [False, True]

    def fails(broker: Broker, topic: Topic, messages: Sequence[Republished]) -> int:
        if failures and failures.pop(0):
            only_there.setting.nsqd.fail("append")
        return publish(broker, topic, messages)

    monkeypatch.setattr(Broker, "publish_again", fails)
    with pytest.raises(OSError):
        await only_there.take_back()
    only_there.setting.nsqd.heal()
    assert 0 < await only_there.take_back() < len(only_there.ids)
    assert only_there.depth == len(only_there.ids)


async def test_a_topic_that_is_deleted_while_it_is_published_again_stays_so(
    only_there: OnlyThere, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Broker.publish_again

    def deleted_meanwhile(broker: Broker, topic: Topic, messages: Sequence[Republished]) -> int:
        number = publish(broker, topic, messages)
        trio.lowlevel.current_trio_token().run_sync_soon(broker.delete_topic, topic.name)
        return number

    monkeypatch.setattr(Broker, "publish_again", deleted_meanwhile)
    assert 0 < await only_there.take_back() < len(only_there.ids)
    assert "u" not in only_there.setting.broker.topics


async def test_a_topic_that_was_deleted_since_it_was_compared_does_not_come_back(
    only_there: OnlyThere, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = PublishAgain.publish

    async def deleted_before(again: PublishAgain, stranded: Stranded, taken: TakeBack) -> int:
        only_there.setting.broker.store.deletions.add(stranded.generation)
        return await publish(again, stranded, taken)

    monkeypatch.setattr(PublishAgain, "publish", deleted_before)
    assert await only_there.take_back() == 0
    assert "u" not in only_there.setting.broker.topics


async def test_what_has_no_room_here_is_not_begun(tmp_path: Path, only_there: OnlyThere) -> None:
    storage = only_there.setting.nsqd.memory
    storage.capacity = 5 << 20
    with pytest.raises(OSError, match="no room for what only the follower has of topic-u"):
        await only_there.take_back()
    assert not [name for name in storage.files() if "stranded" in name]


async def test_nothing_is_left_of_a_take_back_that_was_killed(only_there: OnlyThere, tmp_path: Path) -> None:
    leader, storage = only_there.setting.leader, only_there.setting.nsqd.memory
    sender = leader._new_sender("127.0.0.1:4159")
    for _ in sender.compare(only_there.copy.copy.held()):
        pass
    taken = [leader._again.begin(sender.stranded[0]) for _ in range(2)]  # of two followers at once
    for each in taken:
        wanted = each.wanted
        assert wanted is not None
        each.feed(only_there.copy.copy.read(*wanted))
    assert len([name for name in storage.files() if "stranded" in name]) == 2
    Copies(load([FOLLOWER]), tmp_path, lambda: None).make_storage(storage)
    assert not [name for name in storage.files() if "stranded" in name]
