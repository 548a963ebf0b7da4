"""JSON and TOML from outside: whatever the text is, it is a value or a `DecodeError`; and everybody decodes it here."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.api import action_handlers
from nsqadmin.bodies import shown_body
from nsqadmin.graphite import _first_value
from nsqadmin.upstream.audit import decode_audit
from nsqadmin.upstream.copies import read_copies
from nsqadmin.upstream.decoding import decode_stats
from nsqadmin.upstream.draining import read_draining
from nsqadmin.upstream.messages import decode_messages
from nsqd.auth.state import AuthFailed
from nsqd.http.limits import _changes
from nsqd.http.message_filter import MessageFilter
from nsqd.importing import ImportRefused
from nsqd.importing.journal import JOURNAL, Journal
from nsqd.importing.source import _read_metadata
from nsqd.lookup.known_nodes import parse_nodes
from nsqd.lookup.protocol import RegistryError, parse_identity
from nsqd.options import NsqdOptions
from nsqd.protocol_v2.identify import _fields
from nsqd.replication.finished_elsewhere import read_line
from nsqd.replication.keep import CopyNote
from nsqd.replication.placement import Placed
from nsqd.replication.scrub import ScrubNote
from nsqd.replication.seal import SEAL, Seal
from nsqd.replication.unasked import Unasked
from nsqd.rules import SettingsError, changed
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit import discovery
from nsqkit.access import TokenError, Tokens
from nsqkit.audit import AuditQuery, read_tail
from nsqkit.client import Json
from nsqkit.client.protocol import Features, ProtocolViolation
from nsqkit.decoding import DecodeError, decode_json, decode_toml, first_json_value
from nsqkit.http_client import Answer, https_url
from nsqkit.options.config_file import ConfigFileError, ConfigValueError, read_config_file
from nsqkit.options.option import options_of
from nsqkit.service.http import HttpError, Response
from nsqkit.service.http.audit import _code_of
from nsqkit.service.http.config import read_addresses
from nsqkit.service.typed_json import convert, decode_json_as, encode_json
from nsqkit.wire import ProtocolError
from nsqlookupd.protocol_v1 import _producer_info
from nsqtools.nsq_to_nsq.json_filter import Dropped, _read_object
from tests.nsqd.auth.answers import parsed
from tests.test_walls import PROJECT, files_in

DEEP = 20_000
HUGE = "1" * 20_000
VALUES = {
    "deep arrays": "[" * DEEP,
    "deep closed arrays": "[" * DEEP + "]" * DEEP,
    "deep objects": '{"a":' * DEEP,
    "huge integer": HUGE,
    "huge negative integer": f"-{HUGE}",
    "huge float": f"{HUGE}.5",
    "huge exponent": "1e999999999",
    "small exponent": "1e-999999999",
    "above 64 bits": str(1 << 64),
    "above 63 bits": str(1 << 63),
    "large float": "1e308",
    "not a number": "NaN",
    "infinity": "-Infinity",
    "surrogate": '"\\ud800"',
    "other surrogate": '"a\\uDFFFb"',
    "null": "null",
    "true": "true",
    "text": '"x"',
    "empty": "",
    "object": "{}",
    "list": "[1]",
}
KEYS = [
    *("http_port", "tcp_port", "https_port", "ttl", "heartbeat_interval", "sample_rate", "max_rdy_count"),
    *("msg_timeout", "start_time", "topics", "producers", "channels", "data", "draining", "topic", "x"),
    "broadcast_address",
]
TEXTS = {
    **{name: value.encode() for name, value in VALUES.items()},
    **{
        f"{name} as all fields": ("{" + ",".join(f'"{key}":{value}' for key in KEYS) + "}").encode()
        for name, value in VALUES.items()
        if value
    },
    "not UTF-8": b'{"topic":"\xff\xfe"}',
    "UTF-16": json.dumps({"topic": "x"}).encode("utf-16"),
    "NUL": b"\0" * 1000,
    "mark": b"\xef\xbb\xbf{}",
}


def error_of(call: Callable[[], object], *expected: type[Exception]) -> str | None:
    """The text of the expected error; None if there was none."""
    try:
        call()
    except expected as error:
        return str(error) or type(error).__name__
    return None


def decode_and_encode(decode: Callable[[bytes], Any], text: bytes) -> None:
    value = decode(text)
    assert encode_json(value)
    json.dumps(value).encode()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("type_", [None, object, dict])
def test_a_text_is_a_value_that_can_be_encoded_or_an_error(text: bytes, type_: type | None) -> None:
    def decode(text: bytes) -> Any:
        return decode_json(text) if type_ is None else decode_json_as(text, type_)

    error = error_of(lambda: decode_and_encode(decode, text), DecodeError)
    assert error is None or 0 < len(error) < 1000


@given(st.text() | st.binary())
def test_any_text_is_a_value_or_an_error(text: str | bytes) -> None:
    error_of(lambda: decode_json(text), DecodeError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"18446744073709551615", (1 << 64) - 1),
        (b"18446744073709551616", float(1 << 64)),
        (b"-9223372036854775808", -1 << 63),
        (b"[1e308]", [1e308]),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'{"\\ud800":["\\udc00"]}', {"\ufffd": ["\ufffd"]}),
        (b'"\xff"', "\ufffd"),
    ],
)
def test_values_are_those_that_go_decodes(text: bytes, value: object) -> None:
    found = decode_json(text)
    assert (found, type(found)) == (value, type(value))


def test_the_first_value_is_cut_off() -> None:
    assert first_json_value('{"a":[1]} and more') == '{"a":[1]}'
    for name, text in VALUES.items():
        if "closed" in name or "huge" in name:
            with pytest.raises(DecodeError):
                first_json_value(text)


def test_types_are_checked_and_integers_are_of_64_bits() -> None:
    assert decode_json_as(b'{"a":9223372036854775808}', dict) == {"a": 1 << 63}
    for text in (b'{"a":18446744073709551616}', b'{"a":[[%d]]}' % 10**30):
        with pytest.raises(DecodeError, match="out of range"):
            decode_json_as(text, dict)
    assert decode_json_as(b'"1234567890123456789012345"', str) == "1234567890123456789012345"
    with pytest.raises(DecodeError, match="Expected `str`"):
        convert([1], list[str])


def test_sums_of_any_size_are_encoded() -> None:
    @attrs.frozen
    class Sum:
        depth: int

    assert encode_json([Sum(1 << 70), {"a": -1 << 70}]) == b'[{"depth":%d},{"a":%d}]' % (1 << 70, -1 << 70)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * DEEP,
        "a = " + HUGE,
        "a = 0x" + "f" * DEEP,
        "a = 1e999",
        "[" * DEEP,
        "a." * DEEP + "b = 1",
    ],
)
def test_toml_is_a_table_or_an_error(text: str) -> None:
    error_of(lambda: decode_toml(text), DecodeError)


# --- all who decode something from outside


def _config_file(text: bytes, folder: Path) -> object:
    path = folder / "options.toml"
    path.write_bytes(text)
    return read_config_file(str(path), options_of(NsqdOptions))


def _journal(text: bytes, folder: Path) -> object:
    storage = MemoryStorage()
    storage.replace(JOURNAL, text)
    return Journal.load(storage)


def _metadata(text: bytes, folder: Path) -> object:
    path = folder / "nsqd.dat"
    path.write_bytes(text)
    return _read_metadata(str(path))


def _copy_note(text: bytes, folder: Path) -> object:
    storage = MemoryStorage()
    storage.replace("nsqd.copy", text)
    return CopyNote.read(storage)


def _seal(text: bytes, folder: Path) -> object:
    storage = MemoryStorage()
    storage.replace(SEAL, text)
    return Seal.read(storage)


def _unasked(text: bytes, folder: Path) -> object:
    storage = MemoryStorage()
    storage.replace("nsqd.unasked", text)
    return Unasked(storage).doubts("a:1")


def _placed(text: bytes, folder: Path) -> object:
    storage = MemoryStorage()
    storage.replace("nsqd.followers", text)
    return Placed.read(storage)


def _scrub(text: bytes, folder: Path) -> object:
    storage = MemoryStorage()
    storage.replace("nsqd.scrub", text)
    return ScrubNote.read(storage)


@attrs.define
class _Request:
    body: bytes


def _action(text: bytes, folder: Path) -> object:
    return action_handlers._decode(_Request(text), "topic", "channel")  # type: ignore[arg-type]


def _nodes(text: bytes, folder: Path) -> object:
    answer = discovery._parse(200, text, "lookup")
    nodes = discovery._merged_nodes([answer])
    assert all(1 <= node.tcp_port <= 65535 for node in nodes)
    return nodes


User = Callable[[bytes, Path], object]


def _audit_file(text: bytes, folder: Path) -> object:
    path = folder / "audit"
    path.write_bytes(text + b'\n{"time":"2026-12-01T16:00:00.000000Z","what":"x","on":{"a":%b}}\n' % text)
    return encode_json(read_tail(path, AuditQuery()).lines)


def _filtered(text: bytes) -> bool:
    return MessageFilter(values=[(["a"], text.decode("utf-8", "replace"))]).matches(text)


USERS: dict[str, tuple[User, tuple[type[Exception], ...]]] = {
    "nsqd/auth/state.py": (lambda text, _: parsed(text, 0.0), (AuthFailed,)),
    "nsqd/lookup/protocol.py": (lambda text, _: parse_identity(text), (RegistryError,)),
    "nsqd/lookup/known_channels.py": (lambda text, _: decode_json_as(text, dict), (DecodeError,)),
    "nsqd/http/limits.py": (
        lambda text, _: changed({}, _changes(text), of_channel=False),
        (HttpError, SettingsError),
    ),
    "nsqd/http/message_filter.py": (lambda text, _: _filtered(text), ()),
    "nsqd/lookup/known_nodes.py": (lambda text, _: parse_nodes(text), (DecodeError,)),
    "nsqd/protocol_v2/identify.py": (lambda text, _: _fields(text), (ProtocolError,)),
    "nsqd/importing/journal.py": (_journal, (ImportRefused,)),
    "nsqd/importing/source.py": (_metadata, (ImportRefused,)),
    "nsqlookupd/protocol_v1.py": (lambda text, _: _producer_info(text, "r:1"), (ProtocolError,)),
    "nsqadmin/upstream/decoding.py": (lambda text, _: decode_stats(text, clients=True), (DecodeError,)),
    "nsqadmin/upstream/messages.py": (lambda text, _: decode_messages(text), (DecodeError,)),
    "nsqadmin/upstream/audit.py": (lambda text, _: decode_audit(text), (DecodeError,)),
    "nsqadmin/bodies.py": (lambda text, _: shown_body(text), ()),
    "nsqadmin/upstream/copies.py": (lambda text, _: read_copies(msgspec.Raw(text)), ()),
    "nsqd/replication/keep.py": (_copy_note, ()),
    "nsqd/replication/placement.py": (_placed, ()),
    "nsqd/replication/scrub.py": (_scrub, ()),
    "nsqd/replication/seal.py": (_seal, ()),
    "nsqd/replication/unasked.py": (_unasked, ()),
    "nsqd/replication/finished_elsewhere.py": (lambda text, _: read_line(text), (ValueError,)),
    "nsqadmin/upstream/draining.py": (lambda text, _: read_draining(msgspec.Raw(text)), ()),
    "nsqadmin/graphite.py": (lambda text, _: _first_value(text), (LookupError, TypeError, ValueError)),
    "nsqadmin/api/action_handlers.py": (_action, (HttpError,)),
    "nsqtools/nsq_to_nsq/json_filter.py": (lambda text, _: _read_object(text), (Dropped,)),
    "nsqtools/fetch.py": (lambda text, _: decode_json(text), (DecodeError,)),
    "shared/nsqkit/audit/reader.py": (_audit_file, ()),
    "shared/nsqkit/access/shared_file.py": (lambda text, _: Tokens.parse(text), (TokenError,)),
    "shared/nsqkit/discovery.py": (_nodes, (ValueError,)),
    "shared/nsqkit/client/codecs.py": (lambda text, _: Json().decode(text), (ValueError,)),
    "shared/nsqkit/client/protocol.py": (lambda text, _: Features.parse(text), (ProtocolViolation,)),
    "shared/nsqkit/http_client.py": (lambda text, _: https_url("http://a/", Answer(403, [], text)), ()),
    "shared/nsqkit/options/config_file.py": (_config_file, (ConfigFileError, ConfigValueError)),
    "shared/nsqkit/service/http/audit.py": (lambda text, _: _code_of(Response(400, text)), ()),
    "shared/nsqkit/service/http/config.py": (lambda text, _: read_addresses(text, ["a:1"]), (ValueError,)),
}
"""Every module that decodes: what it does with a text, and its own errors."""
HELPERS = (
    "shared/nsqkit/decoding.py",
    "shared/nsqkit/service/typed_json.py",
    "shared/nsqkit/service/lenient_json.py",
)
DECODERS = {
    "decode_bounded",
    "decode_json",
    "decode_json_as",
    "decode_object",
    "decode_toml",
    "first_json_value",
}
FORBIDDEN = {
    "json": {"loads", "load", "JSONDecoder"},
    "msgspec": {"convert"},
    "msgspec.json": {"decode", "Decoder"},
    "tomllib": {"loads", "load"},
    "msgpack": {"unpackb", "unpack", "Unpacker"},
}
OWN_FILES = {"nsqd/log/origin.py", "nsqd/log/records.py", "nsqd/replication/wire.py"}
"""The first reads what this project has written itself, after its checksum; the second is the one place that decodes
msgpack of others (`tests/nsqd/replication/test_wire.py`)."""


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", USERS)
def test_every_user_has_only_its_own_errors(name: str, text: bytes, tmp_path: Path) -> None:
    use, errors = USERS[name]
    error = error_of(lambda: use(text, tmp_path), *errors)
    assert error is None or len(error) < 2000


def _calls(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file refers to."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute | ast.Name):
            yield ast.unparse(node)


def _sources() -> Iterator[tuple[str, Path]]:
    for path in files_in("nsqd", "nsqlookupd", "nsqadmin", "nsqtools", "shared/nsqkit"):
        yield str(path.relative_to(PROJECT)), path


def test_nobody_decodes_by_other_means() -> None:
    forbidden = {f"{module}.{name}" for module, names in FORBIDDEN.items() for name in names}
    for name, path in _sources():
        if name not in {*HELPERS, *OWN_FILES}:
            assert not forbidden.intersection(_calls(path)), name
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    imported = {alias.name for alias in node.names}
                    assert not imported & FORBIDDEN.get(node.module or "", set()), name


def test_every_user_is_listed_here() -> None:
    users = {name for name, path in _sources() if DECODERS.intersection(_calls(path))}
    assert users - set(HELPERS) == set(USERS)
