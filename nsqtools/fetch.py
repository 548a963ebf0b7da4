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
            https = _https_url(url, body) if status == 403 else None
            if https is not None:
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
        async with self.client.stream("GET", url, headers=dict(headers)) as response:
            body, length = bytearray(), 0
            async for piece in response.aiter_bytes():
                length += len(piece)
                if length <= MAX_ANSWER:  # else read on, within the time-out: the connection is used again
                    body += piece
            if length > MAX_ANSWER:
                raise HttpFailed(f"{url}: an answer of more than {MAX_ANSWER} bytes")
            return response.status_code, bytes(body)


@contextlib.asynccontextmanager
async def open_fetcher(connect_timeout_s: float, timeout_s: float) -> AsyncIterator[Fetcher]:
    """A fetcher with these limits for connecting and for a whole answer."""
    async with make_client(connect_timeout_s, timeout_s) as client:
        yield Fetcher(client, timeout_s)


def _https_url(url: str, body: bytes) -> str | None:
    """Where a daemon that wants https listens for it; None if it does not say."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    port = answer.get("https_port") if isinstance(answer, dict) else None
    if not url.startswith("http:") or type(port) is not int or not 0 < port < 65536:
        return None
    return str(httpx.URL(url).copy_with(scheme="https", port=port))


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _quoted(body: bytes) -> str:
    return json.dumps(body[:_SHOWN].decode("utf-8", "replace"))
