"""Who may do what on one daemon: the scopes of clients without a token, and the tokens.

`--anonymous` says what needs no token. It is asked first: a token is looked at only where it is not enough, so a client
may send one to a daemon that knows none.
"""

from __future__ import annotations

import binascii
import enum
import math
import time
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from nsqkit.access.scopes import EVERYTHING, NOTHING, Need, ScopeError, Scopes
from nsqkit.access.token_file import TokenFile
from nsqkit.access.tokens import Token, Tokens

__all__ = ["EVERYONE_MAY", "Access", "Denial", "Refusal", "anonymous_scopes", "secret_in"]

EVERYONE_MAY: Final = "publish,consume,read,operate,admin"
"""The default of `--anonymous`: as it was before there were tokens."""
_NO_TOKENS: Final = Tokens()
_REMEMBERED: Final = 1000
"""Values of the header Authorization."""


class Refusal(enum.Enum):
    """Why a client may not do something."""

    TOKEN_REQUIRED = enum.auto()
    TOKEN_INVALID = enum.auto()
    """No token of the file: mistyped, or revoked."""
    TOKEN_EXPIRED = enum.auto()
    OUT_OF_SCOPE = enum.auto()


@attrs.frozen
class Denial:
    """That a request is refused. `token`: whose scopes are not enough."""

    why: Refusal
    token: Token | None = None


@attrs.define(eq=False)
class Access:
    """The rules of one daemon. Without arguments everybody may do everything."""

    anonymous: Scopes = EVERYTHING
    file: TokenFile | None = None
    clock: Callable[[], float] = time.time
    """Seconds since 1970: tokens expire by the wall clock."""
    _by_header: dict[bytes, Token] = attrs.field(factory=dict, init=False, repr=False)
    """Tokens by the values of Authorization that clients have sent. A producer sends the same one each time."""
    _by_header_of: Tokens = attrs.field(default=_NO_TOKENS, init=False, repr=False)
    """What these were found in."""
    _next_expiry: float = attrs.field(default=-math.inf, init=False)

    @classmethod
    def load(cls, anonymous: str, tokens_file: str) -> Access:
        """The rules that two options give. `ScopeError`, `TokenFileError`."""
        scopes = anonymous_scopes(anonymous)
        if not tokens_file:
            return cls(scopes)
        file = TokenFile(tokens_file)
        file.load()
        return cls(scopes, file)

    @property
    def tokens(self) -> Tokens:
        """The tokens that are known."""
        return _NO_TOKENS if self.file is None else self.file.tokens

    def is_valid(self, token: Token) -> bool:
        """Whether it is in the file, unchanged, and not expired."""
        return self.tokens.has(token) and not token.is_expired(self.clock())

    def find(self, secret: bytes) -> Token | Refusal:
        """The token with this text, or why it is not valid."""
        return self._unless_expired(self.tokens.find(secret))

    def denial(self, need: Need, topic: str, channel: str, authorization: bytes | None) -> Denial | None:
        """Why a request with this header is refused; None: it is allowed."""
        if self.anonymous.allows(need, topic, channel):
            return None
        if authorization is None:
            return Denial(Refusal.TOKEN_REQUIRED)
        token = self._unless_expired(self.token_in(authorization))
        if isinstance(token, Refusal):
            return Denial(token)
        return None if token.scopes.allows(need, topic, channel) else Denial(Refusal.OUT_OF_SCOPE, token)

    def _unless_expired(self, token: Token | None) -> Token | Refusal:
        if token is None:
            return Refusal.TOKEN_INVALID
        return Refusal.TOKEN_EXPIRED if token.is_expired(self.clock()) else token

    def token_in(self, value: bytes) -> Token | None:
        """The token in the value of a header Authorization, if it is one of the file, expired or not."""
        if self._by_header_of is not self.tokens:
            self._by_header, self._by_header_of = {}, self.tokens
        token = self._by_header.get(value)
        if token is None:
            secret = secret_in(value)
            token = None if secret is None else self.tokens.find(secret)
            if token is not None and len(self._by_header) < _REMEMBERED:
                self._by_header[value] = token
        return token

    def expired_meanwhile(self) -> bool:
        """Whether a token has expired since the last call. The first one says yes."""
        now = self.clock()
        if now < self._next_expiry:
            return False
        self.plan_expiry()
        return True

    def plan_expiry(self) -> None:
        """The tokens have changed, or one has expired: find out which is the next one."""
        now = self.clock()
        later = [token.expires for token in self.tokens.by_name.values() if token.expires > now]
        self._next_expiry = min(later, default=math.inf)

    def open_to_all(self, addresses: Iterable[str]) -> str:
        """What the operator has to know at the start: what everybody may do who reaches one of these addresses.

        Empty, if there is no such address, or nothing is allowed.
        """
        reached = ", ".join(addresses)
        if not reached or self.anonymous == NOTHING:
            return ""
        may = "do everything" if self.anonymous.allow_all(Need.ADMIN) else f"do this: {self.anonymous}"
        return f"everybody who reaches {reached} may {may} (--anonymous; see docs/security.md)"


def anonymous_scopes(text: str) -> Scopes:
    """The value of `--anonymous`: `none`, or scopes with commas between them. `ScopeError`."""
    if text == "none":
        return NOTHING
    if not text:
        raise ScopeError("it is empty; to allow nothing write none")
    return Scopes.parse(text.split(","))


def secret_in(authorization: bytes) -> bytes | None:
    """The token in the value of the header: `Bearer TOKEN`, or `Basic`, where it is the password."""
    scheme, _, rest = authorization.partition(b" ")
    rest = rest.strip()
    if scheme.lower() == b"bearer":
        return rest
    if scheme.lower() == b"basic":
        try:
            return binascii.a2b_base64(rest, strict_mode=True).partition(b":")[2]
        except binascii.Error:
            return None
    return None
