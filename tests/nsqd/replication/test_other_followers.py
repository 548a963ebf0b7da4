"""Before a copy is adopted, the leader's other followers say what they know, and give what they have more of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from nsqd.log.deletions import Deletions
from nsqd.replication.frame_stream import FrameStream, Identity, greet_follower
from nsqd.replication.from_leader import Follower
from nsqd.replication.held_copies import COPIES, CopyState, HeldCopies, Room
from nsqd.replication.keep import CopyNote
from nsqd.replication.other_followers import TIMEOUT, OtherFollowers
from nsqd.replication.seal import Owned, Seal
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
    """Two followers. `answer`: what is at the second one's address; None: nobody."""

    first: HeldCopies
    second: HeldCopies
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

    async def answer_of_the_second(self, stream: trio.abc.Stream) -> None:
        await Follower(self.second, SECOND).serve(stream, "remote")

    @property
    def note(self) -> CopyNote:
        return self.first.copies[LIFE].note


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Setting]:
    first = HeldCopies(path / "1", FIRST.life, Room(0, 0))
    second = HeldCopies(path / "2", SECOND.life, Room(0, 0))

    async with trio.open_nursery() as nursery:
        others = OtherFollowers(FIRST, lambda address: setting.connect(address))
        stand_ins = StandIns(first, lambda *_: [], [], "", others)
        setting = Setting(first, second, stand_ins, others, nursery, None)
        setting.answer = setting.answer_of_the_second
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


@pytest.fixture
def ahead(tmp_path: Path, leader: Leader) -> Owned:
    """The first follower has more than the second one. What a stand-in of the latter would own."""
    copy = CopyInMemory()
    catch_up(leader, copy)
    put_copy(tmp_path / "2", copy, "first:4159")
    owned = copy.adopted(leader.now).broker.owned_messages()
    leader.publish(b"m" * 200)
    catch_up(leader, copy)
    put_copy(tmp_path / "1", copy, "second:4159")
    return owned


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


@pytest.mark.usefixtures("behind")
async def test_what_it_has_is_told_to_who_fetches_it_only(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Stand-ins ask every now and then, and to look at all files takes long."""
    async with running(tmp_path) as setting:
        assert not (await setting.others.ask(setting.note))[0].folders


async def test_a_full_disk_stays_as_it_is(
    tmp_path: Path, behind: Path, autojump_clock: trio.testing.MockClock
) -> None:
    before = logs(behind)
    async with running(tmp_path) as setting:
        storage = setting.first.copies[LIFE].storage
        assert await setting.others.fetch(setting.note, storage, min_free=1 << 60) == 0
    assert logs(behind) == before


@pytest.mark.usefixtures("behind")
async def test_one_that_does_not_answer_is_logged_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as setting:
        for answers in (False, False, True, False):
            setting.answer = setting.answer_of_the_second if answers else None
            await setting.others.ask(setting.note)
        told = [record for record in caplog.records if "not asked" in record.message]
        assert [record.levelname for record in told if record.levelno > logging.DEBUG] == [
            "WARNING",
            "WARNING",
        ]


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
    again = HeldCopies(tmp_path / "2", SECOND.life, Room(0, 0))
    assert again.copies[LIFE].note.others == ("first:4159",)
    again.close()


def adopted_by_the_second(setting: Setting, owned: Owned | None) -> None:
    state = setting.second.copies[LIFE]
    state.seal = Seal(owned, owner=SECOND.life.hex())
    state.seal.write(state.storage)


async def test_r1_a_copy_that_goes_further_than_the_adopted_one_is_adopted_too(
    tmp_path: Path, ahead: Owned, autojump_clock: trio.testing.MockClock
) -> None:
    """As when it could not be reached at that moment: it may have the only bytes of what was acknowledged."""
    async with running(tmp_path) as setting:
        adopted_by_the_second(setting, ahead)
        assert await setting.stand_ins.adopt_left_over(LIFE)
        assert setting.first.copies[LIFE].seal == Seal(owner=FIRST.life.hex())


@pytest.mark.parametrize("owned", ["not yet", "nothing", "all", "more"])
async def test_a_copy_that_goes_no_further_is_not_adopted(
    tmp_path: Path, leader: Leader, ahead: Owned, autojump_clock: trio.testing.MockClock, owned: str
) -> None:
    """`not yet`: it is being adopted there; `nothing`: that copy had gaps."""
    async with running(tmp_path) as setting:
        everything = leader.broker.owned_messages()
        more = {each: [(0, end + 5) for _, end in ranges] for each, ranges in everything.items()}
        adopted_by_the_second(
            setting, {"not yet": None, "nothing": {}, "all": everything, "more": more}[owned]
        )
        assert not await setting.stand_ins.adopt_left_over(LIFE)
        assert not setting.first.copies[LIFE].seal


@pytest.mark.parametrize("case", ["not adopted", "no answer", "the leader is back"])
async def test_what_is_left_over_is_nothing_while_somebody_may_have_it(
    tmp_path: Path, ahead: Owned, autojump_clock: trio.testing.MockClock, case: str
) -> None:
    async with running(tmp_path) as setting:
        if case != "not adopted":
            adopted_by_the_second(setting, ahead)
        if case == "no answer":
            setting.answer = None
        if case == "the leader is back":
            other = setting.first.copies["cc" * 16] = CopyState(
                attrs.evolve(setting.note, life="cc" * 16), setting.first.copies[LIFE].storage
            )
            other.connected = True
        assert not await setting.stand_ins.adopt_left_over(LIFE)
        assert not setting.first.copies[LIFE].seal
        setting.first.copies.pop("cc" * 16, None)
