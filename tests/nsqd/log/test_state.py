"""What a log says: each change by itself, and that all of them are safe to replay.

`History` is the broker's side in miniature: it writes a log as a topic does, and keeps the state that the topic has in
memory (`truth`). What recovery makes of the log must be the same.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nsqd.log.ranges import RangeSet
from nsqd.log.records import FormatError
from nsqd.log.snapshots import SnapshotWriter
from nsqd.log.state import DELAYED_LIMIT, Change, Code, TopicState, flat_runs, unflatten_runs
from nsqd.log.topic_log import Batch
from nsqd.testing.faulty_storage import Fail, Fault, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.log.samples import FOLDER, frame, new_log, recovered

Entry = Callable[[TopicState], None]


def summary(state: TopicState) -> dict[str, Any]:
    """All that a restart must bring back. A mark passes what is unavailable by itself."""
    high_watermark = state.unavailable.end_of(state.high_watermark)
    return {
        "end": state.end,
        "high_watermark": high_watermark,
        "paused": state.paused,
        "settings": dict(state.settings),
        "deferred": dict(state.deferred),
        "unavailable": list(state.unavailable),
        "delayed": dict(state.delayed),
        "letters": list(state.letters),
        "directed": {generation: list(ranges) for generation, ranges in state.directed.items() if ranges},
        "channels": {
            generation: (
                channel.name,
                channel.paused,
                dict(channel.settings),
                list(channel.settled),
                dict(channel.awaiting_redelivery),
                {n: count for n, count in channel.not_counted.items() if n in channel.awaiting_redelivery},
                channel.redrive,
            )
            for generation, channel in state.channels.items()
        },
    }


def slices(state: TopicState) -> Iterator[list[Change]]:
    """The state as changes, in the order that a topic writes them, each slice made when it is asked for."""
    yield [
        (Code.TOPIC_PAUSED, state.paused),
        (Code.TOPIC_SETTINGS, state.settings),
        (Code.MARK, state.high_watermark, 0),
        *((Code.LOST, start, end, False) for start, end in state.unavailable),
    ]
    for seq in list(state.deferred):
        yield [(Code.DEFERRED, seq, state.deferred[seq])] if seq in state.deferred else []
    for channel in list(state.channels.values()):
        generation = channel.generation
        yield [
            (Code.CHANNEL_CREATED, generation, channel.name, 0),
            (Code.CHANNEL_PAUSED, generation, channel.paused),
            (Code.CHANNEL_SETTINGS, generation, channel.settings),
            (Code.REDRIVE, generation, *(attrs.astuple(channel.redrive) if channel.redrive else ())),
        ]
        for seq in list(channel.awaiting_redelivery):
            awaiting_redelivery = channel.awaiting_redelivery.get(seq)
            if awaiting_redelivery:
                changes: list[Change] = [(Code.PARKED, generation, seq, *awaiting_redelivery)]
                if count := channel.not_counted.get(seq):
                    changes.append((Code.NOT_COUNTED, generation, seq, count))
                yield changes
        for start, end in list(channel.settled):
            yield [(Code.FINISHED, generation, *flat_runs([(start, end)]))]
    for seq, (due, delay) in list(state.delayed.items()):
        yield [(Code.MARK, 0, due - delay), (Code.DELAYED, seq, due)]
    for start, end in list(state.letters):
        yield [(Code.LETTERS, *flat_runs([(start, end)]))]
    for generation, ranges in list(state.directed.items()):
        yield [(Code.DIRECTED, generation, *flat_runs(ranges))]


class History:
    """A topic that lives through random operations. `entries`: what each record does to a state."""

    def __init__(self) -> None:
        self.fail = False
        self.storage = MemoryStorage()
        self.log = new_log(FaultyStorage(self.storage, self._fault), max_segment_bytes=600)
        self.truth = TopicState()
        self.entries: list[Entry] = []
        self.now = 1000
        self.generation = 0

    def _fault(self, operation: str, path: str) -> Fault | None:
        return Fail(errno.ENOSPC) if self.fail and operation == "append" else None

    @property
    def flowing(self) -> bool:
        return bool(self.truth.channels) and not self.truth.paused

    def do(self, operation: str, a: int, b: int) -> None:
        self.now += 10
        getattr(self, operation)(a, b)

    def publish(self, a: int, b: int) -> None:
        first, count, flowing = self.log.end, a % 4 + 1, self.flowing
        batch = Batch.of([frame(seq) for seq in range(first, first + count)])
        self.log.append([batch], flowing=flowing)
        self._enter(lambda state: state.messages(first, count, flowing))

    def defer(self, a: int, b: int) -> None:
        first, count, flowing, delay = self.log.end, a % 3 + 1, self.flowing, b + 1
        sent = [frame(seq, timestamp_ns=self.now) for seq in range(first, first + count)]
        due = [(self.now, delay)] * count
        self.log.append([Batch.of(sent, [delay] * count)], flowing=flowing)
        self._enter(lambda state: state.deferred_messages(first, due, flowing))

    def letters(self, a: int, b: int) -> None:
        first, count, flowing = self.log.end, a % 4 + 1, self.flowing
        batch = Batch.of([frame(seq) for seq in range(first, first + count)])
        batch.origins = [b"origin"] * count
        self.log.append([batch], flowing=flowing)
        self._enter(lambda state: state.letters_written(first, count, flowing))

    def direct(self, a: int, b: int) -> None:
        if not self.flowing:
            return
        first, count, generation = self.log.end, a % 4 + 1, self._channel(b)
        batch = Batch.of([frame(seq) for seq in range(first, first + count)])
        batch.directed = generation
        self.log.append([batch], flowing=True)
        self._enter(lambda state: state.directed_messages(first, count, generation, True))

    def abort(self, a: int, b: int) -> None:
        """An append fails: its sequence numbers are not used again."""
        first, flowing = self.log.end, self.flowing
        self.fail = True
        with pytest.raises(OSError):
            self.log.append([Batch.of([frame(0)] * (a % 3 + 1))], flowing=flowing)
        self.fail = False
        end = self.log.end
        self._enter(lambda state: state.lost(first, end, False))
        if flowing:
            self.truth.high_watermark = end

    def create(self, a: int, b: int) -> None:
        if len(self.truth.channels) == 3:
            return
        self.generation += 1
        changes: list[Change] = [
            (Code.CHANNEL_CREATED, self.generation, f"ch{self.generation}", self.truth.high_watermark)
        ]
        if not self.truth.paused:
            changes.append((Code.MARK, self.log.end, self.now))
        self.change(*changes)

    def create_from(self, a: int, b: int) -> None:
        """A channel that begins before the high watermark."""
        if self.truth.channels and len(self.truth.channels) < 3:
            self.generation += 1
            start = a % (self.truth.high_watermark + 1)
            self.change((Code.CHANNEL_CREATED, self.generation, f"ch{self.generation}", start))

    def seek(self, a: int, b: int) -> None:
        """A channel's generation ends, and another one of its name begins elsewhere, without some numbers."""
        if not self.truth.channels:
            return
        old = self.truth.channels[self._channel(a)]
        self.generation += 1
        new, start = self.generation, b % (self.truth.high_watermark + 1)
        self.change(
            (Code.CHANNEL_DELETED, old.generation),
            (Code.DIRECTED, new, *flat_runs(self.truth.directed.get(old.generation, ()))),
            (Code.CHANNEL_CREATED, new, old.name, start),
            (Code.CHANNEL_PAUSED, new, old.paused),
            *((Code.PARKED, new, seq, 0, due) for seq, (_, due) in list(old.awaiting_redelivery.items())),
            (Code.FINISHED, new, *flat_runs([(start, min(start + a % 3, self.truth.high_watermark))])),
        )

    def delete(self, a: int, b: int) -> None:
        if self.truth.channels:
            self.change((Code.CHANNEL_DELETED, self._channel(a)))

    def pause_channel(self, a: int, b: int) -> None:
        if self.truth.channels:
            self.change((Code.CHANNEL_PAUSED, self._channel(a), bool(b % 2)))

    def set_channel(self, a: int, b: int) -> None:
        if self.truth.channels:
            self.change((Code.CHANNEL_SETTINGS, self._channel(a), {"max_depth": b} if b % 3 else {}))

    def set_topic(self, a: int, b: int) -> None:
        self.change((Code.TOPIC_SETTINGS, {"max_depth": a, "retain": [None, b]} if b % 3 else {}))

    def pause(self, a: int, b: int) -> None:
        changes: list[Change] = [(Code.TOPIC_PAUSED, bool(a % 2))]
        if not a % 2 and self.truth.channels:
            changes.append((Code.MARK, self.log.end, self.now))
        self.change(*changes)

    def empty(self, a: int, b: int) -> None:
        if self.truth.high_watermark < self.log.end:
            self.change((Code.TOPIC_EMPTIED, self.truth.high_watermark, self.log.end))

    def empty_channel(self, a: int, b: int) -> None:
        if self.truth.channels:
            self.change((Code.CHANNEL_EMPTIED, self._channel(a), self.truth.high_watermark))

    def finish(self, a: int, b: int) -> None:
        if seqs := self._open_numbers(a):
            chosen = RangeSet((n, n + 1) for n in seqs[b % len(seqs) :][: a % 4 + 1])
            self.change((Code.FINISHED, self._channel(a), *flat_runs(chosen)))

    def park(self, a: int, b: int) -> None:
        if seqs := self._open_numbers(a):
            seq = seqs[b % len(seqs)]
            self.change((Code.PARKED, self._channel(a), seq, a % 5, self.now + b))

    def park_after_a_lost_connection(self, a: int, b: int) -> None:
        if seqs := self._open_numbers(a):
            seq, generation = seqs[b % len(seqs)], self._channel(a)
            self.change((Code.PARKED, generation, seq, a % 5, 0), (Code.NOT_COUNTED, generation, seq, b + 1))

    def redrive(self, a: int, b: int) -> None:
        if self.truth.channels:
            self.change((Code.REDRIVE, self._channel(a), *((b, a, 5) if b % 3 else ())))

    def lose(self, a: int, b: int) -> None:
        if self.log.end:
            start = a % self.log.end
            self.change((Code.LOST, start, min(start + b % 3 + 1, self.log.end), True))

    def change(self, *changes: Change) -> None:
        self.log.append((), changes)
        for change in changes:
            self._enter(lambda state, change=change: state.apply(change))  # type: ignore[misc]

    def _enter(self, entry: Entry) -> None:
        entry(self.truth)
        self.entries.append(entry)

    def _channel(self, a: int) -> int:
        return sorted(self.truth.channels)[a % len(self.truth.channels)]

    def _open_numbers(self, a: int) -> list[int]:
        """What the channel may have in flight."""
        if not self.truth.channels:
            return []
        settled = self.truth.channels[self._channel(a)].settled
        return [n for start, end in settled.gaps(0, self.truth.high_watermark) for n in range(start, end)]

    def snapshot(self, moments: Sequence[int], operations: Sequence[tuple[str, int, int]]) -> None:
        """Take one while the operations go on: `moments` says how many of them come before each slice."""
        writer = SnapshotWriter.begin(self.log, slices(self.truth))
        left = list(operations)
        for moment in [*moments, *([0] * 1000)]:
            for operation in left[:moment]:
                self.do(*operation)
            left = left[moment:]
            if writer.step():
                break
        writer.finish(list(self.log.unsynced))
        for operation in left:
            self.do(*operation)


