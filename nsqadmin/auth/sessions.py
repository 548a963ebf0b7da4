"""Sessions: who has shown a password, and need not show it again for a while. In memory only.

A session is found by a key that is made of what the client sends (the id in a cookie, or its header Authorization),
never by the secret itself. It ends when it was not used for some time, after some time in any case, at a logout, and
when its user is removed or changed; then its `ended` is set, which ends the streams that it has opened.

Only those who have a password can make sessions, so the bound for each user is one for all.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

import attrs
import trio

from nsqadmin.auth.identity import Identity, Means
from nsqadmin.auth.users import User, Users

__all__ = ["MAX_SESSIONS", "Session", "Sessions", "new_session_id"]

MAX_SESSIONS: Final = 20
"""Of one user. One more ends the one that was not used for the longest time."""
_SWEEP_S: Final = 5.0


def new_session_id() -> str:
    """For a cookie: 256 random bits."""
    return secrets.token_urlsafe(32)


@attrs.define(eq=False)
class Session:
    """One session. Times are seconds of trio's clock."""

    user: User
    identity: Identity
    opened_at: float
    used_at: float


@attrs.define(eq=False)
class Sessions:
    """All sessions of a console."""

    idle_s: float
    """After which a session that is not used ends."""
    lifetime_s: float
    _by_key: dict[bytes, Session] = attrs.field(factory=dict, init=False)
    """The one that was not used for the longest time first."""
    _secret: bytes = attrs.field(factory=lambda: secrets.token_bytes(32), init=False, repr=False)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_key)

    def key_of(self, secret: bytes) -> bytes:
        """The key of a session, of what a client sends. From neither of them the other one can be found out."""
        return hmac.digest(self._secret, secret, hashlib.sha256)

    def open(self, user: User, means: Means, key: bytes) -> Identity:
        """Begin a session."""
        own = [each for each, session in self._by_key.items() if session.user.name == user.name]
        for oldest in own[: max(0, len(own) + 1 - MAX_SESSIONS)]:
            self.end(oldest)
        identity = Identity(user.name, means, user.role, user.topics, secrets.token_urlsafe(24))
        now = trio.current_time()
        self._by_key[key] = Session(user, identity, now, now)
        return identity

    def find(self, key: bytes) -> Identity | None:
        """Whose session this is; None if there is none, or it has ended. It counts as used now."""
        session = self._by_key.get(key)
        if session is None:
            return None
        now = trio.current_time()
        if self._is_over(session, now):
            self.end(key)
            return None
        session.used_at = now
        self._by_key[key] = self._by_key.pop(key)
        return session.identity

    def end(self, key: bytes) -> None:
        """End a session, if there is such a one."""
        session = self._by_key.pop(key, None)
        if session is not None:
            session.identity.ended.set()

    def keep_only(self, users: Users) -> int:
        """End the sessions of all others, also of those who have changed; how many these were."""
        others = [key for key, session in self._by_key.items() if not users.has(session.user)]
        for key in others:
            self.end(key)
        return len(others)

    async def run(self) -> None:
        """End sessions when their time is over, until cancelled: their streams do not ask."""
        while True:
            await trio.sleep(_SWEEP_S)
            now = trio.current_time()
            for key in [key for key, session in self._by_key.items() if self._is_over(session, now)]:
                self.end(key)

    def _is_over(self, session: Session, now: float) -> bool:
        return now - session.used_at >= self.idle_s or now - session.opened_at >= self.lifetime_s
