"""What a client may do, where not everybody may do everything.

AUTH has a token, or a secret for an auth server. SUB and the publishes are checked against what the token allows, or
the server's answer, and then against what everybody may do.

A token is looked up once: the connection is closed when it is revoked or expires (`Session.check_token`). A server's
answer is good for its time to live; the first check after that asks again, with the same secret. While a server is
asked the session reads nothing; the command that needs the answer is looked at again once it is there.
"""

from __future__ import annotations

import json
from typing import Final, Protocol

import attrs

from nsqd.access import COMMANDS
from nsqd.auth import AuthState
from nsqd.broker import Broker
from nsqd.protocol_v2.context import Context
from nsqd.protocol_v2.framing import Incomplete
from nsqd.protocol_v2.layers import Layers
from nsqkit.audit import Means, Who
from nsqkit.service.tls import peer_common_name
from nsqkit.wire import ProtocolError, encode_response

__all__ = ["Denied", "SessionAuthorization", "record_denied"]

_REMEMBERED: Final = 100  # topics of one client; one more and all are forgotten
MAX_SECRET: Final = 16 * 1024  # bytes: it is kept as long as the connection lives, and goes into a URL


class Denied(ProtocolError):
    """A client may not do this. `command`, `topic`, `channel`: what it wanted."""

    def __init__(self, code: str, text: str, command: str, topic: str = "", channel: str = "") -> None:
        super().__init__(code, text)
        self.command, self.topic, self.channel = command, topic, channel


class Client(Protocol):
    """What the audit trail says of a session."""

    @property
    def context(self) -> Context: ...
    @property
    def remote(self) -> str: ...
    @property
    def authorization(self) -> SessionAuthorization: ...
    @property
    def layers(self) -> Layers | None: ...


class Asking(Protocol):
    """What a check needs of the session it is made for."""

    @property
    def broker(self) -> Broker: ...
    @property
    def context(self) -> Context: ...

    def ask_for_authorization(self) -> None: ...


@attrs.define
class SessionAuthorization:
    """One client's. `secret`: never logged."""

    state: AuthState | None = None
    secret: bytes = attrs.field(default=b"", repr=False)
    publishes: set[bytes] = attrs.field(factory=set)
    """Topics that it may publish to, as was found out: by a right that does not expire while it is connected."""
    _answers_auth: bool = False  # the question comes from an AUTH, not from an answer that has expired

    def begin(self, secret: bytes) -> None:
        """AUTH. `ProtocolError` when it makes no sense here."""
        if self.state is not None and self.state.authorizations:
            raise ProtocolError("E_INVALID", "AUTH already set")
        if len(secret) > MAX_SECRET:
            raise Denied("E_AUTH_FAILED", "AUTH failed", "AUTH")
        self.secret, self._answers_auth = secret, True

    def answered(self, state: AuthState | None) -> bytes | None:
        """An auth server has answered, or none did (None).

        Returns the answer to an AUTH. `ProtocolError` when the client cannot stay.
        """
        answers_auth, self._answers_auth = self._answers_auth, False
        if state is None:
            raise Denied("E_AUTH_FAILED", "AUTH failed", "AUTH")
        if answers_auth and not state.authorizations:
            raise Denied("E_UNAUTHORIZED", "AUTH no authorizations found", "AUTH")
        self.state = state
        if not answers_auth:
            return None
        answer = {
            "identity": state.identity,
            "identity_url": state.identity_url,
            "permission_count": state.permission_count,
        }
        return encode_response(json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode())

    def check(self, session: Asking, command: str, topic: str, channel: str = "") -> None:
        """`ProtocolError` when it is not allowed; `Incomplete` while that is not known."""
        state = self.state
        if state is not None and state.is_expired(session.broker.now):
            session.ask_for_authorization()
            raise Incomplete(0)
        if state is None or not state.allows(topic, channel):
            self._check_without(session, command, topic, channel)
        if not channel and (state is None or state.token is not None):
            if len(self.publishes) >= _REMEMBERED:
                self.publishes.clear()
            self.publishes.add(topic.encode())

    def _check_without(self, session: Asking, command: str, topic: str, channel: str) -> None:
        """The same for a client whose own rights, if it has any, are not enough."""
        if session.context.anonymous.allows(COMMANDS[command], topic, channel):
            return
        if self.state is None:
            raise Denied("E_AUTH_FIRST", f"AUTH required before {command}", command, topic, channel)
        text = f'AUTH failed for {command} on "{topic}" "{channel}"'
        raise Denied("E_UNAUTHORIZED", text, command, topic, channel)


def record_denied(session: Client, denied: Denied) -> None:
    """Have the audit trail say what a client was not allowed to do: the one place for this protocol."""
    trail = session.context.trail
    if trail.enabled:
        on = {"topic": denied.topic, "channel": denied.channel}
        trail.refuse(_who(session), denied.command, denied.code, on=on)


def _who(session: Client) -> Who:
    state = session.authorization.state
    if state is not None:
        return Who(
            state.identity, Means.TOKEN if state.token is not None else Means.AUTH_SERVER, session.remote
        )
    tls = session.layers.tls if session.layers is not None else None
    if tls is not None and (name := peer_common_name(tls)):
        verified = session.context.verifies_certificates
        return Who(name, Means.CERTIFICATE if verified else Means.UNVERIFIED_CERTIFICATE, session.remote)
    return Who(remote=session.remote)