OPERATIONS = [
    "publish",
    "publish",
    "defer",
    "abort",
    "create",
    "create",
    "create_from",
    "seek",
    "seek",
    "delete",
    "pause_channel",
    "set_channel",
    "set_topic",
    "pause",
    "empty",
    "empty_channel",
    "finish",
    "finish",
    "park",
    "lose",
    "letters",
    "direct",
    "park_after_a_lost_connection",
    "redrive",
]
operations = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 30), st.integers(0, 30)), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(operations)
@example([("abort", 1, 0), ("create", 0, 0)])  # the numbers are passed by a mark, not by a message
def test_recovery_comes_to_the_state_that_the_topic_had(before: list[tuple[str, int, int]]) -> None:
    history = History()
    for operation in before:
        history.do(*operation)
    history.publish(0, 0)  # what an append aborted at the very end, no record tells of
    assert summary(recovered(history.storage).state) == summary(history.truth)


@settings(max_examples=150, deadline=None)
@given(operations, st.lists(st.integers(0, 2), max_size=20), operations)
@example(
    [("publish", 0, 0), ("create", 0, 0)],
    [0, 0, 0, 3],
    [("publish", 0, 0), ("abort", 0, 0), ("publish", 0, 0)],
)
def test_a_fuzzy_snapshot_and_a_replay_make_the_same_state(
    before: list[tuple[str, int, int]], moments: list[int], during: list[tuple[str, int, int]]
) -> None:
    """I3, I9: whenever its slices are taken, nothing finished comes back and nothing is missing."""
    history = History()
    for operation in before:
        history.do(*operation)
    history.snapshot(moments, during)
    history.publish(0, 0)
    with_snapshot = recovered(history.storage)
    assert with_snapshot.log.snapshots
    assert summary(with_snapshot.state) == summary(history.truth)
    for name in history.storage.files(FOLDER):
        if name.endswith(".snap"):
            history.storage.remove(f"{FOLDER}/{name}")
    assert summary(recovered(history.storage).state) == summary(history.truth)


