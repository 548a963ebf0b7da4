"""Clients of every kind, by what they show: a token of each scope, of other topics, expired, revoked, or none."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Final

import attrs

from nsqkit.access import NOTHING, Access, Need, Scopes, Token, TokenFile, digest_of, new_secret
from nsqkit.access.token_file import add, remove

TOPIC: Final = "orders"
CHANNEL: Final = "billing"
NOW: Final = 1_800_000_000.0

SCOPES: Final = {
    "publisher": "publish:orders",
    "publisher of a pattern": "publish:or*s",
    "publisher of another topic": "publish:orders2",
    "consumer": "consume:orders/billing",
    "consumer of patterns": "consume:*/b*",
    "consumer of all channels": "consume:or*/*",
    "consumer of another topic": "consume:payments/billing",
    "consumer of another channel": "consume:orders/archive",
    "reader": "read",
    "operator": "operate",
    "admin": "admin",
    "expired admin": "admin",
    "revoked admin": "admin",
}
STRANGERS: Final = frozenset({"nobody", "somebody with a wrong token", "expired admin", "revoked admin"})
"""Of whom no valid token is known."""

_PUBLISHERS: Final = frozenset({"publisher", "publisher of a pattern"})
_CONSUMERS: Final = frozenset({"consumer", "consumer of patterns", "consumer of all channels"})
MAY: Final = {
    Need.OPEN: STRANGERS | SCOPES.keys(),
    Need.PUBLISH: _PUBLISHERS | {"admin"},
    Need.CONSUME: _CONSUMERS | {"admin"},
    Need.CONSUME_ALL: frozenset({"consumer of all channels", "admin"}),
    Need.FIND: _PUBLISHERS | _CONSUMERS | {"consumer of another channel", "reader", "operator", "admin"},
    Need.READ: frozenset({"reader", "operator", "admin"}),
    Need.OPERATE: frozenset({"operator", "admin"}),
    Need.ADMIN: frozenset({"admin"}),
}
"""Who may do what, when nothing is open to all, for `TOPIC` and `CHANNEL`."""


@attrs.frozen
class Credentials:
    """The rules of a daemon that is closed, and everybody who comes."""

    access: Access
    secrets: dict[str, str]
    """By who shows it; empty: nothing is shown."""

    def header(self, who: str) -> str:
        """The line of a request's head."""
        secret = self.secrets[who]
        return f"Authorization: Bearer {secret}\r\n" if secret else ""

    def basic_header(self, who: str) -> str:
        """The same, as programs send it that know only passwords."""
        pair = base64.b64encode(f"anybody:{self.secrets[who]}".encode()).decode()
        return f"Authorization: Basic {pair}\r\n"


def make_credentials(folder: Path, anonymous: Scopes = NOTHING) -> Credentials:
    """A file with all these tokens, as a daemon has it that has known the revoked one."""
    path = str(folder / "tokens")
    secrets = {"nobody": "", "somebody with a wrong token": new_secret()}
    for who, scope in SCOPES.items():
        secrets[who] = new_secret()
        expires = NOW if who == "expired admin" else math.inf
        name = who.replace(" ", "-")
        add(path, Token(name, digest_of(secrets[who].encode()), Scopes.parse([scope]), NOW - 60, expires))
    file = TokenFile(path)
    file.load()
    remove(path, "revoked-admin")
    assert file.look()()
    return Credentials(Access(anonymous, file, clock=lambda: NOW), secrets)
