"""The scrub as it runs: when it looks, whom it asks, and what is in the log."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import attrs
import pytest
import trio
import trio.testing

from nsqd.copies.scrubbing import LOOK_AGAIN, NOTE_INTERVAL, Scrubbing
from nsqd.replication import rot
from nsqd.replication.safety import Standing
from nsqd.replication.scrub import NOTE, Scrub, ScrubNote, SendAgain
from nsqd.replication.to_follower import FollowerLink
from nsqd.replication.wire import Check, Checked, Data, Fetch
from tests.nsqd.replication.pair import files_of
from tests.nsqd.replication.scrubbing import Scrubbed
from tests.nsqd.replication.test_scrub import fill

pytestmark = pytest.mark.usefixtures("no_threads")

INTERVAL = 2 * 3600.0


@attrs.define(eq=False)
class Link:
    """A `FollowerLink` whose follower is in this process. `asked_at`: when it was asked something."""

    pair: Scrubbed
    standing: Standing = attrs.field(factory=lambda: Standing("f", in_step=True))
    asked_at: list[float] = attrs.field(factory=list)

    async def ask(self, what: Check | Fetch) -> Checked | Data | None:
        self.asked_at.append(trio.current_time())
        return self.pair.do("f", what)

    def send_again(self, path: str) -> None:
        self.pair.do("f", SendAgain(path))
        self.pair.send()

    def reread(self, path: str) -> None:
        self.pair.senders["f"].reread(path)


@attrs.define(eq=False)
class Running:
    pair: Scrubbed
    link: Link
    scrub: Scrub
    scrubbing: Scrubbing


@asynccontextmanager
async def running(pair: Scrubbed) -> AsyncIterator[Running]:
    link = Link(pair)
    scrubbing = Scrubbing(pair.scrub, [cast(FollowerLink, link)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubbing.run)
        yield Running(pair, link, pair.scrub, scrubbing)
        nursery.cancel_scope.cancel()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Scrubbed:
    """Of many pieces."""
    monkeypatch.setattr(rot, "PIECE", 600)
    found = Scrubbed(interval=INTERVAL)
    fill(found)
    return found


async def test_a_pass_takes_the_interval_and_the_next_one_another(
    pair: Scrubbed, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(pair) as setting:
        began = trio.current_time()
        await trio.sleep(2.5 * INTERVAL)
        assert setting.scrub.passes == 2
        asked = [at - began for at in setting.link.asked_at]
        assert asked[0] == 0
        assert len([at for at in asked if at < INTERVAL]) >= 10
        gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert max(gaps) < INTERVAL / 5
        assert min(gaps) > INTERVAL / 100
        assert not setting.pair.scrub.unmended


async def test_it_waits_for_a_follower_in_step(
    pair: Scrubbed, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(pair) as setting:
        setting.link.standing.in_step = False
        await trio.sleep(INTERVAL)
        assert not setting.link.asked_at
        assert setting.scrubbing.begin_at_once() == "no follower is in step"
        setting.link.standing.in_step = True
        await trio.sleep(LOOK_AGAIN)
        assert len(setting.link.asked_at) == 1


async def test_a_pass_that_is_asked_for_begins_at_once_with_all_that_there_is(
    pair: Scrubbed, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pair.scrub._interval = 0
    async with running(pair) as setting:
        await trio.sleep(INTERVAL)
        assert not setting.link.asked_at
        assert setting.scrubbing.begin_at_once() is None
        assert setting.scrubbing.stats().at_once
        await trio.sleep(1)
        stats = setting.scrubbing.stats()
        assert (stats.passes, stats.at_once) == (1, False)
        assert stats.checked_bytes == stats.total_bytes == stats.left_bytes > 0
        assert (
            f"COPIES: scrub: all complete segments were compared, {stats.total_bytes} bytes"
            in caplog.messages
        )
        await trio.sleep(INTERVAL)
        assert setting.scrub.passes == 1


async def test_what_is_found_is_mended_and_logged(
    pair: Scrubbed, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    before = files_of(pair.leader.memory)
    here, there, both, *_ = pair.sealed()
    pair.leader.memory.rot(here, 200)
    pair.followers["f"].storage.rot(there, 200)
    for disk in pair.disks():
        disk.rot(both, 200)
    async with running(pair) as setting:
        assert setting.scrubbing.begin_at_once() is None
        await trio.sleep(1)
        stats = setting.scrubbing.stats()
    for disk in pair.disks():
        assert {**files_of(disk), both: b""} == {**before, both: b""}
    assert (stats.mended, stats.mended_there, stats.unmended_count) == (1, 2, 1)
    assert list(stats.unmended) == [both]
    size = int(stats.unmended[both].split()[0])
    assert caplog.messages == [
        f"COPIES(f): {size} bytes of {here} were damaged here, and are mended from its copy; look at the disk here",
        f"COPIES(f): {size} bytes of its copy of {there} are damaged, and sent again; look at its disk",
        f"COPIES: {both} is damaged here and at f, bytes 64 to {64 + size}; what is in them is lost, see nsqd-log "
        "verify",
        f"COPIES(f): {size} bytes of its copy of {both} are damaged, and sent again; look at its disk",
        "COPIES: scrub: all complete segments were compared; 1 have damage that could not be mended: see /replicas",
    ]
    assert ScrubNote.read(pair.leader.memory).unmended.keys() == {both}


async def test_how_far_it_has_come_is_noted_seldom(
    pair: Scrubbed, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.scrub._interval = NOTE_INTERVAL * 4
    notes = 0

    def write_note(scrub: Scrub) -> None:
        nonlocal notes
        notes += 1
        scrub._storage.replace(NOTE, scrub.note.encode())

    monkeypatch.setattr(Scrub, "write_note", write_note)
    async with running(pair) as setting:
        await trio.sleep(NOTE_INTERVAL * 3.5)
        assert setting.scrub.passes == 0
        assert 3 <= notes <= 4
        assert len(setting.link.asked_at) > 2 * notes
    assert ScrubNote.read(pair.leader.memory).place.path


async def test_a_disk_without_room_for_the_note_does_not_end_it(
    pair: Scrubbed, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    pair.leader.fail("replace", path=NOTE)
    async with running(pair) as setting:
        await trio.sleep(1.5 * INTERVAL)
        assert setting.scrub.passes == 1
    assert "COPIES: how far the scrub has come cannot be noted - " in caplog.text


async def test_a_fault_of_ours_ends_a_look_only(
    pair: Scrubbed,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(_scrub: Scrub) -> None:
        raise KeyError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(Scrub, "count", fails)
        async with running(pair) as setting:
            await trio.sleep(1)
            assert "unexpected end of the scrub" in caplog.text
            patch.undo()
            await trio.sleep(LOOK_AGAIN)
            assert setting.link.asked_at
