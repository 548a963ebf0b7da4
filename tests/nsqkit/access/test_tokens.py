"""The text of a file of tokens."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.access import Scopes, Token, TokenError, Tokens, digest_of, new_secret
from nsqkit.access.shared_file import MAX_FILE
from nsqkit.access.tokens import MAX_TOKENS

GOOD = {
    "name": "shop",
    "sha256": digest_of(b"secret").hex(),
    "scopes": ["publish:orders"],
    "created": "2026-12-01T12:00:00Z",
    "expires": "2027-12-01T12:00:00Z",
}


def line(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_a_token_is_read_as_it_was_written() -> None:
    token = Token("a.b_c@d-e", digest_of(b"x"), Scopes.parse(["read", "consume:a/*"]), 1e9, 2e9)
    assert Token.parse(token.line().encode()) == token
    forever = Token("f", digest_of(b"y"), Scopes.parse(["admin"]), 1e9)
    assert Token.parse(forever.line().encode()).expires == math.inf


def test_secrets_are_of_256_bits_and_not_in_the_file() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(secret) == 47 and secret.startswith("nsq_") for secret in secrets)
    secret = secrets.pop()
    token = Token("t", digest_of(secret.encode()), Scopes.parse(["read"]))
    assert secret not in token.line()
    assert token.digest.hex() not in repr(token)


def test_a_token_is_found_by_its_secret_only() -> None:
    tokens = Tokens.parse(b"# a comment\n\n" + line() + b"\r\n")
    found = tokens.find(b"secret")
    assert found is not None
    assert found.name == "shop"
    assert tokens.find(b"secret2") is None
    assert tokens.find(b"") is None
    assert tokens.find(found.digest) is None
    assert tokens.find(found.digest.hex().encode()) is None


def test_a_token_expires_in_the_second_that_it_says() -> None:
    token = Token.parse(line())
    assert not token.is_expired(token.expires - 0.001)
    assert token.is_expired(token.expires)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"x", "line 2: no JSON"),
        (b"[]", "line 2: no JSON object"),
        (b"[" * 100_000, "line 2: no JSON: nested too deeply"),
        (line(name=""), "line 2: name ''"),
        (line(name=7), "line 2: name (int): must"),
        (line(name="a b"), "line 2: name 'a b': must have 1 to 64 letters"),
        (line(name="n" * 65), "line 2: name 'nnn"),
        (line(sha256="00"), "line 2: sha256 must have 64 hexadecimal digits"),
        (line(sha256=None), "line 2: sha256 must have"),
        (line(scopes=[]), "line 2: scopes must be a list of texts, one at least"),
        (line(scopes="read"), "line 2: scopes must be"),
        (line(scopes=[1]), "line 2: scopes must be"),
        (line(scopes=["all"]), "line 2: 'all' is no scope"),
        (line(created=None), "line 2: created (NoneType) is no time such as 2026-12-01T12:00:00Z"),
        (line(expires="tomorrow"), "line 2: expires 'tomorrow' is no time"),
        (line(expires=0), "line 2: expires (int) is no time"),
        (line(expire=None), "line 2: unknown key 'expire'"),
        (line() + b"\n" + line(), "two tokens have the name 'shop'"),
        (line() + b"\n" + line(name="b"), "'b' and 'shop' are the same token"),
        (b"#" * (MAX_FILE + 1), f"more than {MAX_FILE} bytes"),
    ],
)
def test_what_is_wrong_in_a_file(text: bytes, reason: str) -> None:
    with pytest.raises(TokenError) as error:
        Tokens.parse(b"\n" + text)
    assert reason in str(error.value)
    assert str(GOOD["sha256"]) not in str(error.value)


def test_too_many_tokens() -> None:
    tokens = (Token(f"t{n}", digest_of(b"%d" % n), Scopes.parse(["read"])) for n in range(MAX_TOKENS + 1))
    with pytest.raises(TokenError, match="10001 tokens are more than 10000"):
        Tokens(tokens)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=40).map(lambda junk: line() + b"\n" + junk)))
def test_any_bytes_are_a_file_or_a_clear_error(data: bytes) -> None:
    with contextlib.suppress(TokenError):
        Tokens.parse(data)
