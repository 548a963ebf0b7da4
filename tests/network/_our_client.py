"""The puppet of this project's own client library, on asyncio."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import attrs

from nsqkit.client import Consumer, Message, Producer
from tests.foreign._child import Addresses, Policy, main, report_message


@attrs.define
class Nsqkit:
    """One consumer; a producer for each order to publish. Quick to notice silence, so that tests are short."""

    addresses: Addresses
    _task: asyncio.Task[None] | None = None

    async def publish(self, how: str, topic: str, bodies: list[bytes], delay_ms: int) -> None:
        """All of them, one after the other."""
        async with Producer(
            nsqd_tcp_addresses=self.addresses.nsqds,
            lookupd_http_addresses=self.addresses.lookupds,
            **self._security(),
        ) as producer:
            for body in bodies:
                await producer.publish(topic, body)

    async def consume(self, topic: str, channel: str, in_flight: int, policy: Policy) -> None:
        """Start the consumer."""

        async def handle(message: Message) -> None:
            action = policy.decide(message.attempts)
            report_message(message.id, message.attempts, message.body, action)
            while action == "hold" and policy.holding:  # noqa: ASYNC110 - a policy offers nothing to wait for
                await asyncio.sleep(0.01)

        consumer = Consumer(
            topic,
            channel,
            nsqd_tcp_addresses=self.addresses.nsqds,
            lookupd_http_addresses=self.addresses.lookupds,
            handler=handle,
            max_in_flight=in_flight,
            concurrency=in_flight,
            lookupd_poll_interval=1,
            lookupd_poll_timeout=2,
            max_reconnect_delay=1,
            heartbeat_interval=1,
            read_timeout=3,
            **self._security(),
        )
        self._task = asyncio.get_running_loop().create_task(consumer.run())

    def _security(self) -> dict[str, Any]:
        return {
            "tls_v1": "tls" in self.addresses.layers,
            "tls_root_ca_file": self.addresses.ca,
            "auth_secret": self.addresses.secret,
        }


if __name__ == "__main__":
    asyncio.run(main(Nsqkit(Addresses.parse(sys.argv[1:]))))
