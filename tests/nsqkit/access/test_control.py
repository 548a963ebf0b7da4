"""The rules of one daemon: who is refused, and why."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from nsqkit.access import Access, Denial, Need, Refusal, ScopeError, Scopes, TokenFileError
from nsqkit.access.control import secret_in
from nsqkit.access.token_file import remove
from tests.nsqkit.access.credentials import CHANNEL, NOW, TOPIC, Credentials, make_credentials


@pytest.fixture
def closed(tmp_path: Path) -> Credentials:
    return make_credentials(tmp_path)


def denial(closed: Credentials, who: str, need: Need = Need.PUBLISH) -> Denial | None:
    secret = closed.secrets[who]
    return closed.access.denial(need, TOPIC, CHANNEL, f"Bearer {secret}".encode() if secret else None)


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("nobody", Refusal.TOKEN_REQUIRED),
        ("somebody with a wrong token", Refusal.TOKEN_INVALID),
        ("revoked admin", Refusal.TOKEN_INVALID),
        ("expired admin", Refusal.TOKEN_EXPIRED),
        ("consumer", Refusal.OUT_OF_SCOPE),
        ("publisher of another topic", Refusal.OUT_OF_SCOPE),
    ],
)
def test_the_reason_of_a_refusal(closed: Credentials, who: str, why: Refusal) -> None:
    for _ in range(2):
        denied = denial(closed, who)
        assert denied is not None
        assert denied.why is why
        assert (denied.token is not None) == (why is Refusal.OUT_OF_SCOPE)


def test_a_token_that_was_used_is_revoked_at_the_next_look(closed: Credentials) -> None:
    file = closed.access.file
    assert file is not None
    token = file.tokens.by_name["publisher"]
    assert denial(closed, "publisher") is None
    assert closed.access.is_valid(token)
    remove(file.path, "publisher")
    assert denial(closed, "publisher") is None
    assert file.look()()
    assert denial(closed, "publisher") == Denial(Refusal.TOKEN_INVALID)
    assert not closed.access.is_valid(token)


def test_a_token_that_was_used_expires(closed: Credentials) -> None:
    now = NOW - 1
    closed.access.clock = lambda: now
    assert denial(closed, "expired admin") is None
    now = NOW
    assert denial(closed, "expired admin") == Denial(Refusal.TOKEN_EXPIRED)


def test_a_token_is_only_looked_at_where_it_is_needed(tmp_path: Path) -> None:
    access = make_credentials(tmp_path, Scopes.parse(["publish:orders"])).access
    assert access.denial(Need.PUBLISH, "orders", "", b"Bearer wrong") is None
    assert access.denial(Need.PUBLISH, "other", "", b"Bearer wrong") == Denial(Refusal.TOKEN_INVALID)


def test_the_headers_that_are_remembered_are_bounded_and_valid_ones(closed: Credentials) -> None:
    secret = closed.secrets["publisher"]
    for n in range(1500):
        pair = base64.b64encode(f"{n}:{secret}".encode())
        assert closed.access.denial(Need.PUBLISH, TOPIC, "", b"Basic " + pair) is None
        assert closed.access.denial(Need.PUBLISH, TOPIC, "", b"Bearer %d" % n) is not None
    assert len(closed.access._by_header) == 1000


@pytest.mark.parametrize(
    ("header", "secret"),
    [
        (b"Bearer nsq_x", b"nsq_x"),
        (b"bearer  nsq_x ", b"nsq_x"),
        (b"Basic " + base64.b64encode(b"user:nsq_x"), b"nsq_x"),
        (b"BASIC " + base64.b64encode(b":a:b"), b"a:b"),
        (b"Basic " + base64.b64encode(b"nsq_x"), b""),
        (b"Basic ***", None),
        (b"Basic", b""),
        (b"Digest x", None),
        (b"nsq_x", None),
        (b"", None),
    ],
)
def test_the_token_in_a_header(header: bytes, secret: bytes | None) -> None:
    assert secret_in(header) == secret


def test_the_next_expiry_is_noticed_once(closed: Credentials) -> None:
    now = NOW - 10
    closed.access.clock = lambda: now
    closed.access.plan_expiry()
    assert not closed.access.expired_meanwhile()
    now = NOW
    assert closed.access.expired_meanwhile()
    assert not closed.access.expired_meanwhile()


def test_what_the_operator_is_told_at_the_start() -> None:
    assert Access.load("none", "").open_to_all(["0.0.0.0:4151"]) == ""
    assert Access.load("admin", "").open_to_all([]) == ""
    assert Access.load("read,publish:a*", "").open_to_all(["a:1", "b:2"]) == (
        "everybody who reaches a:1, b:2 may do this: read,publish:a* (--anonymous; see docs/security.md)"
    )
    assert "may do everything" in Access().open_to_all(["a:1"])


def test_rules_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ScopeError):
        Access.load("everything", "")
    with pytest.raises(TokenFileError):
        Access.load("none", str(tmp_path / "none"))
