"""The secret that leaders and followers share."""

from __future__ import annotations

from typing import Final

__all__ = ["SecretError", "read_secret"]

_SHORTEST: Final = 16  # bytes
_LONGEST: Final = 4096


class SecretError(Exception):
    """The secret file cannot be used; the text is for the operator."""


def read_secret(path: str) -> bytes:
    """What both sides must know; empty without a file. Space around it is ignored. `SecretError`."""
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            secret = file.read(_LONGEST + 1).strip()
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from error
    if not _SHORTEST <= len(secret) <= _LONGEST:
        raise SecretError(f"{path}: a secret has {_SHORTEST} to {_LONGEST} bytes, not {len(secret)}")
    return secret
