"""Asking the auth servers on behalf of sessions, which never wait.

A question is a task of its own; its answer is a round of its own:

    session --ask--> a task --Authorizer.query--> the auth servers
    session <--authorized-- the task

A session that ends withdraws its question: connections that come and go must not leave tasks behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from nsqd.auth.authorizer import Authorizer, AuthRequest
from nsqd.auth.state import AuthFailed, AuthState
from nsqd.rounds import Rounds
from nsqkit.logging import get_logger

__all__ = ["AuthClient", "AuthQueries"]

log = get_logger("client")


class AuthClient(Protocol):
    """What a query needs of the session it is made for."""

    withdraw_query: Callable[[], None]
    """Set by `AuthQueries.ask`: the session has ended and needs no answer any more."""

    @property
    def remote(self) -> str:
        """Its address, for the log."""

    @property
    def closed(self) -> bool: ...

    def auth_request(self) -> AuthRequest: ...

    def authorized(self, state: AuthState | None) -> None:
        """The answer; None: there was no usable one. Called within a round."""

    def disconnect(self) -> None: ...


class AuthQueries:
    """Asks the auth servers, each question in a task of its own."""

    def __init__(self, authorizer: Authorizer, rounds: Rounds) -> None:
        self._authorizer = authorizer
        self._rounds = rounds
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Answer questions until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def ask(self, client: AuthClient) -> None:
        """`client.authorized` gets the answer, in a round of its own."""
        assert self._nursery is not None
        scope = trio.CancelScope()
        client.withdraw_query = scope.cancel
        self._nursery.start_soon(self._ask, client, scope)

    async def _ask(self, client: AuthClient, scope: trio.CancelScope) -> None:
        state: AuthState | None = None
        if client.closed:
            return
        try:
            with scope:
                state = await self._authorizer.query(client.auth_request())
        except AuthFailed as error:
            log.warning("[%s] AUTH failed - %s", client.remote, error)
        except Exception:  # an error of ours lets no client in, and ends nothing else
            log.exception("[%s] AUTH failed", client.remote)
        if scope.cancelled_caught:
            return
        self._rounds.begin()
        try:
            client.authorized(state)
        except Exception:
            log.exception("[%s] closing: internal error", client.remote)
            client.disconnect()
        self._rounds.end()
        await self._rounds.run_pending()
