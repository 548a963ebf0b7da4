"""The flags of a command line, read by the rules of Go's flag package.

Rules:

- `-flag value`, `-flag=value`, `--flag value` and `--flag=value` are one and the same.
- A boolean takes a value only after `=`: in `-deflate false` the second word is an argument.
- Reading stops at the first word that is not a flag (`-` alone is none), and after `--`.
- Given twice, the last value wins; kinds that collect keep them all.
- Words are worked off from left to right, and the first mistake (or call for help) ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from nsqkit.options.kinds import FatalValueError
from nsqkit.options.option import Option

__all__ = ["FlagError", "HelpRequestedError", "ParsedFlags", "parse_flags"]

_HELP = ("help", "h")


class FlagError(Exception):
    """The command line has a mistake; the text is Go's line for it."""


class HelpRequestedError(Exception):
    """`-h` or `-help`, where no option of the program has that name."""


@attrs.frozen
class ParsedFlags:
    """What the command line said."""

    values: dict[str, Any]
    """By the options' fields; only those that were given."""
    arguments: list[str]
    """The words after the flags."""


def parse_flags(options: Iterable[Option], words: Sequence[str]) -> ParsedFlags:
    """Read a command line (without the program's name).

    Raises `FlagError` for a mistake, `HelpRequestedError`, and lets the `FatalValueError` of a kind through.
    """
    by_flag = {option.flag: option for option in options}
    values: dict[str, Any] = {}
    rest = list(reversed(words))
    while rest and _is_flag(rest[-1]):
        word = rest.pop()
        if word == "--":
            break
        name, equals, value = _split(word)
        option = _find(by_flag, name)
        if not equals and not option.kind.boolean:
            if not rest:
                raise FlagError(f"flag needs an argument: -{name}")
            value = rest.pop()
        elif not equals:
            value = "true"
        _set(values, option, value)
    return ParsedFlags(values, rest[::-1])


def _is_flag(word: str) -> bool:
    return len(word) >= 2 and word[0] == "-"


def _split(word: str) -> tuple[str, str, str]:
    name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
    if not name or name[0] == "-":
        raise FlagError(f"bad flag syntax: {word}")
    return name, equals, value


def _find(by_flag: dict[str, Option], name: str) -> Option:
    option = by_flag.get(name)
    if option is not None:
        return option
    if name in _HELP:
        raise HelpRequestedError
    raise FlagError(f"flag provided but not defined: -{name}")


def _set(values: dict[str, Any], option: Option, text: str) -> None:
    kind = option.kind
    try:
        value = kind.from_text(text)
    except FatalValueError:
        raise
    except ValueError as error:
        what = f"boolean value {_quoted(text)} for" if kind.boolean else f"value {_quoted(text)} for flag"
        raise FlagError(f"invalid {what} -{option.flag}: {error}") from None
    if kind.merge is not None and option.field in values:
        value = kind.merge(values[option.field], value)
    values[option.field] = value


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
