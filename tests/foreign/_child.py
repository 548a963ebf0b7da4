"""The part of a puppet that all libraries in Python share: addresses and orders in, reports out, what to do
with a message.

A library's script makes a `Library`, and `main` leads it. See `puppet` for the arguments, orders and reports.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import attrs

__all__ = [
    "Addresses",
    "Library",
    "Policy",
    "answer_message",
    "main",
    "report",
    "report_message",
    "touch_for",
]

TOUCH_EVERY_S = 0.5
LOOKUPD = "--lookupd="
LAYER = "--layer="
CA = "--ca="
SECRET = "--secret="


@attrs.frozen
class Addresses:
    """Where the library connects to, each `host:port`: nsqds, or registries that know them (for consuming only)."""

    nsqds: list[str]
    lookupds: list[str]
    layers: list[str]
    """Of `tls`, `snappy`, `deflate`: what a connection is to have."""
    ca: str
    """The file with the authority of the nsqds' certificates."""
    secret: str
    """For AUTH; empty: none."""

    @classmethod
    def parse(cls, words: Sequence[str]) -> Addresses:
        """Take them from the command line, without the program's name."""

        def all_of(prefix: str) -> list[str]:
            return [word.removeprefix(prefix) for word in words if word.startswith(prefix)]

        nsqds = [word for word in words if not word.startswith("--")]
        return cls(nsqds, all_of(LOOKUPD), all_of(LAYER), "".join(all_of(CA)), "".join(all_of(SECRET)))


@attrs.define
class Policy:
    """What to do with each message that comes."""

    requeue_every: int = 0
    touch_every: int = 0
    hold_after: int = 0
    touch_for_s: float = 0.0
    seen: int = 0
    holding: bool = False

    def decide(self, attempts: int) -> str:
        """Give `finish`, `touch`, `requeue` or `hold` for the next message."""
        self.seen += 1
        if self.hold_after and self.seen == self.hold_after + 1:
            self.holding = True
            report("holding")
        if self.holding:
            return "hold"
        if self.requeue_every and attempts == 1 and self.seen % self.requeue_every == 0:
            return "requeue"
        if self.touch_every and self.seen % self.touch_every == 0:
            return "touch"
        return "finish"

    def resume(self) -> None:
        """Answer again what comes."""
        self.holding, self.hold_after = False, 0
        report("resumed")


class Library(Protocol):
    """What a library's script does."""

    async def publish(self, how: str, topic: str, bodies: list[bytes], delay_ms: int) -> None:
        """Publish these and wait for all answers. Raises whatever the library raises."""

    async def consume(self, topic: str, channel: str, in_flight: int, policy: Policy) -> None:
        """Subscribe, return, and answer what comes as the policy says."""


def report(name: str, **fields: Any) -> None:
    """Write one report."""
    print(json.dumps({"report": name, **fields}), flush=True)


def report_message(message_id: bytes | str, attempts: int, body: bytes, action: str) -> None:
    """Write the report of one message."""
    name = message_id if isinstance(message_id, str) else message_id.decode()
    report("message", id=name, attempts=attempts, body=base64.b64encode(body).decode(), action=action)


async def answer_message(message: Any, action: str) -> None:
    """Do with a message what the policy has decided, in a library whose messages have `req`, `touch` and `fin`."""
    if action == "requeue":
        await message.req(0)
    elif action != "hold":
        if action == "touch":
            await message.touch()
        await message.fin()


async def touch_for(
    seconds: float, touch: Callable[[], Awaitable[None] | None], finish: Callable[[], Awaitable[None] | None]
) -> None:
    """Touch a message again and again for so long, then finish it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await asyncio.sleep(TOUCH_EVERY_S)
        await _done(touch())
    await _done(finish())


async def _done(step: Awaitable[None] | None) -> None:
    if step is not None:
        await step


async def main(library: Library) -> None:
    """Do what is ordered until told to quit, or until there are no more orders."""
    policy = Policy()
    orders = await _open_orders()
    report("ready")
    while line := await orders.readline():
        order = json.loads(line)
        match order.pop("order"):
            case "publish":
                await _publish(library, order)
            case "consume":
                policy.requeue_every = order.get("requeue_every", 0)
                policy.touch_every = order.get("touch_every", 0)
                policy.hold_after = order.get("hold_after", 0)
                await library.consume(order["topic"], order["channel"], order["in_flight"], policy)
                report("subscribed")
            case "touch_for":
                policy.touch_for_s = order["seconds"]
                await library.consume(order["topic"], order["channel"], 1, policy)
            case "resume":
                policy.resume()
            case "sync":
                report("synced")
            case "quit":
                return


async def _open_orders() -> asyncio.StreamReader:
    orders = asyncio.StreamReader(limit=64 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    return orders


async def _publish(library: Library, order: dict[str, Any]) -> None:
    bodies = [base64.b64decode(body) for body in order["bodies"]]
    try:
        await library.publish(order["how"], order["topic"], bodies, order["delay_ms"])
    except Exception as error:  # whatever a library may raise: the test is told
        report("publish_failed", error=f"{type(error).__name__}: {error}")
    else:
        report("published", count=len(bodies))
