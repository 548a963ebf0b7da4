"""The errors of the V2 protocol: their codes, and whether they end the connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["FATAL", "ProtocolError", "error_text", "quote"]

FATAL: Final[Mapping[str, bool]] = {
    "E_INVALID": True,
    "E_BAD_PROTOCOL": True,
    "E_BAD_BODY": True,
    "E_BAD_MESSAGE": True,
    "E_BAD_TOPIC": True,
    "E_BAD_CHANNEL": True,
    "E_IDENTIFY_FAILED": True,
    "E_SUB_FAILED": True,
    "E_PUB_FAILED": True,
    "E_MPUB_FAILED": True,
    "E_DPUB_FAILED": True,
    "E_AUTH_FIRST": True,
    "E_AUTH_DISABLED": True,
    "E_AUTH_FAILED": True,
    "E_AUTH_ERROR": True,
    "E_UNAUTHORIZED": True,
    "E_FIN_FAILED": False,
    "E_REQ_FAILED": False,
    "E_TOUCH_FAILED": False,
}
"""Code -> whether the connection is closed after the error frame."""


class ProtocolError(Exception):
    """A command failed: becomes an error frame.

    `code` is a key of `FATAL`; `text` follows it on the wire, and may be empty.
    """

    def __init__(self, code: str, text: str | bytes = "") -> None:
        super().__init__(code, text)
        self.code = code
        self.payload = error_text(code, text)

    @property
    def fatal(self) -> bool:
        return FATAL[self.code]


def error_text(code: str, text: str | bytes) -> bytes:
    """The payload of an error frame: code, one space, description."""
    description = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return code.encode() + b" " + description if description else code.encode()


_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}


def quote(name: bytes) -> str:
    """A name in double quotes, as Go's `%q` prints it: printable characters are kept, the others escaped.

    >>> print(quote(b'a"b\\n\\xff'))
    "a\\"b\\n\\xff"
    """
    out = []
    for char in name.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char == " " or char.isprintable():
            out.append(char)
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'
