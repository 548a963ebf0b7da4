"""Asking the auth servers: one after the other from a random one on, until one has given a usable answer.

A server that is slow, down, or gives an answer that cannot be used authorizes nobody. The bounds: one request as long
as the options for HTTP requests say, a whole query `MAX_SECONDS`, an answer of `nsqkit.http_client.MAX_BODY` bytes,
and `ASKING` requests to one server at a time; the wait for a turn counts as part of the query.

Who keeps whom waiting:
- The turns are counted by server, so that one that hangs takes no turns of the others. Servers with a free turn are
  asked first, and those that have not answered lately last.
- Of a server's turns the clients of one address get `ASKING_FOR_ADDRESS` at most: a stranger whose secrets take the
  server long, or make it hang, cannot have them all.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final, Protocol, TypeVar
from urllib.parse import quote_plus

import attrs
import trio

from nsqd.auth.state import AuthFailed, AuthState, parse_answer, token_state
from nsqkit.access import Access, Refusal, Token
from nsqkit.http_client import Answer, HttpClient, HttpFailed, InvalidUrl
from nsqkit.logging import get_logger
from nsqkit.redact import shown_url
from nsqkit.service.http import json_body
from nsqkit.service.shares import address_group
from nsqkit.yielder import Yielder

__all__ = ["AuthRequest", "Authorizer"]

log = get_logger("nsqd")

_ItemT = TypeVar("_ItemT")

ASKING: Final = 64
ASKING_FOR_ADDRESS: Final = 48  # many honest clients may share an address, behind a NAT
MAX_SECONDS: Final = 30.0
FAILED_SECONDS: Final = 10.0  # in which a server that did not answer is asked after the others


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


class _Server:
    """The requests to one auth server."""

    def __init__(self) -> None:
        self.failed_until = -math.inf
        self._turns = trio.CapacityLimiter(ASKING)
        self._turns_of_address: dict[str, trio.CapacityLimiter] = {}

    def rank(self, address: str) -> tuple[bool, bool]:
        """For the order in which servers are asked: False before True."""
        mine = self._turns_of_address.get(address)
        waits = not self._turns.available_tokens or (mine is not None and not mine.available_tokens)
        return waits, trio.current_time() < self.failed_until

    @contextlib.asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait for a turn of a client with this address."""
        turns = self._turns_of_address.setdefault(address, trio.CapacityLimiter(ASKING_FOR_ADDRESS))
        try:
            async with turns, self._turns:
                yield
        finally:
            if not turns.borrowed_tokens and not turns.statistics().tasks_waiting:
                self._turns_of_address.pop(address, None)


class Authorizer:
    """Asks; one for the daemon. A secret that is one of the daemon's own tokens is for no auth server."""

    def __init__(self, options: AuthOptions, client: HttpClient, access: Access | None = None) -> None:
        self._options = options
        self._client = client
        self._access = access or Access()
        self._servers: dict[str, _Server] = {}

    @property
    def enabled(self) -> bool:
        """Whether there is anybody to ask, or a file of tokens, so that clients can AUTH."""
        return bool(self._options.auth_http_addresses) or self._access.file is not None

    async def query(self, request: AuthRequest) -> AuthState:
        """What the client may do. `AuthFailed` when no server says so in time; the servers' reasons are in the log."""
        if self._access.file is not None and (state := self._state_by_token(request.secret)) is not None:
            return state
        servers = [(address, self._server(address)) for address in self._options.auth_http_addresses]
        waiting = list(_from_a_random_one(servers))
        group = address_group(request.remote_ip)
        with trio.move_on_after(MAX_SECONDS):
            while waiting:
                # Of equals the first. Looked at again for each: turns may have become free, servers may have failed.
                address, server = min(waiting, key=lambda each: each[1].rank(group))
                waiting.remove((address, server))
                async with server.turn(group):
                    try:
                        return await self._ask(address, request)
                    except InvalidUrl:
                        log.error(
                            "AUTH: %s - this address and this request make no valid URL", shown_url(address)
                        )
                    except HttpFailed as error:
                        server.failed_until = trio.current_time() + FAILED_SECONDS
                        log.error("AUTH: %s - %s", shown_url(address), error)
                    except AuthFailed as error:
                        log.error("AUTH: %s - %s", shown_url(address), error)
        raise AuthFailed("no auth server has given a usable answer")

    def _state_by_token(self, secret: str | bytes) -> AuthState | None:
        """None: it may be a secret of the auth servers. `AuthFailed` when there are none, or the token has expired."""
        found = self._access.find(secret if isinstance(secret, bytes) else secret.encode())
        if isinstance(found, Token):
            return token_state(found)
        if found is Refusal.TOKEN_EXPIRED:
            raise AuthFailed("the token has expired")
        if not self._options.auth_http_addresses:
            raise AuthFailed("no token of --tokens-file")
        return None

    def _server(self, address: str) -> _Server:
        if address not in self._servers:
            self._servers[address] = _Server()
        return self._servers[address]

    async def _ask(self, address: str, request: AuthRequest) -> AuthState:
        url = address if "://" in address else f"http://{address}/auth"
        answer = await self._send(url, request)
        if answer.status != 200:
            raise AuthFailed(f"status {answer.status}")
        return await parse_answer(answer.body, trio.current_time(), Yielder())

    async def _send(self, url: str, request: AuthRequest) -> Answer:
        if self._options.auth_http_request_method == "post":
            headers = {"Content-Type": "application/json"}
            return await self._client.ask(url, method="POST", headers=headers, content=_json(request))
        return await self._client.ask(f"{url}?{_query(request)}")


def _from_a_random_one(items: Sequence[_ItemT]) -> Iterator[_ItemT]:
    start = random.randrange(len(items)) if items else 0
    yield from items[start:]
    yield from items[:start]


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
