"""Topics whose files cannot be read, or have disappeared: they are refused and named, the others go on."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable

import pytest

from nsqd.broker import Broker, NotFound, Refused
from nsqd.log.store import Store
from nsqd.testing.faulty_storage import Fail, Fault, FaultyStorage
from tests.nsqd.broker.harness import Harness

GONE = "OK - topic t is refused: No such file or directory"


def two_topics() -> Harness:
    """`t`, whose files are about to disappear, and `other`."""
    harness = Harness()
    for topic in ("t", "other"):
        harness.create(topic=topic)
        harness.publish(b"before", topic=topic)
    return harness


def remove(harness: Harness) -> None:
    harness.memory.remove_folder("topic-t")


def move(harness: Harness) -> None:
    harness.memory.rename_folder("topic-t", "elsewhere")


either_way = pytest.mark.parametrize("disappear", [remove, move])


class TestAtTheStart:
    def start(self, harness: Harness, number: int) -> Broker:
        """A daemon that gets this error when it opens a segment of `t`."""
        storage = FaultyStorage(harness.memory.kill(), lambda operation, path: fault(operation, path))

        def fault(operation: str, path: str) -> Fault | None:
            return Fail(number) if operation == "open" and path.startswith("topic-t/") else None

        store = Store(storage, harness.store_options, harness.wall_ns)
        return Broker(store, harness.options, harness.now, harness.wall_ns)

    @pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ELOOP])
    def test_a_topic_that_cannot_be_read_is_refused_and_named(self, number: int) -> None:
        """I15: nothing is published beside what is there."""
        broker = self.start(two_topics(), number)
        assert list(broker.topics) == ["other"]
        assert broker.health.startswith("OK - topic t is refused: ")
        assert any("topic-t: cannot be read" in note for note in broker.store.notes)
        for use in (broker.topic_to_publish, broker.topic):
            with pytest.raises(Refused, match=os.strerror(number).replace("(", "")[:12]):
                use("t")
        with pytest.raises(NotFound):
            broker.existing("t")

    def test_its_files_stay_as_they_are(self) -> None:
        """The next start, which can read them, finds everything."""
        harness = two_topics()
        broker = self.start(harness, errno.EIO)
        broker.topic_to_publish("other")
        broker.close()
        assert isinstance(broker.store.storage, FaultyStorage)
        harness.memory = broker.store.storage.inner  # type: ignore[assignment]
        harness.kill()
        assert harness.channel().depth == 1
        assert harness.broker.health == "OK"

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.ENOSPC])
    def test_an_error_of_the_process_or_the_disk_is_no_topic_s(self, number: int) -> None:
        with pytest.raises(OSError) as caught:
            self.start(two_topics(), number)
        assert caught.value.errno == number

    def test_a_folder_with_other_files_is_named(self) -> None:
        harness = two_topics()
        remove(harness)
        harness.memory.make_folder("topic-t")
        harness.memory.create("topic-t/notes.txt")
        harness.kill()
        assert harness.broker.health == "OK - topic t is refused: its files are not those of a topic"
        with pytest.raises(Refused, match="its files are not those of a topic"):
            harness.broker.topic("t")

    def test_a_folder_that_cannot_be_removed_is_named(self) -> None:
        """A start that was cut short has left it empty, it seems, but something is in it that is no file."""
        harness = two_topics()
        remove(harness)
        harness.memory.make_folder("topic-t")
        storage = FaultyStorage(harness.memory.kill())
        storage.fault = lambda operation, _: Fail(errno.EISDIR) if operation == "remove_folder" else None
        store = Store(storage, harness.store_options, harness.wall_ns)
        broker = Broker(store, harness.options, harness.now, harness.wall_ns)
        assert list(broker.topics) == ["other"]
        assert broker.health == "OK - topic t is refused: Is a directory"


class TestWhileItRuns:
    def test_a_name_that_is_taken_is_not_the_disk_s_trouble(self) -> None:
        harness = Harness()
        harness.memory.make_folder("topic-t")
        with pytest.raises(Refused, match="File exists"):
            harness.topic("t")
        assert harness.broker.health == "OK"

    def test_a_missing_segment_is_noticed_by_the_append_that_opens_it(self) -> None:
        """Before a sync finds out; and forgotten when it is back."""
        harness = two_topics()
        harness.advance(3)
        log = harness.broker.retentions["t"].log
        log.writers.close(log.segments[-1])
        move(harness)
        assert not harness.publish(b"refused").acknowledged
        assert harness.broker.health == GONE
        harness.memory.rename_folder("elsewhere", "topic-t")
        harness.advance(1)
        assert harness.broker.health == "OK"

    @either_way
    def test_missing_files_cost_their_topic(self, disappear: Callable[[Harness], None]) -> None:
        """I15: from the next sync on, nothing is acknowledged that would be lost."""
        harness = two_topics()
        disappear(harness)
        harness.publish(b"not known yet")
        harness.advance(3)  # syncs
        assert harness.broker.health == GONE
        receipt = harness.publish(b"refused")
        assert receipt.error == "No such file or directory"
        assert harness.publish(b"taken", topic="other").acknowledged
        assert harness.broker.health == GONE, "the other topic's success says nothing about this one"
        assert harness.broker.fatal is None

    @either_way
    def test_what_memory_has_is_still_delivered(self, disappear: Callable[[Harness], None]) -> None:
        harness = two_topics()
        disappear(harness)
        harness.advance(3)
        assert harness.drain(harness.subscribe(rdy=5)) == [b"before"]

    def test_files_that_come_back_are_used_again(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        harness = two_topics()
        move(harness)
        harness.publish(b"written where they are now")
        harness.advance(3)
        assert not harness.publish(b"refused").acknowledged
        harness.memory.rename_folder("elsewhere", "topic-t")
        harness.advance(1)
        assert harness.broker.health == "OK"
        assert harness.publish(b"taken").acknowledged
        lines = [record.getMessage() for record in caplog.records if "its files" in record.getMessage()]
        assert lines == [
            "TOPIC(t): its files cannot be used - No such file or directory; publishes are refused",
            "TOPIC(t): its files can be used again",
        ]
        harness.kill()
        bodies = harness.drain(harness.subscribe(rdy=5))
        assert bodies == [b"before", b"written where they are now", b"taken"]

    def test_other_files_in_their_place_are_not_appended_to(self) -> None:
        harness = two_topics()
        move(harness)
        harness.publish(b"x")
        harness.advance(3)
        harness.memory.make_folder("topic-t")
        for name in harness.memory.files("elsewhere"):
            harness.memory.create(f"topic-t/{name}").append([b"a copy that is shorter"])
        harness.advance(1)
        assert not harness.publish(b"refused").acknowledged

    @either_way
    def test_the_topic_can_be_deleted_and_made_again(self, disappear: Callable[[Harness], None]) -> None:
        harness = two_topics()
        disappear(harness)
        harness.advance(3)
        harness.broker.delete_topic("t")
        harness.round()
        assert harness.broker.health == "OK"
        harness.create()
        assert harness.publish(b"new").acknowledged

    @either_way
    def test_the_stop_is_orderly(self, disappear: Callable[[Harness], None]) -> None:
        harness = two_topics()
        consumer = harness.subscribe(rdy=5)
        disappear(harness)
        harness.publish(b"x")
        harness.advance(3)
        harness.finish(consumer)
        harness.restart()
        assert harness.broker.store.clean
        assert list(harness.broker.topics) == ["other"]

    @either_way
    def test_a_sync_of_the_folder_s_names_is_no_failed_sync(
        self, disappear: Callable[[Harness], None]
    ) -> None:
        """A topic whose first sync finds no folder: nothing was reported lost."""
        harness = Harness(sync_on_commit=True)
        harness.run_jobs = False
        harness.create()
        receipt = harness.publish(b"x")
        disappear(harness)
        harness.run_jobs = True
        harness.broker.want_sync()
        harness.round()
        assert receipt.done
        assert harness.broker.fatal is None
        assert harness.broker.health == GONE

    def test_several_are_counted(self) -> None:
        harness = two_topics()
        for folder in ("topic-t", "topic-other"):
            harness.memory.remove_folder(folder)
        for topic in ("t", "other"):
            harness.publish(b"x", topic=topic)
        harness.advance(3)
        assert harness.broker.health == f"{GONE} (and 1 more)"

    def test_a_segment_that_retention_removes_meanwhile_is_not_missing(self) -> None:
        harness = two_topics()
        log = harness.broker.retentions["t"].log
        harness.run_jobs = False
        harness.publish(b"x")
        first = log.segments[0]
        log.roll()
        harness.broker.want_sync()
        job = harness.broker.store.jobs.popleft()
        job.begin()
        harness.memory.remove(first.path)
        result = job.work()
        log.drop([first])
        job.done(result)
        assert harness.broker.health == "OK"
