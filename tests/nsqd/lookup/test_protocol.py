"""The client's side of protocol V1, byte by byte."""

from __future__ import annotations

import json
import struct

import pytest

from nsqd.lookup.protocol import (
    Grant,
    HttpAddress,
    RegistryError,
    RegistryIdentity,
    Replies,
    check_reply,
    encode_followers,
    encode_grant,
    encode_identify,
    encode_leaving,
    encode_register,
    encode_release,
    encode_unregister,
    parse_grant,
    parse_identity,
)
from tests.nsqd.lookup.fake_registry import reply


def test_identify_has_sorted_keys() -> None:
    command = encode_identify({"version": "1", "broadcast_address": "b", "tcp_port": 4150, "http_port": 4151})
    body = b'{"broadcast_address":"b","http_port":4151,"tcp_port":4150,"version":"1"}'
    assert command == b"IDENTIFY\n" + struct.pack(">i", len(body)) + body


@pytest.mark.parametrize(
    ("command", "name", "body"),
    [
        (encode_followers(["a", "b"], 60.0, 300.0), b"FOLLOWERS",
         b'{"adopt_after_ms":60000,"followers":["a","b"],"restart_grace_ms":300000}'),
        (encode_followers([], 0.25, 1.0005), b"FOLLOWERS",
         b'{"adopt_after_ms":250,"followers":[],"restart_grace_ms":1000}'),
        (encode_leaving(for_good=True), b"LEAVING", b'{"for_good":true}'),
        (encode_leaving(for_good=False), b"LEAVING", b'{"for_good":false}'),
        (encode_grant("a"), b"GRANT", b'{"life":"a"}'),
        (encode_release("a"), b"RELEASE", b'{"life":"a"}'),
    ],
)  # fmt: skip
def test_commands_for_a_witness(command: bytes, name: bytes, body: bytes) -> None:
    assert command == name + b"\n" + struct.pack(">i", len(body)) + body


def test_names() -> None:
    assert encode_register("t") == b"REGISTER t\n"
    assert encode_register("t", "c#ephemeral") == b"REGISTER t c#ephemeral\n"
    assert encode_unregister("t") == b"UNREGISTER t\n"
    assert encode_unregister("t", "c") == b"UNREGISTER t c\n"


class TestReplies:
    @pytest.mark.parametrize("piece", [1, 2, 3, 5, 100])
    def test_in_pieces_of_any_size(self, piece: int) -> None:
        replies = Replies(100, awaited=4)
        data = reply(b"OK") + reply(b"") + reply(b'{"a":1}') + reply(b"E_INVALID x")
        got = [one for at in range(0, len(data), piece) for one in replies.feed(data[at : at + piece])]
        assert got == [b"OK", b"", b'{"a":1}', b"E_INVALID x"]
        assert replies.awaited == 0

    @pytest.mark.parametrize("size", [-1, -(2**31), 101, 2**31 - 1])
    def test_size_out_of_range(self, size: int) -> None:
        with pytest.raises(RegistryError, match=f"reply of {size} bytes, where 0 to 100 are allowed"):
            Replies(100, awaited=1).feed(struct.pack(">i", size))

    def test_largest_size(self) -> None:
        assert Replies(100, awaited=1).feed(reply(b"x" * 100)) == [b"x" * 100]

    @pytest.mark.parametrize("extra", [reply(b"OK"), b"\0"])
    def test_more_than_was_asked_for(self, extra: bytes) -> None:
        replies = Replies(100, awaited=1)
        with pytest.raises(RegistryError, match="not the reply to a command"):
            replies.feed(reply(b"OK") + extra)

    def test_unasked(self) -> None:
        with pytest.raises(RegistryError, match="not the reply to a command"):
            Replies(100).feed(b"\0")


class TestIdentity:
    def test_address(self) -> None:
        text = json.dumps({"broadcast_address": "r.example", "http_port": 4161, "more": [1]}).encode()
        assert parse_identity(text) == RegistryIdentity(HttpAddress("r.example", 4161))

    @pytest.mark.parametrize(
        "text",
        [b"{}", b'{"broadcast_address":"","http_port":1}', b'{"broadcast_address":"a","http_port":65536}'],
    )
    def test_nothing_of_use(self, text: bytes) -> None:
        assert parse_identity(text) == RegistryIdentity(None)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"OK",
            b"{",
            b"[]",
            b"null",
            b"\xff",
            b'{"http_port":"x"}',
            b'{"a":' * 20_000,
            b'{"http_port":1e400}',
        ],
    )
    def test_garbage(self, text: bytes) -> None:
        with pytest.raises(RegistryError, match="failed to parse"):
            parse_identity(text)

    @pytest.mark.parametrize(
        ("value", "witness"),
        [('"' + "a1" * 16 + '"', "a1" * 16), ('""', ""), ('"x"', ""), ('"' + "A1" * 16 + '"', "")],
    )
    def test_witness(self, value: str, witness: str) -> None:
        assert parse_identity(f'{{"witness":{value}}}'.encode()).witness == witness

    def test_over_tls_only_https_counts(self) -> None:
        both = b'{"broadcast_address":"r.example","http_port":4161,"https_port":4162}'
        assert parse_identity(both, secure=True).http == HttpAddress("r.example", 4162, secure=True)
        assert parse_identity(both).http == HttpAddress("r.example", 4161)
        assert parse_identity(b'{"broadcast_address":"a","http_port":4161}', secure=True).http is None

    def test_error(self) -> None:
        with pytest.raises(RegistryError, match=r"^E_INVALID$"):
            parse_identity(b"E_INVALID")


class TestGrant:
    def test_answers(self) -> None:
        assert parse_grant(b'{"granted":true,"reason":"why","more":1}') == Grant(granted=True, reason="why")
        assert parse_grant(b'{"granted":false}') == Grant(granted=False)

    @pytest.mark.parametrize(
        "text", [b"", b"OK", b"{}", b"[]", b'{"granted":1}', b'{"granted":"yes"}', b"\xff"]
    )
    def test_garbage_is_no_yes(self, text: bytes) -> None:
        with pytest.raises(RegistryError, match="failed to parse the reply to GRANT"):
            parse_grant(text)


def test_errors_are_told_by_their_text() -> None:
    check_reply(b"OK")
    with pytest.raises(RegistryError, match="E_BAD_TOPIC REGISTER"):
        check_reply(b"E_BAD_TOPIC REGISTER topic name")


def test_the_logged_part_of_an_error_is_bounded() -> None:
    with pytest.raises(RegistryError) as raised:
        check_reply(b"E_" + b"\xffx" * 5000)
    assert len(str(raised.value)) == 200
