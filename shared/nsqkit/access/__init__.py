"""Who may do what: scopes, tokens, the file of tokens, and the rules of one daemon.

    access = Access(anonymous_scopes("read"), TokenFile("/etc/nsq/tokens"))
    access.denial(Need.PUBLISH, "orders", "", b"Bearer nsq_...")  # None: allowed

`nsqkit.access.command` is the command that makes tokens, `nsqkit.access.watch` reads the file again when it changes.
"""

from nsqkit.access.control import EVERYONE_MAY, Access, Denial, Refusal, anonymous_scopes
from nsqkit.access.scopes import EVERYTHING, NOTHING, Need, Scope, ScopeError, Scopes
from nsqkit.access.token_file import TokenFile, TokenFileError
from nsqkit.access.tokens import Token, TokenError, Tokens, digest_of, new_secret

__all__ = [
    "EVERYONE_MAY",
    "EVERYTHING",
    "NOTHING",
    "Access",
    "Denial",
    "Need",
    "Refusal",
    "Scope",
    "ScopeError",
    "Scopes",
    "Token",
    "TokenError",
    "TokenFile",
    "TokenFileError",
    "Tokens",
    "anonymous_scopes",
    "digest_of",
    "new_secret",
]
