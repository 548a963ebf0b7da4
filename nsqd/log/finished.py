"""What was finished of a log's messages lately, as its records say.

The settled messages of a channel are more than that: those that were lost here are among them, and somebody who has a
copy of the log must not take them for finished.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from contextlib import closing

from nsqd.log.ranges import RangeSet
from nsqd.log.records import FILE_HEADER_SIZE, FormatError, Kind, decode_changes
from nsqd.log.scan import Damaged, scan
from nsqd.log.state import Code, unflatten_runs
from nsqd.log.topic_log import TopicLog

__all__ = ["read_finished"]


def read_finished(log: TopicLog) -> dict[int, RangeSet]:
    """By generation of the channel, since the older one of the last two snapshots, and not lost since. `OSError`."""
    finished: defaultdict[int, RangeSet] = defaultdict(RangeSet)
    lost = RangeSet()
    for segment in log.segments:
        if segment.end <= log.replayed_from:
            continue
        offset = max(FILE_HEADER_SIZE, log.replayed_from - segment.position)
        with closing(log.storage.open(segment.path, read_only=True)) as file:
            for item in scan(file.read, offset, segment.file.size, segment.salt, 0):
                if isinstance(item, Damaged) or item.head.kind is not Kind.CHANGES:
                    continue
                with contextlib.suppress(FormatError):
                    for change in decode_changes(item.payload, item.head.count):
                        match change:
                            case [Code.FINISHED, generation, *runs]:
                                for start, end in unflatten_runs(runs):
                                    finished[generation].add(start, end)
                            case [Code.LOST, start, end, _]:
                                lost.add(start, end)
    return {
        generation: RangeSet(gap for start, end in ranges for gap in lost.gaps(start, end))
        for generation, ranges in finished.items()
    }
