"""GET for the HTTP APIs of nsqd and nsqlookupd.

A `Fetcher.fetch` can stand in for the one of `nsqkit.discovery`. Any status but 200 is an `HttpFailed`; with one
exception, the daemons' own: a 403 over http whose body is `{"https_port": N}` is asked again over https there.
Answers are bounded in bytes and in time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import attrs
import httpx

from nsqkit.discovery import ACCEPT, MAX_ANSWER
from nsqkit.fetch import IDENTITY, https_hint, read_answer
from nsqtools.http_client import HttpFailed, bounded, make_client

__all__ = ["Fetcher", "open_fetcher"]

_SHOWN: Final = 200  # bytes of an answer in an error


@attrs.define(eq=False)
class Fetcher:
    """Asks over kept-alive connections; any number of tasks may."""

    client: httpx.AsyncClient
    timeout_s: float
    """For a whole answer."""

    async def fetch(self, url: str, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
        """Status (always 200) and body. Raises `HttpFailed`."""
        with bounded(url, min(timeout_s, self.timeout_s)):
            status, body = await self._get(url, headers)
            if https := https_hint(url, status, body):
                status, body = await self._get(https, headers)
        if status != 200:
            raise HttpFailed(f"got response {_status_text(status)} {_quoted(body)}")
        return status, body

    async def object(self, url: str) -> dict[str, Any]:
        """The JSON object at a URL. Raises `HttpFailed`."""
        _, body = await self.fetch(url, {"Accept": ACCEPT}, self.timeout_s)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HttpFailed(f"{url}: not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise HttpFailed(f"{url}: the answer is no JSON object")
        return answer

    async def _get(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        return await read_answer(self.client.stream("GET", url, headers={**headers, **IDENTITY}), MAX_ANSWER)


@contextlib.asynccontextmanager
async def open_fetcher(connect_timeout_s: float, timeout_s: float) -> AsyncIterator[Fetcher]:
    """A fetcher with these limits for connecting and for a whole answer."""
    async with make_client(connect_timeout_s, timeout_s) as client:
        yield Fetcher(client, timeout_s)


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _quoted(body: bytes) -> str:
    return json.dumps(body[:_SHOWN].decode("utf-8", "replace"))
