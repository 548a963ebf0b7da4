"""What a leader asks its followers before it recovers: how long it waits, and for what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from nsqd.log.deletions import Deletions
from nsqd.replication import before_start
from nsqd.replication.before_start import TIMEOUT, Findings, ask_followers
from nsqd.replication.frame_stream import FrameStream, answer_leader
from nsqd.replication.from_leader import Follower
from nsqd.replication.held_copies import COPIES, HeldCopies, Room
from nsqd.replication.unasked import Doubt
from nsqd.replication.wire import ANY_LIFE, AllHeld, Sealed
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import Follower as CopyInMemory
from tests.nsqd.replication.pair import Leader
from tests.nsqd.replication.test_other_followers import FIRST, LEADER, LIFE, catch_up, logs, put_copy

pytestmark = pytest.mark.usefixtures("no_threads")

Serve = Callable[[trio.abc.Stream], Awaitable[None]]


async def ask(
    storage: MemoryStorage, *followers: Serve, doubts: Mapping[int, Doubt] | None = None
) -> Findings:
    """The answers of these, whose addresses are their numbers. `doubts`: of each of them."""
    async with trio.open_nursery() as nursery:

        async def connect(address: str) -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(followers[int(address)], theirs)
            return ours

        found = await ask_followers(
            {str(number): ANY_LIFE for number in range(len(followers))},
            LEADER,
            storage,
            Deletions(storage),
            lambda _address: doubts or {},
            restore=True,
            connect=connect,
        )
        nursery.cancel_scope.cancel()
    return found


async def says_nothing(_stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def test_nobody_is_waited_for_who_does_not_answer(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    found = await ask(MemoryStorage(), says_nothing, says_nothing)
    assert trio.current_time() - began == TIMEOUT
    assert found.unanswered == ["0", "1"]


async def test_one_that_needs_time_to_tell_what_it_has_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def tells_slowly(stream: trio.abc.Stream) -> None:
        frames = FrameStream(stream)
        await answer_leader(frames, FIRST)
        for generation in range(10):
            await trio.sleep(0.6 * TIMEOUT)
            await frames.send(Sealed([[generation, 0, 1]]))
        await frames.send(AllHeld())
        await trio.sleep_forever()

    found = await ask(MemoryStorage(), tells_slowly)
    assert found.sealed == {"0": {generation: [(0, 1)] for generation in range(10)}}
    assert found.unanswered == []


async def test_the_own_disk_may_take_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """To look through what was written before a power loss can take far longer than a follower has to answer."""
    leader, copy = Leader(), CopyInMemory()
    leader.create()
    leader.broker.store.sync_now()
    for _ in range(30):
        leader.publish(b"m" * 200)
    catch_up(leader, copy)
    put_copy(tmp_path, copy)
    held = HeldCopies(tmp_path, FIRST.life, Room(0, 0))
    follower = Follower(held, FIRST)

    async def slow_disk(work: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        if getattr(work, "func", work).__name__ in ("needs", "finish"):  # not that of the follower
            with trio.CancelScope(shield=True):  # a thread cannot be cancelled
                await trio.sleep(4 * TIMEOUT)
        await trio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", slow_disk)
    storage = leader.memory.crash()
    found = await ask(storage, lambda stream: follower.serve(stream, "remote"))
    held.close()
    assert found.unanswered == []
    assert found.restored_bytes > 30 * 200
    assert all(
        storage.open(path, read_only=True).size == len(data)
        for path, data in logs(tmp_path / COPIES / LIFE).items()
    )


async def test_one_that_has_more_than_could_be_restored_is_asked_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Damaged is the end of what is here, at the follower, too: what follows there is taken back later."""
    leader, copy = Leader(), CopyInMemory()
    leader.create()
    for number in range(30):
        if number == 5:
            leader.broker.store.sync_now()
        leader.publish(b"m%d" % number + b"m" * 200)
    catch_up(leader, copy)
    folder = put_copy(tmp_path, copy)
    log = folder / "topic-t" / f"{0:020}.log"
    log.write_bytes(log.read_bytes().replace(b"m6mm", b"xxxx"))
    held = HeldCopies(tmp_path, FIRST.life, Room(0, 0))
    storage = leader.memory.crash()
    found = await ask(storage, lambda stream: Follower(held, FIRST).serve(stream, "remote"))
    held.close()
    assert found.unanswered == ["0"]
    assert len([name for name in storage.files("topic-t") if name.endswith(".log")]) == 1


async def test_what_was_given_up_without_it_is_not_put_back_in_its_place(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The log here may have a record that it is lost: what is put back would not be delivered."""
    leader, copy = Leader(), CopyInMemory()
    leader.create()
    leader.broker.store.sync_now()
    leader.publish_many(5)
    catch_up(leader, copy)
    put_copy(tmp_path, copy)
    held = HeldCopies(tmp_path, FIRST.life, Room(0, 0))
    storage = leader.memory.crash()
    generation = leader.broker.retentions["t"].log.generation

    async def serve(stream: trio.abc.Stream) -> None:
        await Follower(held, FIRST).serve(stream, "remote")

    found = await ask(storage, serve, doubts={generation: Doubt(0, 1000)})
    assert (found.unanswered, found.restored_bytes) == (["0"], 0)
    found = await ask(storage, serve)
    assert found.unanswered == []
    assert found.restored_bytes > 0
    held.close()


async def test_a_fault_of_ours_costs_an_answer_and_not_the_start(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def fails(*_: object) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(before_start, "receive_held", fails)

    async def greets(stream: trio.abc.Stream) -> None:
        await answer_leader(FrameStream(stream), FIRST)
        await trio.sleep_forever()

    assert (await ask(MemoryStorage(), greets)).unanswered == ["0"]
