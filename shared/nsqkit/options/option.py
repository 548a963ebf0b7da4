"""Declaring the options of a program: one attrs class, one `option()` for each field.

    @attrs.define(kw_only=True, eq=False)
    class Options:
        tcp_address: str = option("0.0.0.0:4160", group="Network", help="Where nsqd's connect.")
        tombstone_lifetime: int = option("45s", kind=DURATION, group="Registry", help="...")

The field's name gives the flag (`--tombstone-lifetime`) and the name in the configuration file and in
`/config` (`tombstone_lifetime`), unless told otherwise. The class is an ordinary one: tests make instances
with keywords, and a daemon changes an option at run time by assigning to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs

from nsqkit.logging import LogLevel
from nsqkit.options.kinds import (
    BOOL,
    FLOAT,
    INT,
    LOG_LEVEL,
    STRING,
    TLS_REQUIRED,
    TLS_VERSION,
    Kind,
    TlsRequired,
    TlsVersion,
)

__all__ = [
    "HIDDEN",
    "ConfigValue",
    "Option",
    "OptionError",
    "check_bounds",
    "find_option",
    "option",
    "option_value",
    "options_of",
]

HIDDEN = ""
"""As `config_name`: the option is only a flag, neither in the configuration file nor in `/config`."""

_METADATA_KEY = "nsqkit.option"
_KIND_OF_TYPE: dict[type, Kind] = {
    bool: BOOL,
    int: INT,
    float: FLOAT,
    str: STRING,
    LogLevel: LOG_LEVEL,
    TlsVersion: TLS_VERSION,
    TlsRequired: TLS_REQUIRED,
}


class OptionError(Exception):
    """Values of options that the program cannot run with; the text is for the user."""


@attrs.frozen(kw_only=True)
class Option:
    """What is known of an option beside its value."""

    field: str
    """Name of the attribute."""
    flag: str
    """Without dashes in front."""
    config_name: str
    """In the configuration file and in `/config`; `HIDDEN` for none."""
    kind: Kind
    help: str
    group: str
    placeholder: str
    minimum: int | None = None
    maximum: int | None = None


@attrs.frozen
class ConfigValue:
    """An option's value as it is now, with the kind that says how to show it."""

    kind: Kind
    value: Any


def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    group: str = "General",
    kind: Kind | None = None,
    factory: Callable[[], Any] | None = None,
    flag: str | None = None,
    config_name: str | None = None,
    placeholder: str | None = None,
    minimum: int | None = None,
    maximum: int | None = None,
) -> Any:
    """Declare a field of an options class.

    `default` is a value of the kind, or its text for a duration (`"1m"`); None means unset; left out for a
    kind that collects, it is the empty list. `factory` computes it when an instance is made. `kind` may be
    left out where the default's type tells it (bool, int, float, str, log level, TLS version, TLS
    required). `minimum` and `maximum` are what `check_bounds` holds ints and durations to.
    """
    if kind is None:
        kind = _kind_of(default)
    if factory is None and kind.merge is not None:
        values = () if default is attrs.NOTHING else tuple(default)
        factory = functools.partial(list, values)
    elif isinstance(default, str):
        default = kind.from_text(default)
    details = functools.partial(
        Option,
        kind=kind,
        help=help,
        group=group,
        placeholder=kind.placeholder if placeholder is None else placeholder,
        minimum=minimum,
        maximum=maximum,
    )
    metadata = {_METADATA_KEY: (details, flag, config_name)}
    if factory is not None:
        return attrs.field(factory=factory, metadata=metadata)
    return attrs.field(default=default, metadata=metadata)


def _kind_of(default: Any) -> Kind:
    kind = _KIND_OF_TYPE.get(type(default))
    if kind is None:
        raise TypeError(f"an option with the default {default!r} needs a kind")
    return kind


@functools.cache
def options_of(cls: type[attrs.AttrsInstance]) -> tuple[Option, ...]:
    """The options of a class in the order of their declaration."""
    return tuple(_completed(field) for field in attrs.fields(cls) if _METADATA_KEY in field.metadata)


def _completed(field: attrs.Attribute[Any]) -> Option:
    details, flag, config_name = field.metadata[_METADATA_KEY]
    made: Option = details(
        field=field.name,
        flag=field.name.replace("_", "-") if flag is None else flag,
        config_name=field.name if config_name is None else config_name,
    )
    return made


def find_option(cls: type[attrs.AttrsInstance], config_name: str) -> Option:
    """The option of this name in the configuration file; `KeyError` when there is none, or it is hidden."""
    if config_name != HIDDEN:
        for candidate in options_of(cls):
            if candidate.config_name == config_name:
                return candidate
    raise KeyError(config_name)


def option_value(options: attrs.AttrsInstance, config_name: str) -> ConfigValue:
    """What `/config/NAME` shows, in the values of the programs; `KeyError` for a name that is not visible."""
    found = find_option(type(options), config_name)
    return ConfigValue(found.kind, getattr(options, found.field))


def check_bounds(options: attrs.AttrsInstance) -> None:
    """Raise `OptionError` for the first value outside the minimum and maximum of its declaration."""
    for candidate in options_of(type(options)):
        value = getattr(options, candidate.field)
        if value is not None:
            _check_bound(candidate, value)


def _check_bound(candidate: Option, value: int) -> None:
    show = candidate.kind.to_text
    low, high = candidate.minimum, candidate.maximum
    too_low = low is not None and value < low
    too_high = high is not None and value > high
    if not too_low and not too_high:
        return
    if low is not None and high is not None:
        bounds = f"between {show(low)} and {show(high)}"
    elif low is not None:
        bounds = f"at least {show(low)}"
    else:
        bounds = f"at most {show(high)}"
    raise OptionError(f"--{candidate.flag} must be {bounds}, not {show(value)}")
