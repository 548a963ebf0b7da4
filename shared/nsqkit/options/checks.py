"""Refusing values that a program cannot run with, once command line and file have been read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import attrs

from nsqkit.options.daemon import DaemonOptions
from nsqkit.options.nearest import did_you_mean
from nsqkit.options.option import Option, options_of

__all__ = ["OptionError", "check_listen_addresses", "check_target_addresses", "check_values", "refusal"]

_HOST_PORT: Final = re.compile(r"(?:\[[^\[\]]*\]|[^:\[\]/]*):([^:\[\]/]*)")
_SOCKET_SUFFIXES: Final = (".sock", ".socket")
_HIGHEST_PORT: Final = 65_535


class OptionError(Exception):
    """Values of options that the program cannot run with; the text is for the user."""


def refusal(options: attrs.AttrsInstance, field: str, reason: str) -> OptionError:
    """The error about the value of a field: the reason, and key and file if the value comes from a file."""
    origin = options.origins.get(field) if isinstance(options, DaemonOptions) else None
    return OptionError(f"{reason} ({origin})" if origin else reason)


def check_values(options: attrs.AttrsInstance) -> None:
    """Raise `OptionError` for the first value outside the minimum, maximum or choices of its declaration, and for
    values of what all daemons have in common that exclude one another.
    """
    for candidate in options_of(type(options)):
        value = getattr(options, candidate.field)
        expected = None if value is None else _expected(candidate, value)
        if expected is not None:
            raise refusal(options, candidate.field, f"--{candidate.flag} must be {expected}")
    if isinstance(options, DaemonOptions) and options.audit_required and options.audit_file in ("", "-"):
        reason = "--audit-required needs an --audit-file that is a file"
        raise refusal(options, "audit_required", reason)


def check_listen_addresses(options: attrs.AttrsInstance, *fields: str) -> None:
    """Raise `OptionError` for an address that is neither host and port nor clearly the path of a unix socket.

    A path has a slash, or ends in .sock or .socket. A port or a host alone, which would make a socket file of this name
    in the working directory, is refused. Empty values are allowed. Names are not resolved.
    """
    for field in fields:
        address = getattr(options, field)
        if not address or "/" in address or address.endswith(_SOCKET_SUFFIXES):
            continue
        if (match := _HOST_PORT.fullmatch(address)) is None:
            hint = f"; for this port on all interfaces write :{address}" if address.isdigit() else ""
            reason = f"{address!r} is not host:port, nor a path with a slash in it{hint}"
        elif match[1].isdigit() and not _is_port(match[1], lowest=0):
            reason = f"{address!r} has no port from 0 to {_HIGHEST_PORT}"
        else:
            continue
        raise refusal(options, field, f"--{field.replace('_', '-')}: {reason}")


def check_target_addresses(options: attrs.AttrsInstance, field: str, flag: str) -> None:
    """Raise `OptionError` if the value, or one of a list, is not host:port with a port that can be connected to.

    An empty single value is allowed. Names are not resolved.
    """
    value = getattr(options, field)
    addresses: Iterable[str] = value if isinstance(value, list) else [value] if value else []
    for address in addresses:
        match = _HOST_PORT.fullmatch(address)
        if match is None or address.startswith(":") or not _is_port(match[1], lowest=1):
            reason = f"{address!r} is not host:port with a port from 1 to {_HIGHEST_PORT}"
            raise refusal(options, field, f"--{flag}: {reason}")


def _is_port(text: str, lowest: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and lowest <= int(text) <= _HIGHEST_PORT


def _expected(candidate: Option, value: Any) -> str | None:
    """The end of the sentence "it must be ...", or None for a value that is allowed."""
    show = candidate.kind.to_text
    low, high, choices = candidate.minimum, candidate.maximum, candidate.choices
    if choices and value not in choices:
        listed = " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"
        return f"{listed}, not {value!r}{did_you_mean(value, choices)}"
    too_low = low is not None and value < low
    too_high = high is not None and value > high
    if not too_low and not too_high:
        return None
    if low is not None and high is not None:
        bounds = f"between {show(low)} and {show(high)}"
    elif low is not None:
        bounds = f"at least {show(low)}"
    else:
        bounds = f"at most {show(high)}"
    return f"{bounds}, not {show(value)}"
