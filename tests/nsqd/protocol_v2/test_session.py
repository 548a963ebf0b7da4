"""Input of one session: cut into turns, carried out to its end, and not shown in logs."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from nsqd.log.topic_log import TopicLog
from nsqd.protocol_v2.phase import SessionPhase
from nsqd.protocol_v2.session import TURN
from nsqkit.wire import OK
from tests.nsqd.protocol_v2.harness import Machine, pub, sized
from tests.nsqd.protocol_v2.serving import Server, serving
from tests.timing import patience


def test_a_flood_of_small_commands_is_cut_into_turns() -> None:
    """I7: a quarter of a megabyte of them held everybody up for a tenth of a second."""
    machine = Machine()
    client = machine.client()
    machine.rounds.begin()
    client.session.feed(pub(b"x") * (TURN + 10))
    assert client.session.phase is SessionPhase.YIELDED
    machine.settle()
    assert len(client.answers()) == TURN
    client.session.feed(b"")
    assert client.session.phase is SessionPhase.READING
    machine.settle()
    assert len(client.answers()) == 10


async def test_a_flood_is_worked_through_without_further_input(server: Server) -> None:
    peer, other = await server.connect(buffer=1 << 20), await server.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, b"NOP\n" * 500_000 + pub(b"x"))
        for _ in range(5):
            await other.send(pub(b"y", "other"))
            assert await other.frame() == OK
        assert await peer.frame() == OK


def test_the_repr_of_a_session_is_short_and_holds_no_secret() -> None:
    machine = Machine()
    client = machine.client().send((b"AUTH\n" + sized(b"my-secret-token"))[:-3])
    text = repr(client.session.feed)
    assert "my-secret" not in text
    assert len(text) < 1000


async def test_the_rest_of_a_read_is_carried_out_when_the_answers_before_it_are_sent(
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
        disk.wait(patience(10))
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
