"""Wrong arguments: the error names the parameter, the value, the rule, and the nearest right value."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nsqkit.client import Consumer, Producer
from tests.nsqkit.client.fake import both_backends, fake_nsqd, run

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_inflight": 3}, "there is no parameter or option 'max_inflight' (did you mean max_in_flight?)"),
    ({"msg_timeout": "60s"}, "msg_timeout is a number of seconds, not '60s' (did you mean 60?)"),
    ({"max_in_flight": "3"}, "max_in_flight is a whole number, not '3' (did you mean 3?)"),
    ({"max_in_flight": 3.0}, "max_in_flight is a whole number, not 3.0 (did you mean 3?)"),
    ({"max_in_flight": -1}, "max_in_flight must be between 0 and 1000000, not -1 (the nearest is 0)"),
    ({"snappy": "true"}, "snappy is True or False, not 'true' (did you mean True?)"),
    ({"auth_secret": b"x"}, "auth_secret is text, not b'x'"),
    (
        {"nsqd_tcp_addresses": "a:4150"},
        "nsqd_tcp_addresses is a list of addresses, not 'a:4150': write ['a:4150']",
    ),
    (
        {"nsqd_tcp_addresses": ["http://a:4151/"]},
        "nsqd_tcp_addresses: an address is host:port, not a URL: 'http://a:4151/' (did you mean 'a:4150'?)",
    ),
    (
        {"nsqd_tcp_addresses": ["tcp://a:4250"]},
        "nsqd_tcp_addresses: an address is host:port, not a URL: 'tcp://a:4250' (did you mean 'a:4250'?)",
    ),
    (
        {"nsqd_tcp_addresses": ["a"]},
        "nsqd_tcp_addresses: missing port in address 'a' (did you mean 'a:4150'?)",
    ),
    (
        {"nsqd_tcp_addresses": [b"a:1"]},
        "nsqd_tcp_addresses: an address is text, host:port, not b'a:1' (did you mean 'a:1'?)",
    ),
    (
        {"lookupd_http_addresses": ["a"]},
        "lookupd_http_addresses: missing port in address 'a' (did you mean 'a:4161'?)",
    ),
    (
        {"lookupd_http_addresses": "a:4161"},
        "lookupd_http_addresses is a list of addresses, not 'a:4161': write ['a:4161']",
    ),
]


@pytest.mark.parametrize(("wrong", "text"), WRONG)
@pytest.mark.parametrize("kind", [Consumer, Producer])
def test_a_wrong_argument_is_explained(kind: Any, wrong: dict[str, Any], text: str) -> None:
    """For consumers and producers alike."""
    names = ("t", "c") if kind is Consumer else ()
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(text)}$"):
        kind(*names, **({"nsqd_tcp_addresses": ["a:1"]} | wrong))


RULE = "a name has 1 to 64 of the characters .a-zA-Z0-9_-, and perhaps #ephemeral"


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("t" * 71, f"topic: '{'t' * 71}' has 71 characters; {RULE}"),
        ("my topic", f"topic: 'my topic' is not a topic name; {RULE} (did you mean 'my_topic'?)"),
        ("", f"topic: '' is not a topic name; {RULE}"),
        (b"t", "topic is text, not b't' (did you mean 't'?)"),
    ],
)
def test_a_wrong_name_is_explained(topic: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(text)}$"):
        Consumer(topic, "c", nsqd_tcp_addresses=["a:1"])


def test_a_handler_is_a_function() -> None:
    """Not what it returns."""
    with pytest.raises(TypeError, match="handler is a function, not 7"):
        Consumer("t", "c", nsqd_tcp_addresses=["a:1"], handler=7)  # type: ignore[arg-type]


@both_backends
def test_a_wrong_body_is_explained(backend: str) -> None:
    """And bytearrays and memoryviews are taken."""

    async def main() -> None:
        async with (
            fake_nsqd() as nsqd,
            Producer(nsqd_tcp_addresses=["a:1"], connect=nsqd.connect) as producer,
        ):
            with pytest.raises(
                TypeError, match=r"body is bytes, not the text 'x': encode it, as in text.encode"
            ):
                await producer.publish("t", "x")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="body is bytes, not dict"):
                await producer.publish_deferred("t", {}, 1)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="bodies is a list of bodies"):
                await producer.publish_multi("t", b"xyz")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="body is bytes, not int"):
                await producer.publish_multi("t", [1])  # type: ignore[list-item]
            await producer.publish("t", bytearray(b"x"))

    run(main, backend)