@settings(max_examples=150, deadline=None)
@given(operations, st.integers(0, 100))
def test_any_end_of_the_changes_may_be_applied_twice(
    operations: list[tuple[str, int, int]], start: int
) -> None:
    history = History()
    for operation in operations:
        history.do(*operation)
    state = TopicState()
    for entry in history.entries:
        entry(state)
    once = summary(state)
    for entry in history.entries[start % (len(history.entries) + 1) :]:
        entry(state)
    assert summary(state) == once


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=10))
def test_flat_runs(parts: list[tuple[int, int]]) -> None:
    ranges, end = [], 0
    for gap, length in parts:
        ranges.append((end + gap, end + gap + length))
        end += gap + length
    assert list(unflatten_runs(flat_runs(ranges))) == ranges


def with_channel(*changes: Change) -> TopicState:
    state = TopicState()
    for change in ((Code.CHANNEL_CREATED, 1, "ch", 0), *changes):
        state.apply(change)
    return state


class TestChannels:
    def test_finished_is_final(self) -> None:
        """I3: what waits elsewhere is forgotten with it, and an older change does not bring it back."""
        state = with_channel((Code.PARKED, 1, 4, 2, 99), (Code.FINISHED, 1, 4, 1), (Code.PARKED, 1, 4, 3, 0))
        assert state.channels[1].awaiting_redelivery == {}
        assert list(state.channels[1].settled) == [(4, 5)]

    @pytest.mark.parametrize("end", [3, 1000])
    def test_settling_takes_what_is_parked(self, end: int) -> None:
        state = with_channel((Code.PARKED, 1, 1, 1, 0, 5, 1, 0, 2000, 1, 0), (Code.CHANNEL_EMPTIED, 1, end))
        assert sorted(state.channels[1].awaiting_redelivery) == [n for n in (1, 5, 2000) if n >= end]

    def test_a_channel_begins_at_its_start(self) -> None:
        state = TopicState()
        state.messages(0, 10, False)
        state.apply((Code.CHANNEL_CREATED, 1, "ch", 6))
        assert list(state.channels[1].settled) == [(0, 6)]

    def test_a_channel_may_begin_before_the_mark(self) -> None:
        """Without what no channel can get, and what is delayed has to wait."""
        state = with_channel()
        state.messages(0, 3, True)
        state.deferred_messages(5, [(100, 50)], True)  # 3 and 4 were aborted
        state.messages(6, 4, True)
        state.apply((Code.LOST, 7, 8, True))
        state.apply((Code.CHANNEL_CREATED, 2, "side", 1))
        assert list(state.channels[2].settled) == [(0, 1), (3, 5), (7, 8)]
        assert state.channels[2].awaiting_redelivery == {5: (0, 150)}
        assert (state.channels[2].longest, state.high_watermark) == ({5: 50}, 10)

    def test_what_was_emptied_before_a_channel_had_it_is_in_no_channel(self) -> None:
        state = TopicState()
        state.messages(0, 5, False)
        state.apply((Code.TOPIC_EMPTIED, 0, 3))
        state.apply((Code.CHANNEL_CREATED, 1, "ch", 1))
        assert list(state.channels[1].settled) == [(0, 3)]

    def test_a_channel_ends_an_earlier_one_of_its_name(self) -> None:
        """Also if the record of that was damaged, and the creation is known from the manifest only."""
        state = with_channel((Code.FINISHED, 1, 0, 5), (Code.CHANNEL_CREATED, 2, "ch", 0))
        assert state.channels.keys() == {2}
        assert not state.channels[2].settled
        state.apply((Code.CHANNEL_DELETED, 1))
        assert state.channels.keys() == {2}

    def test_delayed_messages_that_were_due_are_forgotten(self) -> None:
        """I12"""
        state = with_channel()
        for seq in range(DELAYED_LIMIT + 1):
            state.deferred_messages(seq, [(seq, 10)], True)
        assert min(state.delayed) == DELAYED_LIMIT - 9

    def test_numbers_that_never_were_are_settled_for_a_channel_made_later(self) -> None:
        state = TopicState()
        state.messages(0, 2, False)
        state.messages(5, 1, False)  # 2 to 4 were aborted
        state.apply((Code.CHANNEL_CREATED, 1, "ch", 0))
        assert list(state.channels[1].settled) == [(2, 5)]

    def test_a_channel_that_is_gone_stays_gone(self) -> None:
        late = [
            (Code.FINISHED, 1, 0, 1),
            (Code.PARKED, 1, 3, 1, 0),
            (Code.CHANNEL_PAUSED, 1, True),
            (Code.CHANNEL_SETTINGS, 1, {"max_depth": 1}),
            (Code.CHANNEL_EMPTIED, 1, 9),
            (Code.CHANNEL_DELETED, 1),
        ]
        assert with_channel((Code.CHANNEL_DELETED, 1), *late).channels == {}

    def test_damaged_numbers_are_counted_once(self) -> None:
        """I9: what was finished before is not damaged."""
        state = with_channel((Code.FINISHED, 1, 0, 2), *[(Code.LOST, 1, 5, True)] * 2)
        assert state.channels[1].damaged == 3

    def test_aborted_sequence_numbers_are_no_damage(self) -> None:
        assert with_channel((Code.LOST, 0, 5, False)).channels[1].damaged == 0


