"""JSON of peers: what is taken for a field and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from nsqkit.service.lenient_json import decode_object

FIELDS = {"name": str, "port": int, "on": bool}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"{}", {}),
        (b" null ", {}),
        (b'{"name":"a","port":1,"on":true}', {"name": "a", "port": 1, "on": True}),
        (b'{"NAME":"a","Port":-1,"oN":false}', {"name": "a", "port": -1, "on": False}),
        (b'{"other":[1.5,{"name":"b"}]}', {}),
        (b'{"name":"a","Name":"b"}', {"name": "b"}),
        (b'{"name":"a","Name":null}', {"name": "a"}),
        (b'{"name":""}', {"name": ""}),
        (b'{"name":"\\ud83d\\ude00\\udc00\xff"}', {"name": "\U0001f600\ufffd\ufffd"}),
        (b'{"port":9223372036854775807}', {"port": (1 << 63) - 1}),
        (b'{"port":-9223372036854775808}', {"port": -(1 << 63)}),
    ],
)
def test_taken(body: bytes, found: dict[str, Any]) -> None:
    decoded = decode_object(body, FIELDS)
    assert decoded == found
    assert all(type(decoded[name]) is FIELDS[name] for name in decoded)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"{}x", b"[]", b"1", b'"a"', b"true", b'{"x":NaN}', b'{"x":Infinity}', b"\xef\xbb\xbf{}",
        b'{"name":1}', b'{"name":[]}', b'{"port":"1"}', b'{"port":1.0}', b'{"port":1e3}', b'{"port":true}',
        b'{"port":9223372036854775808}', b'{"port":-9223372036854775809}', b'{"on":1}', b'{"on":"true"}',
        b'{"name":"a\nb"}', b"[" * 200_000, b'{"x":' + b"1" * 10_000 + b"}",
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
def test_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode_object(body, FIELDS)
