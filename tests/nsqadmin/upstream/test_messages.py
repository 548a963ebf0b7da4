"""The response to `/channel/peek`, whatever it may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nsqadmin.upstream.messages import body_of, decode_extent, decode_messages
from nsqkit.decoding import DecodeError

MESSAGE: dict[str, Any] = {
    "seq": 7,
    "id": "0123456789abcdef",
    "timestamp": 1_790_000_000_000_000_000,
    "size": 3,
    "truncated": False,
    "encoding": "text",
    "body": "abc",
    "attempts": 2,
    "due": None,
    "delay": None,
    "consumer": {"client_id": "c", "hostname": "h", "remote_address": "10.0.0.7:5000"},
}


def page(**changes: Any) -> bytes:
    message = {**MESSAGE, **changes}
    return json.dumps({"count": 1, "examined": 1, "next": None, "messages": [message]}).encode()


def test_a_page() -> None:
    found = decode_messages(page())
    (message,) = found.messages
    assert (found.count, found.examined, found.next) == (1, 1, None)
    assert (message.seq, message.id, message.attempts, body_of(message)) == (7, MESSAGE["id"], 2, b"abc")
    assert message.consumer is not None
    assert message.consumer.hostname == "h"


def test_bodies_in_base64() -> None:
    (message,) = decode_messages(page(encoding="base64", body="/wA=")).messages
    assert body_of(message) == b"\xff\x00"
    (message,) = decode_messages(page(encoding="base64", body="broken base64")).messages
    assert body_of(message) == b""


def test_a_message_that_cannot_be_read() -> None:
    nothing = dict.fromkeys(("id", "timestamp", "size", "truncated", "encoding", "body", "consumer"))
    (message,) = decode_messages(page(**nothing)).messages
    assert (message.id, body_of(message)) == (None, b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 1 << 64},
        {"id": "short"},
        {"id": "<script>alert(1)"[:15]},
        {"id": "0123456789abcde\n"},
        {"encoding": "rot13"},
        {"body": 7},
        {"consumer": {"hostname": "h" * 2000}},
    ],
)
def test_what_is_no_page_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        decode_messages(page(**changes))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"count":1,"examined":1,"messages":{}}', b"[" * 100_000]
)
def test_other_responses_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_messages(data)


def test_what_is_there_for_replays() -> None:
    found = decode_extent(
        b'{"topic":"t","channel":"c","oldest":"2026-12-01T08:00:00Z","timestamp":1,"since_ever":true}'
    )
    assert (found.oldest, found.since_ever) == ("2026-12-01T08:00:00Z", True)
    assert decode_extent(b'{"oldest":null}').oldest is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"oldest":1}', b'{"oldest":"' + b"x" * 2000 + b'"}'])
def test_what_is_no_answer_about_replays(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_extent(data)
