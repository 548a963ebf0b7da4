"""Which messages of a topic are older than so much, without a look at each of them.

Messages are in the order in which they were published, so there is a boundary: all below it are older. It only rises.
It is looked for from the front, in strides, as the publish times need not rise: messages that are published again (dead
letters, what a follower had) keep the times that they had. What is younger than such a message and before it is found
by the first step that meets it.

Of a message in memory the publish time is known. For those on disk a job looks at a few of them: see
`nsqd.log.look.Look.first_younger`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from nsqd.broker.context import BrokerContext
from nsqd.broker.log_view import LogView
from nsqd.broker.oldest import published_ns
from nsqd.log.jobs import Job

__all__ = ["Ages", "LogAges", "MemoryAges"]

STRIDE: Final = 256  # messages in memory, of which one is looked at
MAX_SAMPLES: Final = 4096


class Ages(Protocol):
    """The ages of the messages of one topic.

    `found`: called, within a round, when a boundary that had to be looked for is known.
    """

    found: Callable[[], None]

    def boundary(self, max_age_ns: int, needed_from: int) -> int:
        """A seq: all messages below it that somebody needs were published so long ago. To be asked once a second.

        Nobody needs a message below `needed_from`.
        """

    def needed_again(self) -> None:
        """Messages are needed that nobody has needed until now, of any age."""


@attrs.define
class _Boundary:
    """All below `seq` are too old. Before `due_ns`, in wall time, no more of them are."""

    seq: int = 0
    due_ns: int = 0
    is_reading: bool = False


class LogAges:
    """Of a topic on disk."""

    def __init__(self, view: LogView) -> None:
        self.found: Callable[[], None] = lambda: None
        self._view = view
        self._boundaries: dict[int, _Boundary] = {}  # by age

    def boundary(self, max_age_ns: int, needed_from: int) -> int:
        known = self._boundaries.setdefault(max_age_ns, _Boundary())
        view = self._view
        if known.seq < needed_from:
            known.seq, known.due_ns = needed_from, 0
        if known.is_reading or view.context.wall_ns < known.due_ns:
            return known.seq
        if known.seq < view.window.base:
            self._read(known, max_age_ns)
        elif known.seq < view.log.end:
            self._walk(known, max_age_ns)
        return known.seq

    def needed_again(self) -> None:
        self._boundaries.clear()

    def _walk(self, known: _Boundary, max_age_ns: int) -> None:
        """In memory."""
        cutoff_ns, get = self._view.context.wall_ns - max_age_ns, self._view.window.get
        seq, end = known.seq, self._view.log.end
        while seq + STRIDE < end and (frame := get(seq + STRIDE)) and published_ns(frame) <= cutoff_ns:
            seq += STRIDE
        while seq < end and (frame := get(seq)):
            if (published := published_ns(frame)) > cutoff_ns:
                known.due_ns = published + max_age_ns
                break
            seq += 1
        known.seq = seq

    def _read(self, known: _Boundary, max_age_ns: int) -> None:
        """On disk, in a job."""
        view = self._view
        look, start, stop = view.log.look(), known.seq, view.window.base
        cutoff_ns = view.context.wall_ns - max_age_ns
        known.is_reading = True

        def done(result: tuple[int, int | None]) -> None:
            known.is_reading = False
            seq, published = result
            if seq >= known.seq:  # else nobody needs these any more
                known.seq = seq
                known.due_ns = 0 if published is None else published + max_age_ns
            if not view.log.deleted:
                self.found()

        def failed(error: OSError) -> None:
            known.is_reading = False
            # A segment that was removed meanwhile has nothing that anybody needs.
            if not view.log.deleted and not isinstance(error, FileNotFoundError):
                view.context.report_read_error(view.topic_name, error)

        view.context.store.jobs.append(
            Job("read", lambda: look.first_younger(start, stop, cutoff_ns), done, failed)
        )


class MemoryAges:
    """Of an ephemeral topic: whenever it is asked, it notes how many messages there are. `end()`: the next seq."""

    def __init__(self, context: BrokerContext, end: Callable[[], int]) -> None:
        self.found: Callable[[], None] = lambda: None
        self._context = context
        self._end = end
        self._ends: list[int] = []
        self._times_ns: list[int] = []

    def boundary(self, max_age_ns: int, needed_from: int) -> int:
        self._note(self._end())
        at = bisect_right(self._times_ns, self._context.wall_ns - max_age_ns)
        return self._ends[at - 1] if at else 0

    def needed_again(self) -> None:
        """Nothing to do: what nobody needs is not in memory."""

    def _note(self, end: int) -> None:
        """All messages below `end` were published before now."""
        if self._ends and self._ends[-1] == end:
            return
        if len(self._ends) == MAX_SAMPLES:  # those of a day are half a minute apart
            del self._ends[::2], self._times_ns[::2]
        self._ends.append(end)
        self._times_ns.append(max(self._context.wall_ns, self._times_ns[-1] if self._times_ns else 0))
