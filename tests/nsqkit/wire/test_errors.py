"""Error texts, error kinds, quoted names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqkit.wire import FATAL, ProtocolError, error_text, quote

NOT_FATAL = {"E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED"}
CODES = {
    "E_BAD_PROTOCOL", "E_INVALID", "E_BAD_BODY", "E_BAD_MESSAGE", "E_BAD_TOPIC", "E_BAD_CHANNEL", "E_IDENTIFY_FAILED",
    "E_SUB_FAILED", "E_PUB_FAILED", "E_MPUB_FAILED", "E_DPUB_FAILED", "E_AUTH_FIRST", "E_AUTH_DISABLED",
    "E_AUTH_FAILED", "E_UNAUTHORIZED", "E_AUTH_ERROR", "E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED",
}  # fmt: skip


def test_every_code_is_there() -> None:
    assert FATAL.keys() == CODES


@pytest.mark.parametrize("code", sorted(CODES))
def test_only_failed_answers_to_messages_are_survived(code: str) -> None:
    assert ProtocolError(code, "text").fatal == (code not in NOT_FATAL)


@pytest.mark.parametrize(
    ("code", "text", "payload"),
    [
        ("E_BAD_PROTOCOL", "", b"E_BAD_PROTOCOL"),
        ("E_INVALID", "invalid command ", b"E_INVALID invalid command "),
        ("E_INVALID", b"invalid command \xff\0", b"E_INVALID invalid command \xff\0"),
        ("E_BAD_TOPIC", "caf\u00e9", b"E_BAD_TOPIC caf\xc3\xa9"),
        ("E_INVALID", "\udcff", b"E_INVALID \xff"),
    ],
)
def test_payload(code: str, text: str | bytes, payload: bytes) -> None:
    assert error_text(code, text) == ProtocolError(code, text).payload == payload


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (b"", '""'),
        (b"topic#ephemeral", '"topic#ephemeral"'),
        (b"a b!", '"a b!"'),
        (b'a"b\\c', r'"a\"b\\c"'),
        (b"\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        (b"\x00\x01\x1b\x7f", r'"\x00\x01\x1b\x7f"'),
        (b"\xff\xc3", r'"\xff\xc3"'),
        (b"\xed\xa0\x80", r'"\xed\xa0\x80"'),  # a surrogate is no UTF-8
        ("caf\u00e9 \u4e16 \U0001f600".encode(), '"caf\u00e9 \u4e16 \U0001f600"'),
        ("\u00a0".encode(), r'"\u00a0"'),
        ("\u0085".encode(), r'"\u0085"'),
        ("\ufeff\u2028".encode(), r'"\ufeff\u2028"'),
        ("\U000e0001".encode(), r'"\U000e0001"'),
        ("\ufffd".encode(), '"\ufffd"'),
        (b"'", '"\'"'),
    ],
)
def test_quote(name: bytes, quoted: str) -> None:
    assert quote(name) == quoted


@settings(deadline=None)
@given(st.binary())
def test_a_quoted_name_is_one_printable_line(name: bytes) -> None:
    quoted = quote(name)
    assert quoted[0] == quoted[-1] == '"'
    assert quoted.isprintable()


@settings(deadline=None)
@given(st.binary(), st.binary())
def test_different_names_are_quoted_differently(one: bytes, other: bytes) -> None:
    assert (quote(one) == quote(other)) == (one == other)
