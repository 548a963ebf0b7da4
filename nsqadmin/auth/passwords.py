"""Passwords: kept as a scrypt hash, and checked apart from the event loop, one at a time.

scrypt (RFC 7914) is in Python's standard library, from OpenSSL; argon2 would need three more packages with compiled
code, for one program of many. The parameters are those that OWASP recommends with 32 MiB: about 0.3 s of one core.

A hash is text in the usual form, `$scrypt$ln=15,r=8,p=3$SALT$HASH`, in base64 without padding. It has its parameters,
so that they can be raised: old hashes stay valid.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
from typing import Final

import attrs
import trio

__all__ = [
    "MAX_BYTES",
    "MIN_CHARACTERS",
    "BadPassword",
    "PasswordChecks",
    "hash_password",
    "is_hash",
    "matches",
]

MIN_CHARACTERS: Final = 8
MAX_BYTES: Final = 1024
AT_ONCE: Final = 1
"""Checks that run; each takes 32 MiB. Strangers who flood the console with tries have one core busy at most."""
WAITING: Final = 30
"""Checks that run or wait: ten seconds' work, which a browser waits for."""

_LOG2_N, _R, _P = 15, 8, 3
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
_MAX_MEMORY: Final = 256 << 20
_HASH: Final = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]?),p=([1-9][0-9]?)\$([A-Za-z0-9+/]{22,86})\$([A-Za-z0-9+/]{43})"
)


class BadPassword(ValueError):
    """A password that cannot be taken; the message says why."""


@attrs.frozen
class _Hash:
    log2_n: int
    r: int
    p: int
    salt: bytes
    digest: bytes = attrs.field(repr=False)

    @property
    def memory(self) -> int:
        """Bytes that a check takes."""
        return 128 * self.r * ((1 << self.log2_n) + self.p)

    def of(self, password: bytes) -> bytes:
        """The digest of another password, by the same parameters."""
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=1 << self.log2_n,
            r=self.r,
            p=self.p,
            maxmem=self.memory + (1 << 20),
            dklen=_HASH_BYTES,
        )

    def __str__(self) -> str:
        return f"$scrypt$ln={self.log2_n},r={self.r},p={self.p}${_base64(self.salt)}${_base64(self.digest)}"


# Compared with where there is no user of a name: that takes as long, and nothing matches it.
_NOBODY: Final = _Hash(_LOG2_N, _R, _P, bytes(_SALT_BYTES), bytes(_HASH_BYTES))


def hash_password(password: str) -> str:
    """What is kept of a password. `BadPassword`. Takes a third of a second."""
    if len(password) < MIN_CHARACTERS:
        raise BadPassword(f"a password must have at least {MIN_CHARACTERS} characters")
    if len(_bytes_of(password)) > MAX_BYTES:
        raise BadPassword(f"a password must have at most {MAX_BYTES} bytes")
    if not all(character.isprintable() for character in password):
        raise BadPassword("a password must have no control characters")
    made = attrs.evolve(_NOBODY, salt=secrets.token_bytes(_SALT_BYTES))
    return str(attrs.evolve(made, digest=made.of(_bytes_of(password))))


def is_hash(text: str) -> bool:
    """Whether a text is what `hash_password` returns, with parameters that can be used."""
    return _parse(text) is not None


def matches(kept: str | None, password: str) -> bool:
    """Whether this is the password that was hashed; takes as long where there is none (None)."""
    known = None if kept is None else _parse(kept)
    data = _bytes_of(password)
    if len(data) > MAX_BYTES:
        return False
    wanted = known or _NOBODY
    same = hmac.compare_digest(wanted.of(data), wanted.digest)
    return same and known is not None


@attrs.define(eq=False)
class PasswordChecks:
    """Checks passwords in threads."""

    _turns: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(AT_ONCE), init=False)
    _waiting: int = attrs.field(default=0, init=False)

    @property
    def are_full(self) -> bool:
        """Whether so many are waiting that no more should be begun."""
        return self._waiting >= WAITING

    async def matches(self, kept: str | None, password: str) -> bool:
        """As the function of this name."""
        self._waiting += 1
        try:
            # A check whose client has gone ends by itself, and has its turn until then.
            return await trio.to_thread.run_sync(
                matches, kept, password, limiter=self._turns, abandon_on_cancel=True
            )
        finally:
            self._waiting -= 1


def _parse(text: str) -> _Hash | None:
    found = _HASH.fullmatch(text)
    if found is None:
        return None
    try:
        salt, digest = _unbase64(found[4]), _unbase64(found[5])
    except ValueError:
        return None
    made = _Hash(int(found[1]), int(found[2]), int(found[3]), salt, digest)
    return made if made.memory <= _MAX_MEMORY and made.p <= 16 else None


def _bytes_of(password: str) -> bytes:
    # Keyboards differ in how they compose an accented letter.
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _unbase64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
