"""What was finished elsewhere, on its way to a stand-in: in order, and within bounds."""

from __future__ import annotations

import pytest
import trio

from nsqd.replication import finished_elsewhere
from nsqd.replication.finished_elsewhere import FinishedElsewhere, read_line
from nsqd.replication.wire import Finished

FRAMES = [Finished(7, "c", [[0, 5], [9, 12]]), Finished(1 << 63, "größer#", []), Finished(7, "d", [[1, 2]])]


async def test_a_stand_in_reads_what_the_leader_has_said() -> None:
    waiting = FinishedElsewhere()
    read: list[Finished] = []

    async def stand_in() -> None:
        while len(read) < len(FRAMES):
            line = await waiting.next()
            assert line.endswith(b"\n")
            assert b"\n" not in line[:-1]
            read.append(read_line(line))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand_in)
        for frame in FRAMES:
            waiting.add(frame)
            await trio.lowlevel.checkpoint()
    assert read == FRAMES


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished_elsewhere, "MAX_BYTES", 60)
    waiting = FinishedElsewhere()
    for frame in FRAMES:
        waiting.add(frame)
    assert [read_line(await waiting.next()) for _ in range(2)] == [FRAMES[0], FRAMES[2]]
    waiting.add(FRAMES[1])
    assert read_line(await waiting.next()) == FRAMES[1]


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"7", b'[7, "c", 3]', b'[7, ["c"], []]', b'[-1, "c", []]']
)
def test_what_is_no_line_is_said(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_line(line)
