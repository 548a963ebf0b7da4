"""Who has a turn, and when: looking at the network must not starve others, nor must what was read be forgotten."""

from __future__ import annotations

import json
import math
import os
import select
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from nsqd.auth import AuthClient
from nsqd.auth.state import parse_answer
from nsqd.broker.log_topic import LogTopic
from nsqd.drain import Drain
from nsqd.log.topic_log import TopicLog
from nsqd.protocol_v2 import connections
from nsqd.stats.remaining import remaining
from nsqkit.wire import OK, decode_message
from tests.nsqd.protocol_v2.harness import Machine, dpub, error, identify, mpub, pub, sized, sub
from tests.nsqd.protocol_v2.serving import Server, serving

EVERYTHING = {"topic": ".*", "channels": [".*"], "permissions": ["subscribe", "publish"]}


class InStep:
    """The epoll of a client that is there again 40 us after each answer; a look takes 1 us of this clock."""

    def __init__(self) -> None:
        self.now, self.looks = 1000.0, 0
        self.readable = os.eventfd(1)

    def monotonic(self) -> float:
        return self.now

    def fileno(self) -> int:
        return self.readable

    def poll(self, timeout: float = -1, maxevents: int = -1) -> list[tuple[int, int]]:
        self.now += 1e-6
        self.looks += 1
        return [] if self.looks % 40 else [(10_000, select.EPOLLIN)]


async def test_beside_a_client_in_step_others_have_their_turns_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publish at level `disk` takes about six steps of other tasks (job, thread, answer), an HTTP request two."""
    epoll = InStep()
    monkeypatch.setattr(connections, "monotonic", epoll.monotonic)
    async with serving("plain") as server:
        server._connections.epoll = epoll  # type: ignore[assignment]  # its task has not begun yet
        await trio.lowlevel.checkpoint()
        while epoll.looks < 1000:
            await trio.lowlevel.checkpoint()
        began = epoll.now
        for _ in range(6):
            await trio.lowlevel.checkpoint()
        assert epoll.now - began <= 3e-3
    os.close(epoll.readable)


@pytest.mark.parametrize("command", ["DPUB", "REQ"])
async def test_a_delay_begins_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """It began with the round that took it in: too early, when it came while that was at work."""
    delay, sent_at, wall_ns = 5.0, 0.0, 0
    publish = LogTopic.publish

    def slow_publish(topic: LogTopic, frames: list[bytes], size: int) -> None:
        nonlocal sent_at, wall_ns
        publish(topic, frames, size)
        if not sent_at:
            time.sleep(0.02)
            sent_at, wall_ns = trio.current_time(), time.time_ns()
            os.write(late.stream.raw.socket.fileno(), asked)

    async with serving("plain") as server:
        topic = server.broker.topic("t")
        channel = topic.channel("c")
        one, other, late = [await server.connect() for _ in range(3)]
        await one.send(pub(b"x"))
        await late.send(sub() + b"RDY 1\n")
        assert await late.frame() == OK
        asked = dpub(b"x", 5000) if command == "DPUB" else b"REQ " + (await late.message()).id + b" 5000\n"
        await server.settled()
        monkeypatch.setattr(LogTopic, "publish", slow_publish)
        monkeypatch.setattr(connections, "SLICE", math.inf)
        for peer in (one, other):  # at once, so that they are in one round
            os.write(peer.stream.raw.socket.fileno(), pub(b"x"))
        await server.settled()
        ((_, due, _),) = channel.deferred.values()
    assert due >= sent_at + delay
    if command == "DPUB":  # after a restart it is due by its time of publishing
        assert isinstance(topic, LogTopic)
        assert max(decode_message(frame).timestamp_ns for frame in topic.window.frames) >= wall_ns


class Turns(trio.abc.Instrument):
    """Counts the scheduler's."""

    count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_large_batch_is_parsed_in_one_turn_and_written_in_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5 MB of small messages held everybody up for the sum of both."""
    turns, seen = Turns(), {}
    publish, commit = LogTopic.publish, LogTopic.commit

    def published(topic: LogTopic, frames: list[bytes], size: int) -> None:
        seen["publish"] = turns.count
        publish(topic, frames, size)

    def committed(topic: LogTopic) -> None:
        seen["commit"] = turns.count
        commit(topic)

    monkeypatch.setattr(LogTopic, "publish", published)
    monkeypatch.setattr(LogTopic, "commit", committed)
    monkeypatch.setattr(connections, "SLICE", -1.0)  # whatever it was, it was long
    async with serving("plain") as server:
        peer = await server.connect()
        trio.lowlevel.add_instrument(turns)
        await peer.send(mpub(b"a", b"b"))
        assert await peer.frames(1) == [OK]
    assert seen["commit"] > seen["publish"] > 0


def in_the_turn_before_the_end(
    monkeypatch: pytest.MonkeyPatch, server: Server, act: Callable[[], Awaitable[None]]
) -> None:
    """Somebody acts once, between the first part of a long round and its end."""
    acted = False

    async def checkpoint() -> None:
        nonlocal acted
        if not acted and any(topic._pending for topic in server.broker.topics.values()):
            acted = True
            await act()
        await trio.lowlevel.checkpoint()

    lowlevel = SimpleNamespace(checkpoint=checkpoint, wait_readable=trio.lowlevel.wait_readable)
    monkeypatch.setattr(connections, "trio", SimpleNamespace(lowlevel=lowlevel))
    monkeypatch.setattr(connections, "SLICE", -1.0)


@pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
async def test_a_drain_waits_for_the_end_of_a_long_round(monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
    """It stopped with a batch that was acknowledged a moment later."""
    stopped = trio.Event()
    async with serving("plain") as server, trio.open_nursery() as nursery:
        drain = Drain(
            server.broker, 0, stop=stopped.set, answers_wait=lambda: server.rounds.has_unreleased_answers
        )
        nursery.start_soon(drain.run)

        async def begin_the_drain() -> None:
            drain.begin()
            await trio.lowlevel.checkpoint()

        peer = await server.connect()
        await server.settled()
        in_the_turn_before_the_end(monkeypatch, server, begin_the_drain)
        await peer.send(mpub(b"a", b"b", topic=topic))
        assert await peer.frame() == OK
        await server.settled()
        assert drain.active
        assert list(remaining(server.broker))
        assert not stopped.is_set()
        nursery.cancel_scope.cancel()


async def test_a_stop_tells_publishers_of_a_long_round_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They heard nothing, so they published the whole batch again, elsewhere."""
    async with serving("plain") as server:

        async def stop() -> None:
            server._connections.close_all()

        peer = await server.connect()
        await server.settled()
        in_the_turn_before_the_end(monkeypatch, server, stop)
        await peer.send(mpub(b"a", b"b"))
        assert await peer.all() == [OK]
        assert server.broker.existing("t").message_count == 2


