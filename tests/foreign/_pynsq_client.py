"""The puppet of pynsq, the reference library in Python: Reader and Writer on tornado."""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

import attrs
import nsq  # type: ignore[import-untyped]

from tests.foreign._child import Addresses, Policy, main, report_message, touch_for


@attrs.define
class Pynsq:
    """One Writer and one Reader, each made when it is needed first."""

    addresses: Addresses
    _writer: Any = None
    _reader: Any = None
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set)

    async def publish(self, how: str, topic: str, bodies: list[bytes], delay_ms: int) -> None:
        """Send all at once; pynsq calls back with each answer."""
        if self._writer is None:
            self._writer = nsq.Writer(self.addresses.nsqds, **self._features())
            await _until_connected(self._writer, len(self.addresses.nsqds))
        if how == "multi":
            await self._answer(self._writer.mpub, topic, bodies)
        elif how == "deferred":
            await asyncio.gather(*(self._answer(self._writer.dpub, topic, delay_ms, body) for body in bodies))
        else:
            await asyncio.gather(*(self._answer(self._writer.pub, topic, body) for body in bodies))

    async def consume(self, topic: str, channel: str, in_flight: int, policy: Policy) -> None:
        """Start the Reader."""
        self._reader = nsq.Reader(
            topic,
            channel,
            message_handler=lambda message: self._handle(message, policy),
            nsqd_tcp_addresses=self.addresses.nsqds,
            lookupd_http_addresses=self.addresses.lookupds,
            lookupd_poll_interval=1,
            max_in_flight=in_flight,
            **self._features(),
        )
        await _until_connected(self._reader, len(self.addresses.nsqds))

    def _features(self) -> dict[str, Any]:
        features: dict[str, Any] = {}
        if "tls" in self.addresses.layers:
            tls = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": self.addresses.ca}
            features |= {"tls_v1": True, "tls_options": tls}
        for compression in {"snappy", "deflate"} & set(self.addresses.layers):
            features[compression] = True
        if self.addresses.secret:
            features["auth_secret"] = self.addresses.secret
        return features

    async def _answer(self, publish: Any, *args: Any) -> None:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        publish(*args, callback=lambda _, data: future.set_result(data))
        answer = await future
        if answer != b"OK":
            raise RuntimeError(repr(answer))

    def _handle(self, message: Any, policy: Policy) -> bool | None:
        if policy.touch_for_s:
            message.enable_async()
            task = asyncio.get_running_loop().create_task(_touch_for(message, policy.touch_for_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return None
        action = policy.decide(message.attempts)
        report_message(message.id, message.attempts, message.body, action)
        if action == "hold":
            message.enable_async()
            return None
        if action == "requeue":
            message.requeue(backoff=False, delay=0)
            return None
        if action == "touch":
            message.touch()
        return True


async def _touch_for(message: Any, seconds: float) -> None:
    await touch_for(seconds, message.touch, message.finish)
    report_message(message.id, message.attempts, message.body, "touch")


async def _until_connected(client: Any, count: int) -> None:
    async with asyncio.timeout(5):
        while len(client.conns) < count:  # noqa: ASYNC110 - pynsq offers nothing to wait for
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(Pynsq(Addresses.parse(sys.argv[1:]))))
