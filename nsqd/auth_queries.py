"""Asking the auth servers on behalf of the sessions, which cannot wait."""

from __future__ import annotations

import trio

from nsqd.auth import AuthFailed, Authorizer, AuthRequest, AuthState
from nsqd.protocol_v2.session import Session
from nsqd.rounds import Rounds
from nsqkit.logging import get_logger
from nsqkit.service.tls import peer_common_name

__all__ = ["AuthQueries"]

log = get_logger("client")


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

    def ask(self, session: Session) -> None:
        """`session.authorized` gets the answer, in a round of its own."""
        assert self._nursery is not None
        self._nursery.start_soon(self._ask, session)

    async def _ask(self, session: Session) -> None:
        state: AuthState | None = None
        if session.closed:
            return
        try:
            state = await self._authorizer.query(_request(session))
        except AuthFailed as error:
            log.warning("[%s] AUTH failed - %s", session.remote, error)
        except Exception:  # an error of ours lets nobody in, and ends nothing else
            log.exception("[%s] AUTH failed", session.remote)
        self._rounds.begin()
        try:
            session.authorized(state)
        except Exception:
            log.exception("[%s] closing after an error of ours", session.remote)
            session.disconnect()
        self._rounds.end()
        await self._rounds.run_pending()


def _request(session: Session) -> AuthRequest:
    tls = session.layers.tls if session.layers is not None else None
    return AuthRequest(
        secret=session.authorization.secret,
        remote_ip=session.remote_ip,
        tls=tls is not None,
        common_name=peer_common_name(tls) if tls is not None else "",
    )
