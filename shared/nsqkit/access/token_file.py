"""The file of tokens (see `shared_file`), and the changes that `nsqd token` makes to it."""

from __future__ import annotations

import stat
from typing import Final

import attrs

from nsqkit.access.shared_file import Kind, SharedFile, is_comment, told_as, with_line
from nsqkit.access.tokens import Token, TokenError, Tokens
from nsqkit.options import did_you_mean

__all__ = ["TokenFile", "TokenFileError", "add", "remove"]

_KIND: Final = Kind(
    noun="tokens",
    parse=Tokens.parse,
    mode=0o644,  # its content is no secret, and daemons have users of their own
    warnings={stat.S_IWOTH: "every user of this machine may write it, and so give himself a token"},
)


class TokenFileError(Exception):
    """The file cannot be read or written; the text, with its path, is for the operator."""


@attrs.define(eq=False)
class TokenFile(SharedFile[Tokens]):
    """The tokens of a file, as a daemon has them."""

    kind: Kind[Tokens] = attrs.field(default=_KIND, init=False)

    @property
    def tokens(self) -> Tokens:
        """Those of the last content that could be read."""
        return self.content

    def load(self) -> None:
        """Read it for the first time. `TokenFileError`."""
        with told_as(TokenFileError, self.path):
            SharedFile.load(self)


def add(path: str, token: Token) -> None:
    """Add a token, to a new file if there is none. `TokenFileError`, also if it has one of this name."""

    def with_token(data: bytes) -> bytes:
        if token.name in Tokens.parse(data).by_name:
            raise TokenError(
                f"a token has the name {token.name!r} already; take another, or revoke that one first"
            )
        return with_line(data, token.line().encode())

    with told_as(TokenFileError, path):
        _KIND.rewrite(path, with_token, create=True)


def remove(path: str, name: str) -> None:
    """Remove a token. `TokenFileError`, also if there is none of this name."""

    def without(data: bytes) -> bytes:
        if name not in (tokens := Tokens.parse(data)).by_name:
            raise TokenError(f"no token has the name {name!r}{did_you_mean(name, tokens.by_name)}")
        lines = data.splitlines(keepends=True)
        return b"".join(line for line in lines if is_comment(line) or Token.parse(line.strip()).name != name)

    with told_as(TokenFileError, path):
        _KIND.rewrite(path, without)
