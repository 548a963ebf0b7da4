"""The examples in docs/examples, run as their users run them, against a broker in this process."""

# ruff: noqa: ASYNC110 - an example offers nothing to wait for
from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nsqkit.client import Json, Producer
from tests.timing import patience

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, nsq_broker: str) -> Iterator[Callable[[str], Any]]:
    """Imports one, with the broker as its nsqd."""
    monkeypatch.setenv("NSQD", nsq_broker)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(patience(10)):
        while not condition():
            await asyncio.sleep(0.01)


def test_fastapi(example: Callable[[str], Any]) -> None:
    """What is posted is consumed by the application itself; invalid orders do not stop the others."""
    app = example("fastapi_app").app

    async def main() -> None:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                await app.state.producer.publish_value("orders", {"id": "none"})
                for number in (7, 8):
                    assert (await client.post("/orders", json={"id": number})).status_code == 202
                await until(lambda: len(app.state.billed) == 2)
                assert sorted((await client.get("/billed")).json()) == [7, 8]

    asyncio.run(main())


def test_faststream(example: Callable[[str], Any], nsq_broker: str) -> None:
    """Types and dependencies are FastStream's."""
    module = example("faststream_handlers")

    async def main() -> None:
        running = asyncio.create_task(module.main())
        async with Producer(nsqd_tcp_addresses=[nsq_broker], codec=Json()) as producer:
            await producer.publish_value("orders", {"id": "7"})
            await until(lambda: module.billed == ["7 EUR"])
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
