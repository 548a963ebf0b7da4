"""Tokens: what one is made of, and the text of a file of tokens.

A token is `nsq_` and 32 random bytes in base64. The file has only its SHA-256, so who reads the file has no token. A
slow hash would add nothing: it makes guessing passwords expensive, and 256 random bits cannot be guessed.

The file has a JSON object in each line; empty lines, and those that begin with `#`, are comments:

    {"name":"billing","sha256":"9f86d0...","scopes":["consume:orders/billing"],"created":"2026-12-01T12:00:00Z","expires":null}
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from nsqkit.access.scopes import ScopeError, Scopes
from nsqkit.decoding import DecodeError, decode_json

__all__ = ["MAX_FILE", "MAX_TOKENS", "Token", "TokenError", "Tokens", "checked_name", "digest_of", "name_in"]
__all__ += ["new_secret", "shown_time"]

MAX_FILE: Final = 4 << 20
"""Bytes of a file."""
MAX_TOKENS: Final = 10_000
"""Of one file."""
_PREFIX: Final = "nsq_"
"""By which programs that look for secrets in repositories recognize one."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class TokenError(ValueError):
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
            fields = decode_json(line)
        except DecodeError as error:
            raise TokenError(f"no JSON: {error}") from None
        if not isinstance(fields, dict):
            raise TokenError("no JSON object")
        given: Mapping[str, Any] = fields
        if unknown := given.keys() - _FIELDS:  # an expiry that is misspelt must not become none
            raise TokenError(f"unknown key {_shown(min(unknown))}")
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
            created=_time("created", given.get("created")),
            expires=math.inf if expires is None else _time("expires", expires),
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
        if len(data) > MAX_FILE:
            raise TokenError(f"more than {MAX_FILE} bytes")
        tokens = []
        for number, line in enumerate(data.splitlines(), 1):
            try:
                token = _token_in(line)
            except TokenError as error:
                raise TokenError(f"line {number}: {error}") from None
            if token is not None:
                tokens.append(token)
        return cls(tokens)

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


def name_in(line: bytes) -> str:
    """The name of the token in a line, which is valid; empty for a comment."""
    token = _token_in(line)
    return token.name if token is not None else ""


def _token_in(line: bytes) -> Token | None:
    """None: a comment."""
    stripped = line.strip()
    return Token.parse(stripped) if stripped and not stripped.startswith(b"#") else None


def checked_name(name: Any) -> str:
    """A name that a token can have. `TokenError` for another."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise TokenError(f"name {_shown(name)}: must have 1 to 64 letters, digits and characters of . _ @ -")
    return name


def shown_time(seconds: float) -> str:
    """`2026-12-01T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME)


def _time(key: str, text: Any) -> float:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError):
        raise TokenError(f"{key} {_shown(text)} is no time such as 2026-12-01T12:00:00Z") from None


def _shown(value: Any) -> str:
    """A value of the file for people, in some characters."""
    return repr(value[:80]) if isinstance(value, str) else f"({type(value).__name__})"
