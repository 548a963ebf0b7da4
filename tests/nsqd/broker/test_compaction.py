"""I16: a topic's log has at most twice the bytes of the messages that somebody needs, and two segments."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nsqd.broker import compaction
from nsqd.log.state import Change, Code
from nsqd.log.store import StoreOptions
from nsqd.log.topic_log import TopicLog
from nsqd.rules import Retain
from tests.nsqd.broker.harness import SECOND_NS, Consumer, Harness, deferred_of, messages_there

SEGMENT = 4096
LONG = 3000.0  # seconds
RECORD = 300  # bytes: a segment may be longer by one record


def small_segments(**options: object) -> Harness:
    return Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=SEGMENT), **options)


def work_off(harness: Harness) -> None:
    """Let time pass until maintenance has nothing more to do."""
    for _ in range(60):
        harness.advance(1.0)
        while harness.broker.has_snapshots:
            harness.broker.step_snapshots()
            harness.round()
        if not harness.broker.context.to_maintain:
            return
    raise AssertionError("maintenance never ends")


def on_disk(harness: Harness, topic: str = "t") -> int:
    """Bytes of the log."""
    folder = harness.memory._folder(f"topic-{topic}")
    return sum(
        len(content.data)  # type: ignore[union-attr, misc]
        for name, content in folder.names.items()
        if name.endswith(".log")
    )


def needed(harness: Harness, topic: str = "t") -> int:
    """Bytes of the messages that somebody needs, read one by one."""
    found = harness.topic(topic)
    log = harness.broker.retentions[topic].log
    size = 0
    for start, end in found.needed(0, log.end):
        for seq in range(start, end):
            result = log.plan(seq, 1).run()
            assert result is not None
            assert result.runs[0].first == seq, f"message {seq} is needed and cannot be read"
            size += len(result.runs[0].frames[0])
    return size


def assert_bounded(harness: Harness) -> None:
    __tracebackhide__ = True
    work_off(harness)
    disk, wanted = on_disk(harness), needed(harness)
    assert disk <= 2 * wanted + 2 * SEGMENT + RECORD + retained(harness)


def retained(harness: Harness) -> int:
    """Bytes that a rule allows besides: of the segments whose last message is young, but not more than a size."""
    retain = harness.topic().settings.retain
    if retain is None:
        return 0
    log = harness.broker.retentions["t"].log
    since = 0 if retain.age is None else harness.wall_ns - retain.age
    young = [at for at in log.segments if (log.look().newest(at) or 0) >= since]
    size = sum(segment.file.size for segment in young)
    return size if retain.size is None else min(size, retain.size)


def flow(harness: Harness, consumer: Consumer, count: int, size: int = 150) -> None:
    """Publish messages that are finished at once."""
    for at in range(count):
        harness.publish(b"%d " % at + b"x" * size)
        harness.drain(consumer)


PIECES = {"SMALL": 1000, "PIECE": 500, "SPAN": 7}
"""As if segments were large: each is measured and moved in pieces."""


@pytest.fixture(params=[False, True], ids=["together", "in pieces"])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PIECES.items() if request.param else ():
        monkeypatch.setattr(compaction, name, value)


@pytest.mark.usefixtures("_pieces")
class TestWhatIsOld:
    def test_deferred_for_long(self) -> None:
        harness = small_segments()
        consumer = harness.subscribe(rdy=10)
        harness.defer(b"old", LONG)
        flow(harness, consumer, 300)
        assert_bounded(harness)
        harness.kill()
        work_off(harness)
        consumer = harness.subscribe(rdy=10)
        assert consumer.bodies() == []
        harness.advance(LONG)
        assert consumer.bodies() == [b"old"]
        assert harness.channel().counts.damaged == 0

    def test_requeued_with_a_long_delay(self) -> None:
        """I5, I6: attempts and due time stay."""
        harness = small_segments()
        consumer = harness.subscribe(rdy=10)
        harness.publish(b"old")
        harness.requeue(consumer, consumer.new()[0].id, LONG)
        due = deferred_of(harness.channel())
        flow(harness, consumer, 300)
        assert_bounded(harness)
        assert deferred_of(harness.channel()) == due
        harness.kill()
        consumer = harness.subscribe(rdy=10)
        harness.advance(LONG)
        (message,) = consumer.new()
        assert (message.body, message.attempts) == (b"old", 2)

    def test_the_record_of_due_times_says_when_they_were_computed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """I6: else a clock that is behind at the next start could delay the message by more than its delay."""
        harness = small_segments()
        consumer = harness.subscribe(rdy=10)
        harness.publish(b"old")
        harness.requeue(consumer, consumer.new()[0].id, LONG)
        written: list[tuple[int, list[Change]]] = []
        append_moved = TopicLog.append_moved

        def noted(
            log: TopicLog,
            messages: Sequence[tuple[int, bytes]],
            changes: Sequence[Change],
            origins: Mapping[int, bytes],
        ) -> None:
            written.append((harness.wall_ns, list(changes)))
            append_moved(log, messages, changes, origins)

        monkeypatch.setattr(TopicLog, "append_moved", noted)
        flow(harness, consumer, 300)
        assert_bounded(harness)
        assert written
        for wall_ns, (when, parked) in written:
            assert tuple(when) == (Code.MARK, 0, wall_ns)
            assert parked[0] is Code.PARKED

    def test_in_flight_for_hours(self) -> None:
        harness = small_segments()
        slow = harness.subscribe(rdy=1, timeout=LONG)
        harness.publish(b"old")
        (message,) = slow.new()
        flow(harness, harness.subscribe(rdy=10), 300)
        assert_bounded(harness)
        assert harness.finish(slow, message.id) == []
        work_off(harness)
        assert harness.channel().depth == 0

    def test_a_slow_channel_beside_fast_ones(self) -> None:
        harness = small_segments()
        harness.create("slow")
        fast = [harness.subscribe(name, rdy=10) for name in ("a", "b")]
        for at in range(200):
            harness.publish(b"%d" % at + b"x" * 100)
            for consumer in fast:
                harness.drain(consumer)
        assert_bounded(harness)
        assert len(harness.drain(harness.subscribe("slow", rdy=10))) == 200
        assert_bounded(harness)

    def test_one_message_in_each_of_many_segments(self) -> None:
        harness = small_segments()
        consumer = harness.subscribe(rdy=10)
        for at in range(100):
            harness.defer(b"old %d" % at, LONG + at)
            flow(harness, consumer, 25)
            if at % 10 == 0:
                work_off(harness)
        assert_bounded(harness)
        assert len(harness.broker.retentions["t"].log.segments) <= 5
        harness.restart()
        assert_bounded(harness)
        consumer = harness.subscribe(rdy=200)
        harness.advance(LONG + 200)
        assert consumer.bodies() == [b"old %d" % at for at in range(100)]

    def test_sizes_that_differ(self) -> None:
        """Many small messages are needed, and few large ones are not: the count alone says too little."""
        harness = small_segments()
        consumer = harness.subscribe(rdy=200, timeout=LONG)
        for _ in range(60):
            harness.publish(b"large" * 300, *[b"%d" % at for at in range(5)])
        for message in consumer.new():
            if len(message.body) > 10:
                harness.finish(consumer, message.id)
        while messages := consumer.new():
            for message in messages:
                if len(message.body) > 10:
                    harness.finish(consumer, message.id)
        assert_bounded(harness)
        assert harness.channel().in_flight_count == 200


def test_what_no_channel_was_given_is_kept() -> None:
    harness = small_segments()
    bodies = [b"%d" % at + b"x" * 200 for at in range(100)]
    for body in bodies:
        harness.publish(body)
    work_off(harness)
    assert harness.drain(harness.subscribe(rdy=10)) == bodies


def test_a_moved_message_is_delivered_once() -> None:
    """I3: neither a move nor a kill after it delivers anything again."""
    harness = small_segments()
    consumer = harness.subscribe(rdy=10)
    harness.defer(b"old", 20.0)
    flow(harness, consumer, 300)
    work_off(harness)
    assert harness.broker.retentions["t"].log.moved
    harness.advance(20.0)
    assert harness.drain(consumer) == [b"old"]
    assert_bounded(harness)
    harness.kill()
    assert harness.drain(harness.subscribe(rdy=10)) == []
    work_off(harness)
    assert not harness.broker.retentions["t"].log.moved


def test_a_full_disk_during_a_move() -> None:
    harness = small_segments()
    consumer = harness.subscribe(rdy=10)
    harness.defer(b"old", LONG)
    flow(harness, consumer, 300)
    harness.fail("append", errno.ENOSPC)
    harness.advance(1.0)
    harness.advance(1.0)
    harness.heal()
    assert_bounded(harness)
    harness.advance(LONG)
    assert harness.drain(consumer) == [b"old"]


@pytest.mark.parametrize("together", [True, False])
def test_segments_that_are_removed_while_they_wait_to_be_read(
    together: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A channel is emptied before a move was read: there is nothing to move any more, and nothing to report."""
    if not together:
        monkeypatch.setattr(compaction, "SMALL", 5000)
    harness = small_segments()
    harness.create()
    for at in range(60):
        harness.defer(b"old %d" % at + b"x" * 300, LONG)
    retention = harness.broker.retentions["t"]
    chosen = retention.log.segments[:3]
    harness.run_jobs = False
    retention._compaction.begin(chosen)
    (read,) = harness.jobs
    harness.broker.store.jobs.clear()
    harness.run_jobs = True
    harness.broker.existing("t").empty_channel("c")
    for _ in range(10):
        harness.advance(1.0)
        while harness.broker.has_snapshots:
            harness.broker.step_snapshots()
            harness.round()
    assert not set(chosen) & set(retention.log.segments)
    assert retention._compaction.is_busy
    harness.broker.store.jobs.append(read)
    assert_bounded(harness)
    assert not retention._compaction.is_busy
    assert not caplog.messages


