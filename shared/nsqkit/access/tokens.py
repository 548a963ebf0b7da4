"""Tokens: what one is made of, and the text of a file of tokens.

A token is `nsq_` and 32 random bytes in base64. The file has only its SHA-256, so who reads the file has no token. A
slow hash would add nothing: it makes guessing passwords expensive, and 256 random bits cannot be guessed.

The file (see `shared_file`) has a line for each:

    {"name":"billing","sha256":"9f86d0...","scopes":["consume:orders/billing"],"created":"2026-12-01T12:00:00Z","expires":null}
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from nsqkit.access.scopes import ScopeError, Scopes
from nsqkit.access.shared_file import ContentError, fields_of, parse_lines, shown

__all__ = [
    "MAX_TOKENS",
    "Token",
    "TokenError",
    "Tokens",
    "checked_name",
    "digest_of",
    "new_secret",
    "shown_time",
]

MAX_TOKENS: Final = 10_000
"""Of one file."""
_PREFIX: Final = "nsq_"
"""By which programs that look for secrets in repositories recognize one."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class TokenError(ContentError):
    """A token, or a file of tokens, that cannot be; the message says why, and has no secret in it."""


def new_secret() -> str:
    """The text of a new token."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: bytes) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(secret).digest()


@attrs.frozen
class Token:
    """A token as the file has it. Times in seconds since 1970."""

    name: str
    digest: bytes = attrs.field(repr=False)
    scopes: Scopes
    created: float = 0.0
    expires: float = math.inf

    def is_expired(self, now: float) -> bool:
        """Whether its time is over."""
        return now >= self.expires

    def line(self) -> str:
        """Its line in the file."""
        fields = {
            "name": self.name,
            "sha256": self.digest.hex(),
            "scopes": list(map(str, self.scopes.scopes)),
            "created": shown_time(self.created),
            "expires": None if self.expires == math.inf else shown_time(self.expires),
        }
        return json.dumps(fields, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> Token:
        """`TokenError`."""
        try:
            given = fields_of(line, _FIELDS)
        except ContentError as error:
            raise TokenError(str(error)) from None
        scopes = given.get("scopes")
        if not isinstance(scopes, list) or not scopes or not all(isinstance(each, str) for each in scopes):
            raise TokenError("scopes must be a list of texts, one at least")
        try:
            parsed = Scopes.parse(scopes)
        except ScopeError as error:
            raise TokenError(str(error)) from None
        sha256 = given.get("sha256")
        if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
            raise TokenError("sha256 must have 64 hexadecimal digits")
        expires = given.get("expires")
        return cls(
            name=checked_name(given.get("name")),
            digest=bytes.fromhex(sha256),
            scopes=parsed,
            created=parsed_time("created", given.get("created")),
            expires=math.inf if expires is None else parsed_time("expires", expires),
        )


_FIELDS: Final = frozenset({"name", "sha256", "scopes", "created", "expires"})


class Tokens:
    """All tokens of a file, in its order. `TokenError` for two of one name, or of one secret, and for too many."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self.by_name: dict[str, Token] = {}
        self._by_digest: dict[bytes, Token] = {}
        for token in tokens:
            if token.name in self.by_name:
                raise TokenError(f"two tokens have the name {token.name!r}")
            if token.digest in self._by_digest:
                raise TokenError(
                    f"{token.name!r} and {self._by_digest[token.digest].name!r} are the same token"
                )
            self.by_name[token.name] = self._by_digest[token.digest] = token
        if len(self.by_name) > MAX_TOKENS:
            raise TokenError(f"{len(self.by_name)} tokens are more than {MAX_TOKENS}")

    @classmethod
    def parse(cls, data: bytes) -> Tokens:
        """The tokens of a file's bytes. `TokenError` names the line."""
        return cls(parse_lines(data, Token.parse, TokenError))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.by_name)

    def find(self, secret: bytes) -> Token | None:
        """The token with this text, expired or not.

        Nothing of a token can be found out from how long this takes: it depends on the digest, which a client cannot
        choose, and equal digests are compared in constant time.
        """
        digest = digest_of(secret)
        token = self._by_digest.get(digest)
        return token if token is not None and hmac.compare_digest(token.digest, digest) else None

    def has(self, token: Token) -> bool:
        """Whether this very token, unchanged, is among them."""
        return self.by_name.get(token.name) == token


def checked_name(name: Any) -> str:
    """A name that a token can have. `TokenError` for another."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise TokenError(f"name {shown(name)}: must have 1 to 64 letters, digits and characters of . _ @ -")
    return name


def shown_time(seconds: float) -> str:
    """`2026-12-01T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME)


def parsed_time(key: str, text: Any) -> float:
    """The reverse: seconds since 1970 of the value of this key. `TokenError`."""
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError):
        raise TokenError(f"{key} {shown(text)} is no time such as 2026-12-01T12:00:00Z") from None
