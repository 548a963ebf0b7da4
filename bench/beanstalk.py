"""The parts of the beanstalkd protocol that the load generator uses: put, and reserve with delete, pipelined."""

from __future__ import annotations

import re

import attrs

from bench.link import Link, LoadError

__all__ = ["BeanstalkLink", "Worker", "put_command"]

TIME_TO_RUN_SECONDS = 60


def put_command(body: bytes) -> bytes:
    return b"put 0 0 %d %d\r\n%s\r\n" % (TIME_TO_RUN_SECONDS, len(body), body)


class BeanstalkLink(Link):
    """Counts the responses to put: every line must be INSERTED."""

    def count_replies(self, data: bytes) -> int:
        data = self.rest + data
        end = data.rfind(b"\n") + 1
        count = data.count(b"\r\n", 0, end)
        if data.count(b"INSERTED ", 0, end) != count:
            raise LoadError(f"the server answered {data[:100]!r}")
        self.rest = data[end:]
        return count


@attrs.define
class Worker:
    """Reserves `budget` jobs, up to `depth` at a time, and deletes each as soon as it arrives.

    The delete of a job and the reserve of the next leave in one write, as NSQ's FIN makes room for the next
    message.
    """

    link: BeanstalkLink
    body: bytes
    budget: int
    depth: int = 1
    deleted: int = 0
    _replies: re.Pattern[bytes] = attrs.field(init=False)
    _job: re.Pattern[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        size, body = len(self.body), re.escape(self.body)
        self._replies = re.compile(rb"(?:DELETED\r\n|RESERVED \d+ %d\r\n%s\r\n)*" % (size, body))
        self._job = re.compile(rb"RESERVED (\d+) %d\r\n" % size)

    def start(self) -> None:
        self.link.send(self._reserves(self.depth))

    def readable(self) -> None:
        data = self.link.rest + self.link.receive()
        replies = self._replies.match(data)
        end = replies.end() if replies else 0
        rest = data[end:]
        if not (b"RESERVED ".startswith(rest[:9]) or b"DELETED\r\n".startswith(rest[:9])):
            raise LoadError(f"the server answered {rest[:100]!r}")
        self.link.rest = rest
        self.deleted += data.count(b"DELETED\r\n", 0, end)
        jobs = self._job.findall(data, 0, end)
        if jobs:
            deletes = b"delete " + b"\r\ndelete ".join(jobs) + b"\r\n"
            self.link.send(deletes + self._reserves(len(jobs)))

    def _reserves(self, count: int) -> bytes:
        count = min(count, self.budget)
        self.budget -= count
        return b"reserve\r\n" * count
