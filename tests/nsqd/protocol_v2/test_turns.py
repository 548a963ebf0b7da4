"""Turns of the event loop: polling sockets and long rounds leave turns to other tasks, and nothing is forgotten."""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from nsqd.broker.topic import Topic
from nsqd.drain import Drain
from nsqd.protocol_v2 import connections
from nsqd.protocol_v2.phase import SessionPhase
from nsqd.stats.remaining import remaining
from nsqkit.wire import OK, decode_message
from tests.nsqd.broker.harness import deferred_of, view_of
from tests.nsqd.protocol_v2.harness import Machine, dpub, identify, mpub, pub, sub
from tests.nsqd.protocol_v2.serving import Server, serving


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


async def test_other_tasks_have_their_turns_beside_a_client_in_lockstep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
async def test_a_delay_begins_when_its_command_was_sent(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It began with the round that took it in: too early, when it came while that was at work."""
    delay, sent_at, wall_ns = 5.0, 0.0, 0
    publish = Topic.publish

    def slow_publish(topic: Topic, frames: list[bytes], size: int) -> None:
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
        monkeypatch.setattr(Topic, "publish", slow_publish)
        monkeypatch.setattr(connections, "SLICE", math.inf)
        for peer in (one, other):  # at once, so that they are in one round
            os.write(peer.stream.raw.socket.fileno(), pub(b"x"))
        await server.settled()
        ((_, due),) = deferred_of(channel).values()
    assert due >= sent_at + delay
    if command == "DPUB":  # after a restart it is due by its time of publishing
        assert max(decode_message(frame).timestamp_ns for frame in view_of(topic).window.frames) >= wall_ns


class Turns(trio.abc.Instrument):
    """Counts the scheduler's."""

    count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_large_batch_is_parsed_in_one_turn_and_written_in_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5 MB of small messages held all other clients up for the sum of both."""
    turns, seen = Turns(), {}
    publish, commit = Topic.publish, Topic.commit

    def published(topic: Topic, frames: list[bytes], size: int) -> None:
        seen["publish"] = turns.count
        publish(topic, frames, size)

    def committed(topic: Topic) -> None:
        seen["commit"] = turns.count
        commit(topic)

    monkeypatch.setattr(Topic, "publish", published)
    monkeypatch.setattr(Topic, "commit", committed)
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


async def test_a_stop_answers_the_publishers_of_a_long_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without an answer they published the whole batch again, elsewhere."""
    async with serving("plain") as server:

        async def stop() -> None:
            server._connections.close_all()

        peer = await server.connect()
        await server.settled()
        in_the_turn_before_the_end(monkeypatch, server, stop)
        await peer.send(mpub(b"a", b"b"))
        assert await peer.all() == [OK]
        assert server.broker.existing("t").message_count == 2


def test_a_second_identify_ends_the_turn() -> None:
    """It costs as much as 50 other commands, and a turn's share of those would hold others up (I7)."""
    machine = Machine()
    client = machine.client()
    machine.rounds.begin()
    client.session.feed(identify() * 10 + b"NOP\n")
    machine.settle()
    assert client.answers() == [OK] * 2
    assert client.session.phase is SessionPhase.YIELDED
    client.send(b"")
    assert client.answers() == [OK] * 8
    assert client.session.phase is SessionPhase.READING
    assert machine.context.buffered == 0