class TestDeferred:
    def test_delays_in_a_flowing_topic_begin_with_the_publish(self) -> None:
        """I6"""
        state = with_channel()
        state.deferred_messages(0, [(100, 5), (200, 6)], True)
        assert state.channels[1].awaiting_redelivery == {0: (0, 105), 1: (0, 206)}
        assert not state.deferred

    def test_delays_beyond_the_mark_begin_when_the_mark_passes(self) -> None:
        """I6"""
        state = with_channel()
        state.deferred_messages(0, [(100, 5), (200, 6)], False)
        assert state.deferred == {0: 5, 1: 6}
        state.apply((Code.MARK, 1, 1000))
        assert state.channels[1].awaiting_redelivery == {0: (0, 1005)}
        assert state.deferred == {1: 6}

    def test_a_message_that_was_requeued_since_keeps_its_attempts(self) -> None:
        """I5"""
        state = with_channel((Code.PARKED, 1, 0, 3, 50))
        state.deferred_messages(0, [(100, 5)], True)
        assert state.channels[1].awaiting_redelivery == {0: (3, 50)}

    def test_a_published_delay_is_known(self) -> None:
        state = with_channel()
        state.deferred_messages(0, [(100, 5)], True)
        state.deferred_messages(1, [(200, 6)], False)
        state.apply((Code.MARK, 2, 1000))
        assert state.channels[1].longest == {0: 5, 1: 6}

    def test_a_requeued_delay_is_known_by_the_time_in_its_record(self) -> None:
        state = with_channel()
        state.apply_record([(Code.MARK, 0, 900), (Code.PARKED, 1, 0, 1, 1000, 1, 1, 800)])
        state.apply_record([(Code.PARKED, 1, 2, 1, 2000)])  # as version 1.4.0 wrote it
        assert state.channels[1].longest == {0: 100, 1: 0}
        assert state.high_watermark == 0
        state.apply_record([(Code.PARKED, 1, 0, 2, 3000)])
        assert state.channels[1].longest == {1: 0}

    @pytest.mark.parametrize("change", [(Code.TOPIC_EMPTIED, 0, 2), (Code.LOST, 0, 2, True)])
    def test_dropped_ones_wait_no_more(self, change: Change) -> None:
        state = with_channel()
        state.deferred_messages(0, [(100, 5), (200, 6)], False)
        state.apply(change)
        assert not state.deferred
        assert list(state.channels[1].settled) == [(0, 2)]


