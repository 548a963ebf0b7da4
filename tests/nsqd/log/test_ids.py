"""I2: an id is never given twice, whatever happens to the daemon."""

from __future__ import annotations

import errno
import random

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.log import ids as ids_module
from nsqd.log.ids import BLOCK, NODE_SHIFT, IdSource
from nsqd.log.jobs import JobQueue
from nsqd.testing.faulty_storage import Crash, CrashAt, Die, Fail, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.log.samples import content, put

WALL_NS = 1_700_000_000_000_000_000
NOW = WALL_NS // 1000


def source(storage: MemoryStorage | FaultyStorage, wall_ns: int = WALL_NS, node_id: int = 0) -> IdSource:
    return IdSource(storage, JobQueue(), node_id, wall_ns)


def reserved(storage: MemoryStorage) -> int:
    return int(content(storage, "nsqd.ids").split()[-1])


class TestStart:
    def test_the_first_one_takes_the_clock(self) -> None:
        assert source(MemoryStorage()).take(1) == NOW

    def test_every_other_one_begins_behind_what_was_reserved(self) -> None:
        storage = MemoryStorage()
        first = source(storage).take(5)
        again = source(storage, wall_ns=0).take(1)  # a clock that leaps does not matter
        assert again == first + BLOCK

    def test_node_bits(self) -> None:
        storage = MemoryStorage()
        assert source(storage, node_id=1023).take(1) == (1023 << NODE_SHIFT) + NOW
        assert reserved(storage) == NOW + BLOCK
        assert source(storage, node_id=3).take(1) == (3 << NODE_SHIFT) + NOW + BLOCK

    @pytest.mark.parametrize("data", [b"", b"nsqd ids 2 5\n", b"nsqd ids 1 x\n", b"\0" * 20, b"nsqd ids 1 5"])
    def test_a_file_that_cannot_be_read_is_told(self, data: bytes) -> None:
        storage = MemoryStorage()
        put(storage, "nsqd.ids", data)
        ids = source(storage)
        assert ids.take(1) == NOW
        assert any("nsqd.ids" in note for note in ids.notes)

    def test_the_file_of_version_1_is_read(self) -> None:
        storage = MemoryStorage()
        put(storage, "nsqd.ids", b"nsqd ids 1 12345\n")
        assert source(storage).take(1) == 12345

    def test_every_flipped_bit_is_noticed(self) -> None:
        """I2: a lower count would give ids again that are in use."""
        storage = MemoryStorage()
        taken = source(storage, wall_ns=NOW * 2000).take(1)
        data = content(storage, "nsqd.ids")
        for bit in range(8 * len(data)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            put(storage, "nsqd.ids", bytes(changed))
            ids = source(storage)
            assert ids.notes
            ids.skip_used(taken)
            assert ids.take(1) > taken

    def test_ids_of_other_nodes_and_of_the_original_are_not_skipped(self) -> None:
        ids = source(MemoryStorage(), node_id=7)
        first = ids.next
        for message_id in (first - 1, 8 << NODE_SHIFT, (8 << NODE_SHIFT) - 1, 0):
            ids.skip_used(message_id)
            assert ids.next == first
        ids.skip_used(first + 2 * BLOCK)
        assert ids.take(1) == first + 2 * BLOCK + 1

    def test_an_error_is_no_damage(self) -> None:
        storage = MemoryStorage()
        source(storage)
        with pytest.raises(OSError):
            source(FaultyStorage(storage, lambda op, path: Fail(errno.EMFILE) if op == "open" else None))

    def test_nothing_is_given_before_the_disk_has_its_block(self) -> None:
        with pytest.raises(OSError):
            source(
                FaultyStorage(
                    MemoryStorage(), lambda op, path: Fail(errno.ENOSPC) if op == "replace" else None
                )
            )


class TestTake:
    def test_ids_come_in_a_row(self) -> None:
        ids = source(MemoryStorage())
        assert [ids.take(3), ids.take(1), ids.take(2)] == [NOW, NOW + 3, NOW + 4]

    def test_more_than_a_block_at_once(self) -> None:
        storage = MemoryStorage()
        ids = source(storage)
        first = ids.take(3 * BLOCK)
        assert ids.take(1) == first + 3 * BLOCK
        assert reserved(storage) > first + 3 * BLOCK

    def test_the_next_block_is_reserved_in_the_background(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        jobs = JobQueue()
        ids = IdSource(storage, jobs, 0, WALL_NS)
        ids.take(BLOCK // 2)
        assert not jobs
        ids.take(1)
        ids.take(1)
        assert len(jobs) == 1
        jobs.run_all()
        count = storage.counts["replace"]
        ids.take(BLOCK // 2)
        assert storage.counts["replace"] == count, "nobody waited"

    def test_a_background_reservation_that_failed_is_tried_again(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        jobs = JobQueue()
        ids = IdSource(storage, jobs, 0, WALL_NS)
        ids.take(BLOCK // 2 + 1)
        storage.fault = lambda operation, path: Fail(errno.EIO)
        jobs.run_all()
        ids.take(1)
        assert len(jobs) == 1

    def test_a_disk_that_refuses_gives_no_ids_beyond_the_block(self) -> None:
        storage = FaultyStorage(MemoryStorage())
        ids = source(storage)
        first = ids.take(BLOCK)
        storage.fault = lambda operation, path: Fail(errno.ENOSPC)
        with pytest.raises(OSError):
            ids.take(1)
        storage.fault = lambda operation, path: None
        assert ids.take(1) == first + BLOCK

    def test_a_late_background_writer_does_not_lower_the_limit(self) -> None:
        storage = MemoryStorage()
        jobs = JobQueue()
        ids = IdSource(storage, jobs, 0, WALL_NS)
        ids.take(BLOCK // 2 + 1)
        ids.take(5 * BLOCK)  # overtakes the job that waits
        high = reserved(storage)
        jobs.run_all()
        assert reserved(storage) == high
        end = ids.next
        assert source(storage).take(1) >= end

    def test_nothing_is_reserved_while_a_worker_writes(self) -> None:
        """Of two writers at once the slow one could put its lower limit over the higher one."""
        storage = MemoryStorage()
        jobs = JobQueue()
        ids = IdSource(storage, jobs, 0, WALL_NS)
        ids.take(BLOCK // 2 + 1)
        job = jobs.popleft()
        job.begin()
        left = BLOCK // 2 - 1
        with pytest.raises(BlockingIOError, match="next block of ids"):
            ids.take(left + 1)
        assert ids.take(left) == NOW + BLOCK // 2 + 1, "those that are reserved are given all the same"
        job.finish()
        assert ids.take(1) == NOW + BLOCK
        assert reserved(storage) == NOW + 2 * BLOCK


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["take", "take many", "take a block", "begin", "job", "kill", "power", "die", "fail"]
        ),
        max_size=25,
    ),
    st.integers(0, 2**32),
)
def test_no_id_repeats_over_any_life(events: list[str], seed: int) -> None:
    """Renewals race with reservations in place, and the daemon dies at any point between."""
    rng = random.Random(seed)
    inner, jobs, begun = MemoryStorage(), JobQueue(), JobQueue()
    storage = FaultyStorage(inner)
    ids = IdSource(storage, jobs, 0, WALL_NS)
    used_up_to = 0
    sizes = {"take": 1, "take many": BLOCK // 3, "take a block": BLOCK + 5}
    for event in events:
        storage.fault = lambda operation, path: None
        if event == "die":
            storage.fault = CrashAt(0, Die(after=rng.random() < 0.5), among=["replace"])
            event = rng.choice(["take", "take many", "take a block", "job"])
        elif event == "fail":
            storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "replace" else None
            event = "take many"
        try:
            if event in sizes:
                first = ids.take(sizes[event])
                assert first >= used_up_to
                used_up_to = first + sizes[event]
            elif event == "begin" and jobs:
                begun.append(jobs.popleft())
                begun[-1].begin()
            elif event == "job" and begun:
                begun.popleft().finish()
            elif event == "job" and jobs:
                jobs.popleft().run()
        except OSError:
            pass
        except Crash:
            event = "kill"
        if event in ("kill", "power"):
            inner = inner.kill() if event == "kill" else inner.crash(rng)
            storage, jobs, begun = FaultyStorage(inner), JobQueue(), JobQueue()
            ids = IdSource(storage, jobs, 0, WALL_NS + rng.randrange(-(10**15), 10**15))


def test_the_file_is_the_one_in_the_documentation() -> None:
    storage = MemoryStorage()
    source(storage)
    digits = b"%d" % (NOW + BLOCK)
    assert content(storage, ids_module._PATH) == b"nsqd ids 2 %08x %b\n" % (crc32c(digits), digits)
