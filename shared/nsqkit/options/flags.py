"""The flags of a command line, read by the rules of Go's flag package.

Rules:

- `-flag value`, `-flag=value`, `--flag value` and `--flag=value` are equivalent.
- A boolean takes a value only after `=`: in `-deflate false` the second word is an argument.
- Reading stops at the first word that is not a flag (`-` alone is none), and after `--`.
- Given twice, the last value wins; kinds with `merge` keep all values.
- Words are processed from left to right; the first mistake, or a request for help, ends it.

Unlike in the original, words after the flags are a mistake, because everything after them would be ignored; no
program here takes any.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from nsqkit.options.kinds import FatalValueError
from nsqkit.options.nearest import did_you_mean
from nsqkit.options.option import Option

__all__ = ["FlagError", "HelpRequestedError", "ParsedFlags", "parse_flags"]

_HELP = ("help", "h")


class FlagError(Exception):
    """A mistake on the command line; the text begins with Go's line for it."""


class HelpRequestedError(Exception):
    """`-h` or `-help`, in a program that has no option of that name."""


@attrs.frozen
class ParsedFlags:
    """The content of a command line."""

    values: dict[str, Any]
    """By the options' fields; only those that were given."""
    arguments: list[str]
    """The words after the flags."""
    before_arguments: Option | None
    """The flag right before these words, if it is a boolean without a value."""

    def check_no_arguments(self) -> None:
        """Raise `FlagError` if there are any."""
        if not self.arguments:
            return
        hint = ""
        if self.before_arguments is not None:
            hint = _hint_for_boolean(self.before_arguments, self.arguments[0])
        raise FlagError(f"unknown arguments: [{' '.join(self.arguments)}]{hint}")


def parse_flags(options: Iterable[Option], words: Sequence[str]) -> ParsedFlags:
    """Read a command line (without the program's name).

    Raises `FlagError` for a mistake and `HelpRequestedError`; the `FatalValueError` of a kind is passed through.
    """
    by_flag = {option.flag: option for option in options}
    values: dict[str, Any] = {}
    rest = list(reversed(words))
    bare: Option | None = None
    while rest and _is_flag(rest[-1]):
        word = rest.pop()
        if word == "--":
            bare = None
            break
        name, equals, value = _split(word)
        option = _find(by_flag, name)
        bare = option if option.kind.boolean and not equals else None
        if bare is not None:
            value = "true"
        elif not equals:
            if not rest:
                raise FlagError(f"flag needs an argument: -{name}")
            value = rest.pop()
        _set(values, option, value)
    return ParsedFlags(values, rest[::-1], bare)


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
    spellings = {option.config_name.replace("_", "-"): f"--{flag}" for flag, option in by_flag.items()}
    spellings |= {flag: f"--{flag}" for flag in by_flag}
    raise FlagError(f"flag provided but not defined: -{name}{did_you_mean(name, spellings, spellings)}")


def _set(values: dict[str, Any], option: Option, text: str) -> None:
    kind = option.kind
    try:
        value = kind.from_text(text)
    except FatalValueError:
        raise
    except ValueError as error:
        what = f"boolean value {_quoted(text)} for" if kind.boolean else f"value {_quoted(text)} for flag"
        hint = did_you_mean(text, kind.words)
        raise FlagError(f"invalid {what} -{option.flag}: {error}{hint}") from None
    if kind.merge is not None and option.field in values:
        value = kind.merge(values[option.field], value)
    values[option.field] = value


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _hint_for_boolean(option: Option, word: str) -> str:
    try:
        option.kind.from_text(word)
    except ValueError:
        return f" (-{option.flag} takes no value)"
    return f" (write -{option.flag}={word})"