class TestMark:
    def test_the_mark_only_rises(self) -> None:
        state = with_channel((Code.MARK, 5, 0), (Code.MARK, 3, 0))
        assert (state.high_watermark, state.end) == (5, 5)

    def test_flowing_messages_move_the_mark(self) -> None:
        state = TopicState()
        state.messages(0, 3, True)
        state.messages(3, 4, False)
        assert (state.high_watermark, state.end) == (3, 7)

    def test_emptying_moves_the_mark_to_the_end(self) -> None:
        state = with_channel()
        state.messages(0, 4, False)
        state.apply((Code.TOPIC_EMPTIED, 0, 4))
        assert (state.high_watermark, list(state.channels[1].settled)) == (4, [(0, 4)])


@pytest.mark.parametrize(
    "change",
    [
        (),
        (99,),
        ([],),
        (None,),
        (Code.MARK,),
        (Code.MARK, 1, 2, 3),
        (Code.MARK, "x", 0),
        (Code.FINISHED, 1, 0),
        (Code.PARKED, 1, 0, 1),
        (Code.DEFERRED, 1),
        (Code.FINISHED, [], 0, 1),
        (Code.CHANNEL_CREATED, 2, "ch", None),
        (Code.TOPIC_SETTINGS, []),
        (Code.CHANNEL_SETTINGS, 1, {1: 2}),
    ],
    ids=repr,
)
def test_an_invalid_change_is_refused(change: Change) -> None:
    with pytest.raises(FormatError):
        with_channel().apply(change)
