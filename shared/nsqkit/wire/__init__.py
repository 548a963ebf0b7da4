"""NSQ's wire protocol as data and pure functions: frames, names, commands, errors.

No socket, no event loop: bytes in, bytes out. The broker, the client library and the tests share it.
"""

from nsqkit.wire.commands import COMMANDS, MAGIC_V2, Command, State, parse_number
from nsqkit.wire.errors import FATAL, ProtocolError, error_text, quote
from nsqkit.wire.frames import (
    CLOSE_WAIT,
    HEARTBEAT,
    OK,
    FrameType,
    Message,
    decode_message,
    encode_error,
    encode_message,
    encode_response,
    split_frames,
    with_attempts,
)
from nsqkit.wire.names import EPHEMERAL, is_ephemeral, is_valid_name

__all__ = [
    "CLOSE_WAIT",
    "COMMANDS",
    "EPHEMERAL",
    "FATAL",
    "HEARTBEAT",
    "MAGIC_V2",
    "OK",
    "Command",
    "FrameType",
    "Message",
    "ProtocolError",
    "State",
    "decode_message",
    "encode_error",
    "encode_message",
    "encode_response",
    "error_text",
    "is_ephemeral",
    "is_valid_name",
    "parse_number",
    "quote",
    "split_frames",
    "with_attempts",
]
