"""Before a copy is adopted, the leader's other followers say what they know, and give what they have more of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from nsqd.log.deletions import Deletions
from nsqd.replication.frame_stream import FrameStream, Identity, greet_follower
from nsqd.replication.from_leader import COPIES, Follower, Room
from nsqd.replication.keep import CopyNote
from nsqd.replication.other_followers import TIMEOUT, OtherFollowers
from nsqd.replication.seal import Seal
from nsqd.replication.stand_in import CommandRefused, StandIns
from nsqd.replication.wire import AllHeld, Beat, FolderHeld
from tests.nsqd.replication.pair import MAX_TAKE, Leader, connect, files_of
from tests.nsqd.replication.pair import Follower as CopyInMemory

pytestmark = pytest.mark.usefixtures("no_threads")

LIFE = "ab" * 16
FIRST = Identity(b"1" * 16, 1, b"s" * 16, "first:4150", b"a secret of all three")
SECOND = attrs.evolve(FIRST, life=b"2" * 16, name="second:4150")
LEADER = attrs.evolve(FIRST, life=bytes.fromhex(LIFE), incarnation=5, name="leader:4150")


def put_copy(path: Path, copy: CopyInMemory, *others: str) -> Path:
    """What is in memory as the copy of a follower on disk."""
    folder = path / COPIES / LIFE
    for name, data in files_of(copy.storage).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    note = CopyNote(LIFE, "leader:4150", 4, complete=True, others=others)
    (folder / "nsqd.copy").write_bytes(note.encode())
    return folder


def catch_up(leader: Leader, copy: CopyInMemory) -> None:
    sender = connect(leader, copy)
    while frames := sender.take(leader.written, MAX_TAKE):
        copy.feed(b"".join(frames))
    sender.close()


@attrs.define(eq=False)
class Setting:
    """Two followers. `answer`: what is at the second one's address."""

    first: Follower
    second: Follower
    stand_ins: StandIns
    others: OtherFollowers
    nursery: trio.Nursery
    answer: Callable[[trio.abc.Stream], object] | None

    async def connect(self, address: str) -> trio.abc.Stream:
        assert address == "second:4159"
        if self.answer is None:
            raise OSError("nobody is there")
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.answer, theirs)
        return ours

    @property
    def note(self) -> CopyNote:
        return self.first.copies[LIFE].note


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Setting]:
    first, second = Follower(path / "1", FIRST, Room(0, 0)), Follower(path / "2", SECOND, Room(0, 0))

    async def serve(stream: trio.abc.Stream) -> None:
        await second.serve(stream, "remote")

    async with trio.open_nursery() as nursery:
        others = OtherFollowers(FIRST, lambda address: setting.connect(address))
        stand_ins = StandIns(first, lambda *_: [], [], "", others)
        setting = Setting(first, second, stand_ins, others, nursery, serve)
        yield setting
        nursery.cancel_scope.cancel()
    first.close()
    second.close()


@pytest.fixture
def leader() -> Leader:
    leader = Leader()
    leader.create()
    leader.publish_many(10)
    return leader


@pytest.fixture
def behind(tmp_path: Path, leader: Leader) -> Path:
    """The first follower has less than the second one. Returns the folder of the first one's copy."""
    copy = CopyInMemory()
    catch_up(leader, copy)
    folder = put_copy(tmp_path / "1", copy, "second:4159")
    for _ in range(30):
        leader.publish(b"m" * 200)
    leader.create("c", topic="new")
    leader.publish(b"in a new topic", topic="new")
    catch_up(leader, copy)
    put_copy(tmp_path / "2", copy, "first:4159")
    return folder


def logs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.log")}


async def test_what_another_follower_has_more_is_fetched(
    tmp_path: Path, behind: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        (other,) = await setting.others.ask(setting.note)
        assert (other.found.held, other.found.connected, other.found.sealed) == (True, False, False)
        assert await setting.others.fetch(setting.note, setting.first.copies[LIFE].storage) > 30 * 200
    assert logs(behind) == logs(tmp_path / "2" / COPIES / LIFE)


async def test_a_topic_that_was_deleted_does_not_come_back(
    tmp_path: Path, leader: Leader, behind: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        storage = setting.first.copies[LIFE].storage
        Deletions(storage).add(leader.broker.retentions["new"].log.generation)
        await setting.others.fetch(setting.note, storage)
    assert not (behind / "topic-new").exists()


@pytest.mark.usefixtures("behind")
async def test_a_leader_that_is_connected_elsewhere_is_there(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = FrameStream(await setting.connect("second:4159"))
        await greet_follower(frames, LEADER, disk=False)
        with pytest.raises(CommandRefused, match="leader:4150 is connected to second:4159"):
            await setting.stand_ins.adopt(LIFE, force=False)
        await frames.send(Beat(1, 0, 0))
        assert not setting.first.copies[LIFE].seal


@pytest.mark.usefixtures("behind")
async def test_a_copy_is_adopted_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with running(tmp_path) as setting:
        setting.second.seal(setting.second.copies[LIFE])
        with pytest.raises(CommandRefused, match="second:4159 has adopted its copy of leader:4150"):
            await setting.stand_ins.adopt(LIFE, force=False)
        assert not setting.first.copies[LIFE].seal
        await setting.stand_ins.adopt(LIFE, force=True)
        assert setting.first.copies[LIFE].seal == Seal(owner=FIRST.life.hex())


async def nothing(_stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def not_one_of_us(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize("answer", [None, nothing, not_one_of_us])
async def test_one_that_does_not_answer_has_no_say(
    tmp_path: Path,
    answer: Callable[[trio.abc.Stream], object] | None,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(tmp_path) as setting:
        setting.answer = answer
        before = trio.current_time()
        await setting.stand_ins.adopt(LIFE, force=False)
        assert trio.current_time() - before <= TIMEOUT
        assert setting.first.copies[LIFE].seal
        assert await setting.others.fetch(setting.note, setting.first.copies[LIFE].storage) == 0


async def test_one_without_a_copy_has_no_say(
    tmp_path: Path, leader: Leader, autojump_clock: trio.testing.MockClock
) -> None:
    copy = CopyInMemory()
    catch_up(leader, copy)
    put_copy(tmp_path / "1", copy, "second:4159")
    async with running(tmp_path) as setting:
        (other,) = await setting.others.ask(setting.note)
        assert not other.found.held
        await setting.stand_ins.adopt(LIFE, force=False)
        assert not setting.second.copies


async def test_the_leader_says_where_the_others_are(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as setting:
        frames = FrameStream(await setting.connect("second:4159"))
        await greet_follower(frames, LEADER, disk=False, others=["first:4159"])
        while not isinstance(frame := await frames.receive(), AllHeld):
            assert isinstance(frame, FolderHeld)
        await frames.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert setting.second.copies[LIFE].note.others == ("first:4159",)
    again = Follower(tmp_path / "2", SECOND, Room(0, 0))
    assert again.copies[LIFE].note.others == ("first:4159",)
    again.close()
