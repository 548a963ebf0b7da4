"""Handlers as in FastStream, with its types and dependencies, on NSQ.

    python faststream_handlers.py          # NSQD=host:port, by default 127.0.0.1:4150

FastStream has no broker for NSQ, and its application needs one. Its handlers need neither: a consumer calls them with
the decoded body. Ctrl-C ends the program in order.
"""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

from faststream import Depends, apply_types
from pydantic import BaseModel

from nsqkit.client import Consumer, Json, Message

billed: list[str] = []


class Order(BaseModel):
    id: int


def currency() -> str:
    return os.environ.get("CURRENCY", "EUR")


@apply_types
async def bill(order: Order, currency: Annotated[str, Depends(currency)]) -> None:
    billed.append(f"{order.id} {currency}")


async def handle(message: Message) -> None:
    await bill(message.value)  # raises for other values: the message has failed


async def main() -> None:
    nsqd = [os.environ.get("NSQD", "127.0.0.1:4150")]
    await Consumer(
        "orders", "billing", nsqd_tcp_addresses=nsqd, handler=handle, codec=Json(), max_in_flight=10
    ).run()


if __name__ == "__main__":
    asyncio.run(main())