@pytest.mark.parametrize("channel_deleted", [True, False])
def test_a_channel_that_is_emptied_or_deleted_frees_moved_messages(channel_deleted: bool) -> None:
    harness = small_segments()
    harness.create("other")
    consumer = harness.subscribe(rdy=10)
    for at in range(20):
        harness.defer(b"old %d" % at, LONG)
        flow(harness, consumer, 10)
    harness.broker.existing("t").delete_channel("other")
    work_off(harness)
    moved = harness.broker.retentions["t"].log.moved
    assert moved
    if channel_deleted:
        harness.broker.existing("t").delete_channel("c")
    else:
        harness.broker.existing("t").empty_channel("c")
    harness.publish(b"one more")
    work_off(harness)
    work_off(harness)
    assert not moved


class LogSpaceMachine(RuleBasedStateMachine):
    """Two channels; `open`: the bodies that each of them has not finished."""

    @initialize(mem_queue_size=st.sampled_from([0, 20]), pieces=st.booleans())
    def start(self, mem_queue_size: int, pieces: bool) -> None:
        self.patch = pytest.MonkeyPatch()
        for name, value in PIECES.items() if pieces else ():
            self.patch.setattr(compaction, name, value)
        self.harness = small_segments(mem_queue_size=mem_queue_size)
        self.bodies = iter(range(10**9))
        self.open: dict[str, set[bytes]] = {"a": set(), "b": set()}
        for name in self.open:
            self.harness.create(name)

    def body(self, size: int) -> bytes:
        body = b"%d " % next(self.bodies) + b"x" * size
        for bodies in self.open.values():
            bodies.add(body)
        return body

    @rule(count=st.integers(1, 30), size=st.integers(0, 200))
    def publish(self, count: int, size: int) -> None:
        for _ in range(count):
            self.harness.publish(self.body(size))

    @rule(size=st.integers(0, 200))
    def defer(self, size: int) -> None:
        self.harness.defer(self.body(size), LONG)

    @rule(name=st.sampled_from("ab"), rdy=st.integers(1, 40), luck=st.randoms(use_true_random=False))
    def consume(self, name: str, rdy: int, luck: object) -> None:
        """Finish most of what comes; requeue some for long, and let the rest go back."""
        consumer = self.harness.subscribe(name, rdy=rdy)
        for _ in range(3):
            for message in consumer.new():
                assert message.body in self.open[name], "a finished message comes again"
                chance = luck.random()  # type: ignore[attr-defined]
                if chance < 0.9:
                    self.open[name].discard(message.body)
                    assert self.harness.finish(consumer, message.id) == []
                elif chance < 0.95:
                    self.harness.requeue(consumer, message.id, LONG)
        self.harness.disconnect(consumer)

    @rule(name=st.sampled_from("ab"))
    def empty(self, name: str) -> None:
        self.harness.broker.existing("t").empty_channel(name)
        self.open[name].clear()

    @rule(name=st.sampled_from("ab"), part=st.floats(0, 1))
    def seek(self, name: str, part: float) -> None:
        topic = self.harness.topic()
        there = messages_there(topic, start := int(part * topic.store.end))
        topic.seek_channel(name, start)
        self.open[name] = {message.body for message in there.values()}

    @rule(
        age=st.none() | st.sampled_from([2, 20]).map(lambda seconds: seconds * SECOND_NS),
        size=st.none() | st.sampled_from([SEGMENT, 4 * SEGMENT]),
    )
    def retain(self, age: int | None, size: int | None) -> None:
        self.harness.topic().set_limits({} if age is size is None else {"retain": Retain(age, size)})

    @rule()
    def quiet(self) -> None:
        assert_bounded(self.harness)

    @rule()
    def a_second(self) -> None:
        self.harness.advance(1.0)
        self.harness.broker.step_snapshots()

    @rule()
    def kill(self) -> None:
        self.harness.kill()

    @rule()
    def stop(self) -> None:
        self.harness.restart()

    @invariant()
    def nothing_is_damaged(self) -> None:
        for name in self.open:
            channel = self.harness.channel(name)
            channel.invariant()
            assert channel.counts.damaged == 0
            assert channel.depth + channel.in_flight_count + len(channel.deferred) == len(self.open[name])

    def teardown(self) -> None:
        if not hasattr(self, "harness"):
            return
        try:
            self.all_is_delivered()
        finally:
            self.patch.undo()

    def all_is_delivered(self) -> None:
        self.harness.advance(2 * LONG)
        for name, bodies in self.open.items():
            consumer = self.harness.subscribe(name, rdy=10)
            assert sorted(self.harness.drain(consumer)) == sorted(bodies)
        assert_bounded(self.harness)


LogSpaceMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLogSpaceMachine = LogSpaceMachine.TestCase
