"""A leader's connection to one follower: sessions, their ends, and what a follower may do that it should not."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import UnionType

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MemoryReceiveStream, MemorySendStream

from nsqd.replication import frame_stream
from nsqd.replication.frame_stream import FrameStream, Identity, NotWelcome, answer_leader
from nsqd.replication.safety import Standing
from nsqd.replication.seal import Owned
from nsqd.replication.ship import Sender
from nsqd.replication.take_back import Stranded, TakeBack
from nsqd.replication.to_follower import (
    ANSWER_TIMEOUT,
    DISMISSED_PAUSE,
    PAUSE,
    REFUSED_PAUSE,
    SILENCE,
    STRANDED,
    FollowerLink,
)
from nsqd.replication.to_follower import Leader as LeaderOfLink
from nsqd.replication.wire import (
    Ack,
    AllHeld,
    Beat,
    Bye,
    Challenge,
    Check,
    Checked,
    Data,
    Dismissed,
    Echo,
    Ended,
    Fetch,
    Finished,
    FolderHeld,
    Found,
    Frame,
    Hello,
    Others,
    Pass,
    Refused,
    Remove,
    RemoveFolder,
    Sealed,
    Ticket,
)
from nsqkit.wire.frames import ID
from tests.nsqd.replication.pair import Follower, Leader, connect, publish_again
from tests.nsqd.replication.test_wire import FRAMES

pytestmark = pytest.mark.usefixtures("no_threads")

US = Identity(b"l" * 16, 1, b"s" * 16, "leader:4150", b"the secret of both")
IT = Identity(b"f" * 16, 1, b"t" * 16, "follower:4150", b"the secret of both")
settled = trio.testing.wait_all_tasks_blocked


@attrs.define(eq=False)
class Setting:
    """A leader with a link, and the follower's ends of its connections, in `connections`."""

    nsqd: Leader = attrs.field(factory=Leader)
    link: FollowerLink = attrs.field(init=False)
    changes: int = 0
    compared: list[str] = attrs.field(factory=list)
    heard: list[tuple[str, float]] = attrs.field(factory=list)
    handed_over: list[Owned] = attrs.field(factory=list)
    connected_at: list[float] = attrs.field(factory=list)
    not_ours: set[int] = attrs.field(factory=set)
    others: list[str] = attrs.field(factory=lambda: ["other:1", "f:4159"])
    may_go: bool = False
    """A dismissed follower."""
    hand_over: Callable[[dict[int, int]], None] = attrs.field(init=False)
    fault: Exception | None = None
    awaited: bool = True
    catch_up_rate: int = 0
    publishing_takes: float = 0.0
    """Seconds."""
    last_stream: trio.StapledStream[MemorySendStream, MemoryReceiveStream] = attrs.field(init=False)
    """The leader's end of the last connection."""
    _send: trio.MemorySendChannel[trio.abc.Stream] = attrs.field(init=False)
    _connections: trio.MemoryReceiveChannel[trio.abc.Stream] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._send, self._connections = trio.open_memory_channel(100)
        self.hand_over = self.handed_over.append
        leader = LeaderOfLink(
            US,
            disk=False,
            written=lambda: self.nsqd.written,
            new_sender=self._new_sender,
            hanging=lambda: 0.0,
            awaited=self.awaited,
            catch_up_rate=self.catch_up_rate,
            changed=self._changed,
            new_take_back=lambda stranded: TakeBack(self.nsqd.noted.inner, stranded),
            publish_again=self._publish_again,
            compared=self.compared.append,
            ours=lambda _, owned: {key: ranges for key, ranges in owned.items() if key not in self.not_ours},
            finished_of=lambda owned: [Finished(each, "c", [[0, 5]]) for each in owned],
            others=lambda _: list(self.others),
            may_go=lambda link: self.may_go and link is self.link,
            hand_over=lambda ends: self.hand_over(ends),
            heard=lambda *said: self.heard.append(said),
        )
        self.link = FollowerLink(leader, Standing("f:4159"), self._connect)

    async def _publish_again(self, stranded: Stranded, taken: TakeBack) -> int:
        await trio.sleep(self.publishing_takes)
        frames = publish_again(self.nsqd, stranded, taken)
        self.nsqd.taken_back += [frame[ID] for frame in frames]
        return len(frames)

    def _new_sender(self, _address: str) -> Sender:
        if self.fault is not None:
            raise self.fault
        noted = self.nsqd.noted
        return Sender(
            noted, noted.notes, deleted=self.nsqd.deleted.__contains__, removed=self.nsqd.has_removed
        )

    def _changed(self) -> None:
        """As in the daemon: it is a round, and a round wakes the links."""
        self.changes += 1
        assert self.changes < 1000, "it goes round and round"
        self.link.wake()

    async def _connect(self, _address: str) -> trio.abc.Stream:
        self.connected_at.append(trio.current_time())
        self.last_stream, theirs = trio.testing.memory_stream_pair()
        await self._send.send(theirs)
        return self.last_stream

    async def accept(self, identity: Identity = IT) -> FrameStream:
        """The follower's end of the next connection, after the handshake."""
        with trio.fail_after(60):
            frames = FrameStream(await self._connections.receive())
            hello = await answer_leader(frames, identity)
        assert isinstance(hello, Hello)
        assert hello.others == ["other:1", "f:4159"]
        assert (hello.life, hello.start, hello.name) == (US.life, US.start, US.name)
        return frames

    async def in_step(self) -> FrameStream:
        """A follower that has everything."""
        frames = await self.accept()
        await frames.send(AllHeld())
        received: list[Frame] = []
        while Pass(True) not in received:
            received.append(await frames.receive())
        await frames.send(Ack(self.nsqd.written))
        await settled()
        assert self.link.standing.in_step
        return frames

    def publish(self) -> None:
        self.nsqd.publish(b"message")
        self.link.wake()

    async def catch_up(self, frames: FrameStream) -> float:
        """Be a follower that has nothing, until it is in step; returns the seconds."""
        began = trio.current_time()
        await frames.send(AllHeld())
        while not self.link.standing.in_step:
            match await frames.receive():
                case Ticket(ticket):
                    await frames.send(Ack(ticket))
                case Beat(number=number):
                    await frames.send(Echo(number))
            await settled()
        return trio.current_time() - began

    async def keep_publishing(self, bytes_a_second: int) -> None:
        while True:
            self.nsqd.publish(b"m" * (bytes_a_second // 10))
            self.link.wake()
            await trio.sleep(0.1)


@asynccontextmanager
async def running(*, awaited: bool = True, catch_up_rate: int = 0) -> AsyncIterator[Setting]:
    setting = Setting(awaited=awaited, catch_up_rate=catch_up_rate)
    setting.nsqd.create()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.link.run)
        yield setting
        nursery.cancel_scope.cancel()


async def until(frames: FrameStream, kind: type[Frame]) -> Frame:
    with trio.fail_after(60):
        while not isinstance(frame := await frames.receive(), kind):
            pass
    return frame


async def test_a_follower_that_has_everything_costs_no_rounds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        frames = await setting.in_step()
        before = setting.changes
        for number in range(1, 30):
            beat = await until(frames, Beat)
            assert isinstance(beat, Beat)
            assert (beat.number, beat.hanging_ms) == (number, 0)
            assert abs(beat.wall_ms / 1000 - time.time()) < 3600
            await frames.send(Echo(number))
        assert setting.changes == before
        setting.publish()
        assert await until(frames, Ticket) == Ticket(setting.nsqd.written)
        assert setting.changes == before


async def test_r6_an_echo_is_an_answer_to_its_beat_however_late_it_is_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        frames = await setting.in_step()
        sent_at = []
        for _ in range(3):
            await until(frames, Beat)
            sent_at.append(trio.current_time())
        await trio.sleep(0.5)
        await frames.send(Echo(2))
        await frames.send(Echo(2))  # was answered
        await frames.send(Echo(1))  # comes after a later one
        await settled()
        assert setting.heard == [("f:4159", sent_at[1])]


async def test_a_follower_comes_into_step_while_there_is_always_something_to_send(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        frames = await setting.accept()
        setting.publish()
        await frames.send(AllHeld())
        with trio.fail_after(60):
            while not setting.link.standing.in_step:
                frame = await frames.receive()
                if isinstance(frame, Ticket):
                    # The next one is there before the last one is acknowledged.
                    setting.publish()
                    await frames.send(Ack(frame.ticket))


@pytest.mark.parametrize("publishing", [0, 500_000])
async def test_a_follower_catches_up_at_the_rate_and_is_in_step_although_more_is_written(
    autojump_clock: trio.testing.MockClock, publishing: int
) -> None:
    async with running(catch_up_rate=100_000) as setting, trio.open_nursery() as nursery:
        for _ in range(50):
            setting.nsqd.publish(b"m" * 20_000)
        frames = await setting.accept()
        if publishing:
            nursery.start_soon(setting.keep_publishing, publishing)
        assert 5 < await setting.catch_up(frames) < 15
        nursery.cancel_scope.cancel()


async def test_a_follower_that_is_in_step_is_not_limited(autojump_clock: trio.testing.MockClock) -> None:
    async with running(catch_up_rate=100_000) as setting:
        frames = await setting.in_step()
        before = trio.current_time()
        for _ in range(50):
            setting.nsqd.publish(b"m" * 20_000)
        setting.link.wake()
        while await until(frames, Ticket) != Ticket(setting.nsqd.written):
            pass
        assert trio.current_time() == before


async def test_beats_go_on_while_nothing_may_be_sent(autojump_clock: trio.testing.MockClock) -> None:
    async with running(catch_up_rate=100) as setting:
        setting.nsqd.publish(b"m" * 5000)
        frames = await setting.accept()
        await frames.send(AllHeld())
        await until(frames, Data)
        for number in range(1, 30):
            beat = await until(frames, Beat)
            assert isinstance(beat, Beat)
            assert beat.number == number
            await frames.send(Echo(number))


async def test_a_stop_does_not_wait_for_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    async with running(catch_up_rate=1) as setting:
        for _ in range(100):
            setting.nsqd.publish(b"m" * 10_000)
        frames = await setting.accept()
        await frames.send(AllHeld())
        await until(frames, Data)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(setting.link.stop)
            while await until(frames, Ticket) != Ticket(setting.nsqd.written):
                pass
            await frames.send(Ack(setting.nsqd.written))
            assert await until(frames, Bye) == Bye(False)
        assert trio.current_time() - before < 1


async def test_many_acknowledgements_at_once_are_one_change(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        frames = await setting.in_step()
        before = setting.changes
        for _ in range(20):
            setting.publish()
        last = setting.nsqd.written
        while await until(frames, Ticket) != Ticket(last):
            pass
        await frames.send(*map(Ack, range(last + 1)), *map(Ack, range(last + 1)))
        await settled()
        assert setting.link.standing.acknowledged == last
        assert setting.changes == before + 1


async def test_what_nobody_waits_for_is_sent_together_and_its_acknowledgements_are_no_news(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(awaited=False) as setting:
        frames = await setting.in_step()
        changes, before = setting.changes, trio.current_time()
        for _ in range(20):
            setting.publish()
            await settled()
        tickets = 0
        while await until(frames, Ticket) != Ticket(setting.nsqd.written):
            tickets += 1
        assert tickets <= 1  # the first is sent at once
        assert trio.current_time() - before <= 2 * PAUSE
        await frames.send(Ack(setting.nsqd.written))
        await settled()
        assert setting.link.standing.acknowledged == setting.nsqd.written
        assert setting.changes == changes


async def received_in_time(frames: FrameStream) -> Frame:
    with trio.fail_after(SILENCE):
        return await frames.receive()


@pytest.mark.parametrize("seconds", [0.0, 3 * SILENCE])
async def test_what_only_the_follower_has_is_published_again_first(
    autojump_clock: trio.testing.MockClock, seconds: float
) -> None:
    """However long it takes, the follower hears of its leader."""
    had = Follower()
    async with running() as setting:
        setting.publishing_takes = seconds
        leader = setting.nsqd
        leader.broker.store.sync_now()
        before = leader.memory.crash()
        lost = leader.publish(*[b"m" * 100] * 50).ids
        sender = connect(leader, had)
        while sent := sender.take(leader.written, 1 << 20):
            had.feed(b"".join(sent))
        leader.memory = before
        leader._start()
        frames = await setting.accept()
        await frames.send(*had.copy.held(), AllHeld())
        while not isinstance(frame := await received_in_time(frames), Remove):
            if isinstance(frame, Fetch):
                assert setting.link.troubles == {"topic-t": STRANDED}
                # Some of what was asked for is an answer, too.
                piece = had.copy.read(frame.path, frame.offset, min(frame.size, 1000))
                await frames.send(Data(piece))
            elif not isinstance(frame, Beat):
                assert leader.taken_back == lost
            else:
                await frames.send(Echo(frame.number))
        assert setting.link.troubles == {}
        assert not setting.compared  # it may not have removed it yet
        for _ in range(3):
            beat = await until(frames, Beat)
            assert isinstance(beat, Beat)
            await frames.send(Echo(beat.number))
        await settled()
        assert setting.compared == ["f:4159"]


@pytest.mark.parametrize("size", [0, 1 << 20])
async def test_a_follower_that_answers_something_else_is_given_up(
    autojump_clock: trio.testing.MockClock, size: int
) -> None:
    async with running() as setting:
        frames = await setting.accept()
        await frames.send(FolderHeld("topic-u", 7, [["0" * 20 + ".log", 100, 0, 1]]), AllHeld())
        await until(frames, Fetch)
        await frames.send(Data(b"x" * size))
        await settled()
        assert "not the bytes that were asked for" in setting.link.standing.state
        assert not setting.compared


async def test_what_was_not_sent_cannot_be_acknowledged(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        frames = await setting.in_step()
        setting.nsqd.publish(b"message")  # nobody has told the link yet
        await frames.send(Ack(setting.nsqd.written))
        await settled()
        assert not setting.link.standing.in_step
        assert setting.link.standing.acknowledged == -1


async def test_a_session_has_nothing_of_the_last_one(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        frames = await setting.in_step()
        await frames.stream.aclose()
        await settled()
        assert not setting.link.standing.in_step
        frames = await setting.accept()
        await frames.send(AllHeld())
        await until(frames, Ticket)
        assert setting.link.standing.acknowledged == -1
        assert not setting.link.standing.in_step


async def test_a_follower_that_says_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        frames = await setting.in_step()
        await trio.sleep(SILENCE + 1)
        assert not setting.link.standing.in_step
        assert (await setting.accept()) is not frames


@pytest.mark.parametrize("greeted", [False, True])
async def test_who_does_not_finish_the_handshake_is_given_up(
    autojump_clock: trio.testing.MockClock, greeted: bool
) -> None:
    async with running() as setting:
        stream = await setting._connections.receive()
        if greeted:
            await FrameStream(stream).stream.send_all(b"nsqr\0\0\0\1")
        await setting.accept()
        assert setting.connected_at[1] - setting.connected_at[0] >= 10


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"nsqr\0\0\0\2", b"\0" * 5000])
async def test_another_server_is_tried_again(autojump_clock: trio.testing.MockClock, data: bytes) -> None:
    async with running() as setting:
        stream = await setting._connections.receive()
        await stream.send_all(data)
        await stream.aclose()
        await setting.in_step()


PLACES: dict[str, type[Frame] | UnionType] = {
    "instead of the challenge": Challenge,
    "while it tells what it has": AllHeld | FolderHeld | Sealed,
    "in a session": Ack | Echo,
}


@pytest.mark.parametrize(
    ("when", "frame"),
    [(when, frame) for when, right in PLACES.items() for frame in FRAMES if not isinstance(frame, right)],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_a_frame_in_the_wrong_place_ends_the_session_only(
    autojump_clock: trio.testing.MockClock, when: str, frame: Frame
) -> None:
    async with running() as setting:
        if when == "instead of the challenge":
            frames = FrameStream(await setting._connections.receive())
            await frames.stream.send_all(b"nsqr\0\0\0\1")
        elif when == "in a session":
            frames = await setting.in_step()
        else:
            frames = await setting.accept()
        await frames.send(frame)
        await settled()
        assert not setting.link.standing.in_step
        await setting.in_step()


async def test_a_fault_of_ours_is_logged_once_and_tried_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as setting:
        setting.fault = KeyError("a mistake")
        for _ in range(3):
            await setting.accept()
        setting.fault = None
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert "unexpected KeyError" in record.getMessage()
        assert record.exc_info
        await setting.in_step()


async def test_a_refusal_is_respected(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as setting:
        frames = await setting.accept()
        await frames.send(Refused("full"))
        await settled()
        assert setting.link.standing.state == "refused: full"
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        await setting.accept()
        assert setting.connected_at[1] - setting.connected_at[0] >= REFUSED_PAUSE


async def test_a_follower_that_has_refused_is_rid_first_of_what_is_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It may be full: in the usual order that would wait for bytes that it has no room for."""
    name = "0" * 20 + ".log"
    async with running() as setting:
        setting.nsqd.deleted.add(7)
        for refused in (False, True, False):
            frames = await setting.accept()
            await frames.send(FolderHeld("topic-u", 7, [[name, 10, 0, 1]]), AllHeld())
            first = await frames.receive()
            assert (first == RemoveFolder("topic-u")) is refused
            await frames.send(*([] if refused else [Refused("full")]))
            if refused:
                await frames.stream.aclose()


async def test_another_secret_is_seen_on_both_sides(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        with pytest.raises(NotWelcome, match="secrets differ"):
            await setting.accept(attrs.evolve(IT, secret=b"another secret of it"))
        await setting.in_step()


async def test_a_leader_does_not_follow_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        with pytest.raises(NotWelcome, match="same data path"):
            await setting.accept(US)
        await setting.in_step()


async def test_what_a_follower_has_is_bounded(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_stream, "MAX_HELD", 10)
    async with running() as setting:
        frames = await setting.accept()
        for _ in range(6):
            await frames.send(FolderHeld("topic-t", 0, [["manifest", 1, 0, 1]]))
        await settled()
        assert "more than 10" in setting.link.standing.state
        frames = await setting.accept()
        for _ in range(6):
            await frames.send(Sealed([[1, 0, 1]]))
        await settled()
        assert "more than 10" in setting.link.standing.state
        assert not setting.handed_over


async def test_a_copy_that_was_adopted_is_handed_over(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        frames = await setting.accept()
        await frames.send(Sealed([[1, 0, 10], [2, 5, 20]]), Sealed([[2, 30, 40]]))
        await settled()
        assert not setting.handed_over
        await frames.send(AllHeld())
        assert await frames.receive() == Finished(1, "c", [[0, 5]])
        assert await frames.receive() == Finished(2, "c", [[0, 5]])
        assert await until(frames, Bye) == Bye(True)
        assert setting.handed_over == [{1: [(0, 10)], 2: [(5, 20), (30, 40)]}]


async def test_a_copy_is_handed_over_although_nobody_listens_to_what_was_finished(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        frames = await setting.accept()
        setting.last_stream.send_stream.send_all_hook = trio.sleep_forever
        await frames.send(Sealed([[1, 0, 10]]), AllHeld())
        await trio.sleep(SILENCE + 1)
        assert setting.handed_over == [{1: [(0, 10)]}]


async def test_what_a_stand_in_has_and_is_not_ours_is_not_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        setting.not_ours = {2}
        frames = await setting.accept()
        await frames.send(Sealed([[1, 0, 10], [2, 5, 20]]), AllHeld())
        assert await frames.receive() == Finished(1, "c", [[0, 5]])
        assert await until(frames, Bye) == Bye(True)
        assert setting.handed_over == [{1: [(0, 10)]}]


@pytest.mark.parametrize("sealed_first", [False, True])
async def test_a_copy_is_either_held_or_adopted(
    autojump_clock: trio.testing.MockClock, sealed_first: bool
) -> None:
    async with running() as setting:
        frames = await setting.accept()
        both = [FolderHeld("topic-t", 0, []), Sealed([[1, 0, 10]])]
        await frames.send(*(reversed(both) if sealed_first else both), AllHeld())
        await settled()
        assert not setting.handed_over
        await setting.in_step()


async def test_a_hand_over_that_fails_is_tried_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_owned: Owned) -> None:
        raise OSError("the disk is full")

    async with running() as setting:
        setting.hand_over = fails
        for _ in range(2):
            frames = await setting.accept()
            await frames.send(Sealed([[1, 0, 10]]), AllHeld())
            await settled()
        assert "the disk is full" in caplog.text
        setting.hand_over = setting.handed_over.append
        frames = await setting.accept()
        await frames.send(Sealed([[1, 0, 10]]), AllHeld())
        await until(frames, Bye)
        assert setting.handed_over == [{1: [(0, 10)]}]


async def test_a_stop_sends_what_there_is_and_says_goodbye(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        frames = await setting.in_step()
        setting.nsqd.publish(b"last")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(setting.link.stop)
            assert await until(frames, Ticket) == Ticket(setting.nsqd.written)
            await frames.send(Ack(setting.nsqd.written))
            assert await until(frames, Bye) == Bye(False)


async def test_a_follower_that_hears_the_goodbye_first_is_no_failure(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It closes the connection before the leader has done so."""

    async def follower_closes() -> None:
        assert isinstance(frames.stream, trio.StapledStream)
        await frames.stream.send_eof()
        await settled()

    async with running() as setting:
        frames = await setting.in_step()
        setting.last_stream.send_stream.send_all_hook = follower_closes
        await setting.link.stop()
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("taken", [False, True])
async def test_a_stop_for_good_waits_for_who_takes_over(
    taken: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with running() as setting, trio.open_nursery() as nursery:
        frames = await setting.in_step()
        setting.publish()
        nursery.start_soon(partial(setting.link.stop, for_good=True))
        await until(frames, Ticket)
        await frames.send(Ack(setting.nsqd.written))
        assert await until(frames, Bye) == Bye(True)
        await settled()
        assert setting.link._connected
        # A frame that arrives after the follower has closed the connection could destroy its answer.
        more: list[Frame] = []
        with trio.move_on_after(SILENCE / 2):
            more.append(await frames.receive())
        assert not more
        if taken:
            await frames.send(Found(True, False, True, "66" * 16))
        await frames.stream.aclose()
    assert setting.link.has_taken_over is taken


async def test_a_follower_that_is_restarted_is_no_error(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as setting:
        frames = await setting.in_step()
        await frames.stream.aclose()
        await setting.in_step()
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert (record.levelname, record.args) == ("WARNING", ("f:4159", "the connection was closed"))


async def test_a_stop_does_not_wait_for_a_follower_that_is_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    setting = Setting()

    async def refuse(_address: str) -> trio.abc.Stream:
        raise ConnectionRefusedError

    setting.link._connect = refuse
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.link.run)
        await trio.sleep(5)
        before = trio.current_time()
        await setting.link.stop()
        assert trio.current_time() == before
        nursery.cancel_scope.cancel()


# --- followers that come and go


async def test_a_link_says_whom_it_means(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        setting.link.meant = IT.life
        assert setting.link.connected_at is None
        await setting.in_step()
        assert setting.link.connected_at == trio.current_time()
    async with running() as setting:
        setting.link.meant = b"x" * 16
        with pytest.raises(NotWelcome, match="another nsqd is meant"):
            await setting.accept()


async def test_a_follower_hears_where_the_others_are_and_knows_it_when_it_has_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        frames = await setting.in_step()

        async def echo() -> None:
            beat = await until(frames, Beat)
            assert isinstance(beat, Beat)
            await frames.send(Echo(beat.number))
            await settled()

        assert setting.link.known_others == frozenset()
        await echo()
        assert setting.link.known_others == {"other:1", "f:4159"}
        setting.others = ["new:1"]
        setting.link.others_changed()
        assert await until(frames, Others) == Others(["new:1"])
        assert setting.link.known_others == {"other:1", "f:4159"}
        await echo()
        assert setting.link.known_others == {"new:1"}
        assert [address for address, _ in setting.heard] == ["f:4159"] * 2


async def test_a_dismissed_follower_is_supplied_until_it_may_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        frames = await setting.in_step()
        setting.link.dismissed = True
        setting.publish()
        assert await until(frames, Ticket) == Ticket(setting.nsqd.written)
        setting.may_go = True
        assert await until(frames, Dismissed) == Dismissed()
        await settled()
        assert not setting.link.is_gone
        await frames.send(Found(False, False, False, ""))
        await settled()
        assert setting.link.is_gone
        assert setting.compared[-1:] == ["f:4159"]
        await trio.sleep(1000)
        assert len(setting.connected_at) == 1


async def test_one_that_is_not_dismissed_is_never_told_to_go(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        setting.may_go = True
        frames = await setting.in_step()
        for _ in range(5):
            assert isinstance(await frames.receive(), Beat)
            await frames.send(Echo(1))


async def test_a_dismissal_without_an_answer_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    """It may have been adopted meanwhile: then the next connection tells."""
    async with running() as setting:
        setting.link.dismissed = setting.may_go = True
        for _ in range(2):
            frames = await setting.accept()
            await frames.send(AllHeld())
            assert await frames.receive() == Dismissed()  # nothing is sent to it before
            await frames.stream.aclose()
            await settled()
            assert not setting.link.is_gone
        frames = await setting.accept()
        await frames.send(Sealed([[1, 0, 10]]), AllHeld())
        await until(frames, Bye)
        assert setting.handed_over == [{1: [(0, 10)]}]
        assert all(b - a >= DISMISSED_PAUSE for a, b in itertools.pairwise(setting.connected_at))


async def test_what_only_a_dismissed_follower_has_is_taken_back_before_it_goes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        setting.link.dismissed = setting.may_go = True
        frames = await setting.accept()
        await frames.send(FolderHeld("topic-u", 7, [["0" * 20 + ".log", 100, 0, 1]]), AllHeld())
        assert isinstance(await until(frames, Fetch | Dismissed), Fetch)
        assert setting.link.taken_back_until == -1
        await frames.send(Data(b"x" * 100))
        await until(frames, Dismissed)
        assert setting.link.taken_back_until == setting.nsqd.written


async def test_lives_that_have_ended_are_told_to_a_dismissed_follower_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        setting.link._leader = attrs.evolve(setting.link._leader, former_lives=[b"o" * 16])
        setting.link.dismissed = setting.may_go = True
        frames = await setting.accept()
        await frames.send(AllHeld())
        assert [await frames.receive(), await frames.receive()] == [Ended(b"o" * 16), Dismissed()]


async def test_a_life_that_ends_empty_leaves_no_copy(autojump_clock: trio.testing.MockClock) -> None:
    """A stand-in of which everything was finished: nobody will ever need that."""
    async with running() as setting, trio.open_nursery() as nursery:
        frames = await setting.in_step()
        setting.publish()
        nursery.start_soon(partial(setting.link.stop, empty=True))
        await until(frames, Ticket)
        await frames.send(Ack(setting.nsqd.written))
        assert await until(frames, Dismissed | Bye) == Dismissed()
        await frames.send(Found(False, False, False, ""))
    assert setting.link.is_gone


# --- what a scrub asks


async def asking(setting: Setting, what: Check | Fetch, answers: list[object]) -> None:
    answers.append(await setting.link.ask(what))


def sealed(setting: Setting) -> str:
    """A complete segment."""
    for _ in range(10):
        setting.nsqd.publish(b"m" * 500)
    return min(
        f"topic-t/{name}" for name in setting.nsqd.noted.notes.files("topic-t") if name.endswith(".log")
    )


@pytest.mark.parametrize("fetch", [False, True])
async def test_a_question_is_answered_while_messages_are_copied(
    autojump_clock: trio.testing.MockClock, fetch: bool
) -> None:
    async with running() as setting:
        path = sealed(setting)
        frames = await setting.in_step()
        answers: list[object] = []
        async with trio.open_nursery() as nursery:
            question = Fetch(path, 0, 10) if fetch else Check(path, 0, 10)
            nursery.start_soon(asking, setting, question, answers)
            assert await until(frames, type(question)) == question
            setting.publish()
            ticket = await until(frames, Ticket)
            assert isinstance(ticket, Ticket)
            answer = Data(b"0123456789") if fetch else Checked(path, 0, 10, 1234)
            await frames.send(Ack(ticket.ticket), answer)
        assert answers == [answer]
        assert setting.link.standing.acknowledged == ticket.ticket


async def test_only_what_a_follower_in_step_has_is_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        path = sealed(setting)
        assert await setting.link.ask(Check(path, 0, 10)) is None
        frames = await setting.in_step()
        assert await setting.link.ask(Check("topic-u/" + path[8:], 0, 10)) is None
        answers: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking, setting, Check(path, 0, 10), answers)
            await until(frames, Check)
            assert await setting.link.ask(Check(path, 10, 10)) is None  # one at a time
            setting.link.standing.in_step = False
            await frames.send(Checked(path, 0, 10, 5))
        assert answers == [Checked(path, 0, 10, 5)]
        assert await setting.link.ask(Check(path, 10, 10)) is None


async def test_a_question_ends_with_the_session(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        path = sealed(setting)
        frames = await setting.in_step()
        answers: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking, setting, Check(path, 0, 10), answers)
            await until(frames, Check)
            await frames.stream.aclose()
        assert answers == [None]
        await setting.in_step()


async def test_an_answer_that_is_late_is_no_answer_to_the_next_question(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as setting:
        path = sealed(setting)
        frames = await setting.in_step()
        answers: list[object] = []
        async with trio.open_nursery() as nursery:

            async def echo() -> None:
                while True:
                    beat = await until(frames, Beat)
                    assert isinstance(beat, Beat)
                    await frames.send(Echo(beat.number))

            nursery.start_soon(echo)
            began = trio.current_time()
            await asking(setting, Check(path, 0, 10), answers)
            assert trio.current_time() - began == ANSWER_TIMEOUT
            assert answers == [None]
            assert await setting.link.ask(Check(path, 10, 10)) is None  # it still owes the answer
            await frames.send(Checked(path, 0, 10, 5))
            await settled()
            nursery.start_soon(asking, setting, Check(path, 10, 10), answers)
            await settled()
            await frames.send(Checked(path, 10, 10, 6))
            await settled()
            nursery.cancel_scope.cancel()
        assert answers == [None, Checked(path, 10, 10, 6)]


async def test_an_answer_to_another_question_ends_the_session(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as setting:
        path = sealed(setting)
        for wrong in (Checked(path, 5, 10, 1), Data(b"bytes")):
            frames = await setting.in_step()
            answers: list[object] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asking, setting, Check(path, 0, 10), answers)
                await until(frames, Check)
                await frames.send(wrong)
            assert answers == [None]
