"""FastAPI with NSQ: a producer for the requests, and a consumer in the background.

    uvicorn fastapi_app:app          # NSQD=host:port, by default 127.0.0.1:4150

Producer and consumer live as long as the application. When it ends, the consumer finishes what it has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from pydantic import BaseModel

from nsqkit.client import Consumer, Json, Message, Producer


class Order(BaseModel):
    id: int


async def bill(message: Message) -> None:
    order = Order.model_validate(message.value)  # raises for other values: the message has failed
    app.state.billed.append(order.id)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    nsqd = [os.environ.get("NSQD", "127.0.0.1:4150")]
    app.state.billed = []
    consumer = Consumer(
        "orders", "billing", nsqd_tcp_addresses=nsqd, handler=bill, codec=Json(), max_in_flight=10
    )
    async with Producer(nsqd_tcp_addresses=nsqd, codec=Json()) as producer, asyncio.TaskGroup() as group:
        app.state.producer = producer
        group.create_task(consumer.run(stop_on_signals=False))  # the signals are the web server's
        yield
        consumer.stop()


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=202)
async def order(order: Order, request: Request) -> dict[str, str]:
    await request.app.state.producer.publish_value("orders", order.model_dump())
    return {"status": "accepted"}


@app.get("/billed")
async def billed(request: Request) -> list[int]:
    return request.app.state.billed
