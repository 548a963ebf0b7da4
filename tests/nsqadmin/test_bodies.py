"""Bodies as the console shows them."""

from __future__ import annotations

import gzip
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.bodies import MAX_SHOWN, preview, shown_body


@pytest.mark.parametrize(
    ("body", "form", "text"),
    [
        (b'{"a":[1,2.5,null]}', "JSON", '{\n  "a": [\n    1,\n    2.5,\n    null\n  ]\n}'),
        ('"ü"'.encode(), "JSON", '"ü"'),
        (b"42", "JSON", "42"),
        (b"plain <b>text</b>", "text", "plain <b>text</b>"),
        ("a\tü\r\nb".encode(), "text", "a\tü\r\nb"),
        (b"{not json", "text", "{not json"),
        (b"[" * 100_000, "text", "[" * MAX_SHOWN),
        (msgspec.msgpack.encode({"a": [1, None], "ü": 2.5}), "MessagePack", None),
        (msgspec.msgpack.encode({1: b"\xff\x00"}), "MessagePack", None),
        (b"\x93\x01\x02\x03", "MessagePack", "[\n  1,\n  2,\n  3\n]"),
        (b"\x91" * 100_000, "binary", None),
        (b"\x00\xff", "binary", "000000  00 ff                                            .."),
        (b"\xc1rest", "binary", None),
        (gzip.compress(b'{"a":1}', mtime=0), "JSON in gzip", '{\n  "a": 1\n}'),
        (gzip.compress(gzip.compress(b"deep", mtime=0), mtime=0), "binary in gzip", None),
        (b"\x1f\x8bnone", "binary", None),
    ],
)
def test_what_a_body_is_taken_for(body: bytes, form: str, text: str | None) -> None:
    shown = shown_body(body)
    assert shown.format == form
    if text is not None:
        assert shown.text == text
    assert shown.is_cut is (len(body) > 50_000)


def test_message_pack_is_shown_as_json() -> None:
    value = {"name": "ü", "tags": ["a"], "n": 1}
    assert json.loads(shown_body(msgspec.msgpack.encode(value)).text) == value


def test_a_body_of_which_only_the_beginning_is_there() -> None:
    assert shown_body(b'{"a":1}', is_cut=True).format == "text"
    letter = "ü".encode()
    cut = shown_body(b"text " + letter[:1], is_cut=True)
    assert (cut.format, cut.text, cut.is_cut) == ("text", "text ", True)
    packed = gzip.compress(b"x" * 1000 + bytes(range(256)) * 40)
    assert shown_body(packed[: len(packed) // 2], is_cut=True).is_cut


def test_what_expands_is_bounded() -> None:
    shown = shown_body(gzip.compress(b"x" * 50_000_000))
    assert (shown.format, len(shown.text), shown.is_cut) == ("text in gzip", MAX_SHOWN, True)


def test_a_preview_is_one_short_line() -> None:
    assert preview(shown_body(b'{"a": {"b": 1}}')) == '{ "a": { "b": 1 } }'
    assert len(preview(shown_body(b"word " * 1000))) <= 120


@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_any_body_is_shown(body: bytes, is_cut: bool) -> None:
    shown = shown_body(body, is_cut=is_cut)
    assert shown.format
    assert len(shown.text) <= 100_000
