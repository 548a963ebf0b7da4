"""Refusing values that a program cannot run with, once command line and file have been read."""

from __future__ import annotations

from typing import Any

import attrs

from nsqkit.options.daemon import DaemonOptions
from nsqkit.options.nearest import did_you_mean
from nsqkit.options.option import Option, options_of

__all__ = ["OptionError", "check_values", "refusal"]


class OptionError(Exception):
    """Values of options that the program cannot run with; the text is for the user."""


def refusal(options: attrs.AttrsInstance, field: str, reason: str) -> OptionError:
    """The error about the value of a field: the reason, and key and file if the value comes from a file."""
    origin = options.origins.get(field) if isinstance(options, DaemonOptions) else None
    return OptionError(f"{reason} ({origin})" if origin else reason)


def check_values(options: attrs.AttrsInstance) -> None:
    """Raise `OptionError` for the first value outside the minimum, maximum or choices of its declaration."""
    for candidate in options_of(type(options)):
        value = getattr(options, candidate.field)
        expected = None if value is None else _expected(candidate, value)
        if expected is not None:
            raise refusal(options, candidate.field, f"--{candidate.flag} must be {expected}")


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
