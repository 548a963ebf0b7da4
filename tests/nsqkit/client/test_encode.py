"""Commands as bytes."""

from __future__ import annotations

import json

import pytest

from nsqkit.wire import encode


def test_commands_are_the_documented_bytes() -> None:
    """Literal bytes of every command."""
    message_id = b"0123456789abcdef"
    assert encode.sub("t", "c#ephemeral") == b"SUB t c#ephemeral\n"
    assert encode.rdy(2500) == b"RDY 2500\n"
    assert encode.fin(message_id) == b"FIN 0123456789abcdef\n"
    assert encode.req(message_id, 90_000) == b"REQ 0123456789abcdef 90000\n"
    assert encode.touch(message_id) == b"TOUCH 0123456789abcdef\n"
    assert encode.pub("t", b"hello") == b"PUB t\n\0\0\0\5hello"
    assert encode.dpub("t", 250, b"hi") == b"DPUB t 250\n\0\0\0\2hi"
    assert encode.mpub("t", [b"a", b"bc"]) == b"MPUB t\n\0\0\0\x0f\0\0\0\2\0\0\0\1a\0\0\0\2bc"
    assert encode.auth("secret") == b"AUTH\n\0\0\0\6secret"
    assert (encode.CLS, encode.NOP) == (b"CLS\n", b"NOP\n")


def test_identify_is_json_with_its_size() -> None:
    """Size, then an object."""
    data = encode.identify({"client_id": "é"})
    head, body = data[:13], data[13:]
    assert head == b"IDENTIFY\n" + len(body).to_bytes(4, "big")
    assert json.loads(body) == {"client_id": "é"}


@pytest.mark.parametrize("name", ["", "a b", "a\nPUB b", "a\tb", "\0"])
def test_a_name_that_is_no_word_is_refused(name: str) -> None:
    """Nothing can be smuggled into the stream through a name."""
    with pytest.raises(ValueError, match="not a name"):
        encode.pub(name, b"x")
    with pytest.raises(ValueError, match="not a name"):
        encode.sub("t", name)


def test_what_would_misalign_the_stream_is_refused() -> None:
    """Empty bodies and batches, negative numbers."""
    with pytest.raises(ValueError, match="at least one byte"):
        encode.pub("t", b"")
    with pytest.raises(ValueError, match="at least one byte"):
        encode.mpub("t", [b"a", b""])
    with pytest.raises(ValueError, match="no message"):
        encode.mpub("t", [])
    with pytest.raises(ValueError, match="negative"):
        encode.dpub("t", -1, b"x")
    with pytest.raises(ValueError, match="negative"):
        encode.rdy(-1)
