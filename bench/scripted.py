"""A toy for tests of the load generator's protocols: links that read what the test gives them."""

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
    """Mixed into a link: reads what the test gives it, keeps what is sent."""

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
    """Let the handler read until nothing is left."""
    while link.incoming:
        handler.readable()


def cut(data: bytes, size: int) -> list[bytes]:
    """Pieces of that size."""
    return [data[at : at + size] for at in range(0, len(data), size)]
