"""Test double for the load generator's protocols: links that read scripted data."""

from __future__ import annotations

from bench.beanstalk import BeanstalkLink
from bench.http1 import HttpLink
from bench.link import Handler
from bench.nats import NatsLink
from bench.nsq import NsqLink
from bench.redis import RedisLink

__all__ = [
    "Script", "ScriptedBeanstalk", "ScriptedHttp", "ScriptedNats", "ScriptedNsq", "ScriptedRedis", "cut", "read_all",
]  # fmt: skip


class Script:
    """A mixin for links: reads scripted data, records sent data."""

    inbox = "inbox"

    def __init__(self) -> None:
        self.rest = b""
        self.sent = b""
        self.incoming: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent += data

    def receive(self) -> bytes:
        return self.incoming.pop(0)


class ScriptedNsq(Script, NsqLink):
    pass


class ScriptedHttp(Script, HttpLink):
    pass


class ScriptedBeanstalk(Script, BeanstalkLink):
    pass


class ScriptedRedis(Script, RedisLink):
    pass


class ScriptedNats(Script, NatsLink):
    pass


def read_all(handler: Handler, link: Script) -> None:
    """Call the handler until all scripted data is read."""
    while link.incoming:
        handler.readable()


def cut(data: bytes, size: int) -> list[bytes]:
    """Split data into pieces of this size."""
    return [data[at : at + size] for at in range(0, len(data), size)]
