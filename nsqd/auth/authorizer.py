"""Asking the auth servers: one after the other from a random one on, until one has given a usable answer.

A server that is slow, down, or gives an answer that cannot be used authorizes nobody. The bounds: one request as long
as the options for HTTP requests say, a whole query `MAX_SECONDS`, an answer of `nsqkit.http_client.MAX_BODY` bytes,
and `ASKING` queries at a time; the wait for a turn counts as part of the query.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final, Protocol
from urllib.parse import quote_plus

import attrs
import trio

from nsqd.auth.state import AuthFailed, AuthState, parse_answer
from nsqkit.http_client import Answer, HttpClient, HttpFailed, InvalidUrl
from nsqkit.logging import get_logger
from nsqkit.service.http import json_body

__all__ = ["AuthRequest", "Authorizer"]

log = get_logger("nsqd")

ASKING: Final = 64
MAX_SECONDS: Final = 30.0


@attrs.frozen(kw_only=True)
class AuthRequest:
    """Who asks for what it may do."""

    secret: str | bytes = attrs.field(repr=False)
    remote_ip: str
    """Without a port; empty for a unix socket."""
    tls: bool = False
    common_name: str = ""
    """That of the client's certificate."""


class AuthOptions(Protocol):
    """The options that matter here; they may change while the daemon runs."""

    auth_http_addresses: list[str]
    auth_http_request_method: str


class Authorizer:
    """Asks; one for the daemon."""

    def __init__(self, options: AuthOptions, client: HttpClient) -> None:
        self._options = options
        self._client = client
        self._turns = trio.CapacityLimiter(ASKING)

    @property
    def enabled(self) -> bool:
        """Whether there is anybody to ask, so that clients must AUTH."""
        return bool(self._options.auth_http_addresses)

    async def query(self, request: AuthRequest) -> AuthState:
        """What the client may do. `AuthFailed` when no server says so in time; the servers' reasons are in the log."""
        addresses = list(self._options.auth_http_addresses)
        with trio.move_on_after(MAX_SECONDS):
            async with self._turns:
                for address in _from_a_random_one(addresses):
                    try:
                        return await self._ask(address, request)
                    except InvalidUrl:
                        log.error(
                            "AUTH: %s - this address and this request make no valid URL", _shown(address)
                        )
                    except (HttpFailed, AuthFailed) as error:
                        log.error("AUTH: %s - %s", _shown(address), error)
        raise AuthFailed("no auth server has given a usable answer")

    async def _ask(self, address: str, request: AuthRequest) -> AuthState:
        url = address if "://" in address else f"http://{address}/auth"
        answer = await self._send(url, request)
        if answer.status != 200:
            raise AuthFailed(f"status {answer.status}")
        return parse_answer(answer.body, trio.current_time())

    async def _send(self, url: str, request: AuthRequest) -> Answer:
        if self._options.auth_http_request_method == "post":
            headers = {"Content-Type": "application/json"}
            return await self._client.ask(url, method="POST", headers=headers, content=_json(request))
        return await self._client.ask(f"{url}?{_query(request)}")


def _from_a_random_one(addresses: Sequence[str]) -> Iterator[str]:
    start = random.randrange(len(addresses)) if addresses else 0
    yield from addresses[start:]
    yield from addresses[:start]


def _fields(request: AuthRequest) -> list[tuple[str, str | bytes]]:
    """In the order of the wire."""
    return [
        ("common_name", request.common_name),
        ("remote_ip", request.remote_ip),
        ("secret", request.secret),
        ("tls", "true" if request.tls else "false"),
    ]


def _query(request: AuthRequest) -> str:
    return "&".join([f"{name}={quote_plus(value)}" for name, value in _fields(request)])


def _json(request: AuthRequest) -> bytes:
    return json_body(
        {
            name: [value.decode("utf-8", "replace") if isinstance(value, bytes) else value]
            for name, value in _fields(request)
        }
    ).body


def _shown(address: str) -> str:
    """An address for the log: without a user's name and password, and without a query."""
    before, scheme, rest = address.rpartition("://")
    return f"{before}{scheme}{rest.rpartition('@')[2].split('?')[0]}"
