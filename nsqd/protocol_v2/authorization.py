"""What a client may do, where auth servers decide it.

AUTH sends the client's secret to an auth server; SUB and the publishes are checked against its answer. An answer is
good for its time to live; the first check behind that asks again, with the same secret. While a server is asked the
session reads nothing; the command that needs the answer is looked at again when it is there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs

from nsqd.auth import AuthState
from nsqd.protocol_v2.framing import Incomplete
from nsqkit.wire import ProtocolError, encode_response

if TYPE_CHECKING:
    from nsqd.protocol_v2.session import Session

__all__ = ["Authorization"]

MAX_SECRET = 16 * 1024  # bytes: it is kept as long as the connection lives, and goes into a URL


@attrs.define
class Authorization:
    """One client's. `secret`: never logged."""

    state: AuthState | None = None
    secret: bytes = attrs.field(default=b"", repr=False)
    _greets: bool = False  # the client waits for an answer to its AUTH

    def begin(self, session: Session, secret: bytes) -> None:
        """AUTH. `ProtocolError` when it makes no sense here."""
        if self.state is not None and self.state.authorizations:
            raise ProtocolError("E_INVALID", "AUTH already set")
        if session.context.ask is None:
            raise ProtocolError("E_AUTH_DISABLED", "AUTH disabled")
        if len(secret) > MAX_SECRET:
            raise ProtocolError("E_AUTH_FAILED", "AUTH failed")
        self.secret, self._greets = secret, True
        session.ask_for_authorization()

    def answered(self, session: Session, state: AuthState | None) -> None:
        """An auth server has answered, or none did. `ProtocolError` when that is the end."""
        greets, self._greets = self._greets, False
        if state is None:
            raise ProtocolError("E_AUTH_FAILED", "AUTH failed")
        if greets and not state.authorizations:
            raise ProtocolError("E_UNAUTHORIZED", "AUTH no authorizations found")
        self.state = state
        if greets:
            answer = {
                "identity": state.identity,
                "identity_url": state.identity_url,
                "permission_count": state.permission_count,
            }
            text = json.dumps(answer, separators=(",", ":"), ensure_ascii=False)
            session.answer(encode_response(text.encode()))

    def check(self, session: Session, command: str, topic: str, channel: str = "") -> None:
        """`ProtocolError` when it is not allowed; `Incomplete` while that is not known."""
        state = self.state
        if state is None:
            raise ProtocolError("E_AUTH_FIRST", f"AUTH required before {command}")
        if state.is_expired(session.broker.now):
            session.ask_for_authorization()
            raise Incomplete(0)
        if not state.allows(topic, channel):
            raise ProtocolError("E_UNAUTHORIZED", f'AUTH failed for {command} on "{topic}" "{channel}"')
