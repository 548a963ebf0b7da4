"""The transfer of one topic from a consumer to its files.

One task receives messages from the consumer. Another passes all that have arrived to `TopicFiles` in a worker thread,
and finishes those that are on disk. Files are synced every `sync_interval`, when `max_in_flight` messages are
unfinished, when nsqd cannot send more because of them (the consumer is starved), at a SIGHUP, and after each write once
`stop` was called.

An `OSError` of the files becomes `Fatal`. Messages that are not synced by then are unfinished, and are delivered again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import attrs
import trio

from nsqkit.client import Consumer, Message
from nsqtools.common import Fatal
from nsqtools.nsq_to_file.files import Instant, TopicFiles

__all__ = ["Archive"]


@attrs.define(eq=False)
class Archive:
    """Writes all messages of the consumer to the files, until `stop` or cancellation."""

    consumer: Consumer
    files: TopicFiles
    sync_interval: float
    """Seconds."""
    _arrived: list[Message] = attrs.field(factory=list)
    _unsynced: deque[Message] = attrs.field(factory=deque)
    """Written, and not yet finished."""
    _finished_count: int = 0
    """Messages that were finished or requeued; never above `files.synced`."""
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _stopping: bool = False
    _hung_up: bool = False
    _drained: bool = False

    def stop(self) -> None:
        """Write the messages received so far, and end. Returns at once."""
        self._stopping = True
        self.consumer.stop()
        self._wake.set()

    def hang_up(self) -> None:
        """Sync and close the file; the next message opens one again. Returns at once."""
        self._hung_up = True
        self._wake.set()

    async def run(self) -> None:
        """Raises `Fatal` (within a group) if a file cannot be written."""
        async with self.consumer, trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            await self._write_all()

    async def _receive(self) -> None:
        async for message in self.consumer:
            self._arrived.append(message)
            self._wake.set()
        self._drained = True
        self._wake.set()

    async def _write_all(self) -> None:
        tick_at = trio.current_time() + self.sync_interval
        while not self._drained:
            with trio.move_on_at(tick_at):
                await self._wake.wait()
            self._wake = trio.Event()
            tick = trio.current_time() >= tick_at
            if tick:
                tick_at = trio.current_time() + self.sync_interval
            await self._write(tick=tick)
        await self._run_in_thread(self.files.close)
        self._finish()

    async def _write(self, *, tick: bool) -> None:
        """Write all messages that have arrived."""
        # Messages that have timed out in nsqd are delivered again; written now, they would be duplicates.
        messages = [message for message in self._arrived if not (message.timed_out or message.answered)]
        self._arrived.clear()
        self._unsynced.extend(messages)
        hang_up, self._hung_up = self._hung_up, False
        sync = tick or self._stopping or self._needs_sync()
        now = Instant(time.time(), time.monotonic())

        def work() -> None:
            if tick:
                self.files.tick(now)
            self.files.write((message.body for message in messages), now)
            if hang_up:
                self.files.close(hang_up=True)
            elif sync:
                self.files.sync()

        if messages or tick or hang_up or sync:
            await self._run_in_thread(work)
            self._finish()

    def _needs_sync(self) -> bool:
        return bool(self._unsynced) and (
            len(self._unsynced) >= self.consumer.options.max_in_flight or self.consumer.stats().is_starved
        )

    async def _run_in_thread(self, job: Callable[[], None]) -> None:
        try:
            await trio.to_thread.run_sync(job)
        except OSError as error:
            where = error.filename or self.files.path or self.consumer.topic
            raise Fatal(f"failed to write {where} - {error.strerror or error}") from error

    def _finish(self) -> None:
        for _ in range(self.files.synced - self._finished_count):
            message = self._unsynced.popleft()
            if not message.answered:
                message.finish()
        self._finished_count = self.files.synced