async def test_publishes_behind_auth_are_taken_though_the_client_has_closed_its_side() -> None:
    """Commands that were read before its end are carried out, also those that wait for an auth server."""
    async with serving("plain") as server:
        asked: list[AuthClient] = []
        server.context.ask = asked.append
        peer = await server.connect()
        # more than a turn of commands, then AUTH, then a publish
        await peer.send(b"NOP\n" * 4100 + b"AUTH\n" + sized(b"secret") + pub(b"x"))
        await peer.stream.raw.send_eof()
        await server.settled()
        (session,) = asked
        answer = json.dumps({"ttl": 60, "authorizations": [EVERYTHING]}).encode()
        server.rounds.begin()
        session.authorized(parse_answer(answer, trio.current_time()))
        server.rounds.end()
        assert OK in await peer.all()
        assert server.broker.existing("t").message_count == 1


async def test_what_is_left_of_a_read_is_carried_out_when_the_answers_before_it_have_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything comes in one read: 40 publishes, turns of 16, a mark of 10 answers that wait for the disk."""
    monkeypatch.setattr("nsqd.protocol_v2.session.TURN", 16)
    monkeypatch.setattr("nsqd.protocol_v2.session.OUTBOX_LIMIT", 100)
    monkeypatch.setattr("nsqd.protocol_v2.session.ANSWERS_LIMIT", 100)
    async with serving("plain", sync_on_commit=True) as server:
        peer = await server.connect()
        await server.settled()
        await peer.send(pub(b"x") * 40)
        assert await peer.frames(40) == [OK] * 40


async def test_a_publisher_that_is_far_ahead_of_a_slow_disk_gets_all_its_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same with the real limits: it is stopped at the mark, and goes on after the sync."""
    disk, sync, count = threading.Event(), TopicLog.sync_files, 120_000

    def slow_sync(log: TopicLog, files: object) -> None:
        disk.wait(10)
        sync(log, files)  # type: ignore[arg-type]

    monkeypatch.setattr(TopicLog, "sync_files", slow_sync)
    async with serving("plain", sync_on_commit=True, limit=60) as server:
        peer = await server.connect(buffer=4 << 20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, pub(b"x") * count)
            await server.settled()
            assert not peer.session.wants_input
            disk.set()
            assert await peer.frames(count) == [OK] * count


@pytest.mark.timeout(20)
def test_a_heartbeat_due_behind_a_fatal_error_holds_nobody_up() -> None:
    """It is not sent any more; its moment, once passed, must not come again and again within one round."""
    machine = Machine()
    client = machine.client().send(identify(heartbeat_interval=1000))
    assert client.answers() == [OK]
    client.taking = False
    client.send(b"BOGUS\n")
    machine.advance(0.875)
    client.session.blocked(True)  # the socket took a part
    machine.advance(0.25)
    assert not client.closed
    assert machine.broker.timers.next() > machine.now
    client.take()
    assert client.answers() == [error("E_INVALID invalid command BOGUS")]
    assert client.closed


@pytest.mark.timeout(20)
async def test_a_client_that_lingers_over_its_heartbeat_holds_nobody_up(autojump_clock: object) -> None:
    """It has got a fatal error shortly before, and does not close its side."""
    async with serving("plain") as server:
        lingering, other = await server.connect(), await server.connect()
        await lingering.send(identify(heartbeat_interval=1000))
        await lingering.frames(1)
        await trio.sleep(0.9)
        await lingering.send(b"BOGUS\n")
        await lingering.frames(1)
        await trio.sleep(0.5)
        await other.send(pub(b"x"))
        assert await other.frames(1) == [OK]
