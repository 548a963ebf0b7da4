"""From the annotation of a field to the kind of its values and their placeholder in the help.

`bool`, `int`, `float`, `str`, `LogLevel`, `TlsVersion`, `TlsRequired`, `list[str]` and `list[float]` have a kind
by themselves, and so have these with `| None`. `Annotated[TYPE, KIND]` gives a kind of the program's own,
`Annotated[TYPE, "TEXT"]` only another placeholder. For type checkers all of them are the type alone.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from nsqkit.logging import LogLevel
from nsqkit.options.kinds import (
    BOOL,
    DURATION,
    FLOAT,
    FLOATS,
    INT,
    LOG_LEVEL,
    STRING,
    STRINGS,
    TLS_REQUIRED,
    TLS_VERSION,
    Kind,
    TlsRequired,
    TlsVersion,
)

__all__ = ["Address", "Bytes", "Duration", "FilePath", "Port", "Url", "read_annotation"]

Duration: TypeAlias = Annotated[int, DURATION]
"""Nanoseconds."""
Bytes: TypeAlias = Annotated[int, "BYTES"]
Port: TypeAlias = Annotated[int, "PORT"]
Address: TypeAlias = Annotated[str, "ADDRESS"]
FilePath: TypeAlias = Annotated[str, "PATH"]
Url: TypeAlias = Annotated[str, "URL"]

_KINDS: dict[Any, Kind] = {
    bool: BOOL,
    int: INT,
    float: FLOAT,
    str: STRING,
    LogLevel: LOG_LEVEL,
    TlsVersion: TLS_VERSION,
    TlsRequired: TLS_REQUIRED,
}
_KINDS_OF_LISTS = {STRING: STRINGS, FLOAT: FLOATS}


def read_annotation(hint: Any) -> tuple[Kind, str]:
    """The kind and the placeholder; `TypeError` for a type that has no kind."""
    if get_origin(hint) is Annotated:
        inner, note = get_args(hint)
        return (note, note.placeholder) if isinstance(note, Kind) else (read_annotation(inner)[0], note)
    if get_origin(hint) is types.UnionType:
        inner, none = get_args(hint)
        if none is types.NoneType:
            return read_annotation(inner)
    if get_origin(hint) is list:
        [item] = get_args(hint)
        of_item, placeholder = read_annotation(item)
        kind = _KINDS_OF_LISTS.get(of_item)
        if kind is not None:
            return kind, placeholder if get_origin(item) is Annotated else kind.placeholder
    elif hint in _KINDS:
        return _KINDS[hint], _KINDS[hint].placeholder
    raise TypeError(f"no kind of option for the annotation {hint!r}")
