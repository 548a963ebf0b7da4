"""Declaring the options of a program: one attrs class, one `option()` for each field.

    @attrs.define(kw_only=True)
    class Options:
        NETWORK: ClassVar = Group("Network")

        tcp_address: Address = option("0.0.0.0:4160", help="Address for nsqds.")

        REGISTRY: ClassVar = Group("Registry")

        tombstone_lifetime: Duration = option(45 * SECOND, minimum=0, help="...")

The field's name gives the flag (`--tombstone-lifetime`) and the name in the configuration file and in
`/config` (`tombstone_lifetime`), unless told otherwise. Its annotation gives the kind of its values and the
placeholder in the help: see `annotations.py`. Its group in the help is the `Group` above it in the class. The
class is an ordinary one: tests make instances with keywords, and a daemon changes an option at run time by
assigning to it.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import attrs

from nsqkit.options.annotations import read_annotation
from nsqkit.options.kinds import Kind

__all__ = [
    "GENERAL",
    "HIDDEN",
    "NO_EFFECT",
    "ConfigValue",
    "Group",
    "Option",
    "Tables",
    "find_option",
    "option",
    "option_value",
    "options_of",
    "tables",
    "tables_of",
]

HIDDEN: Final = ""
"""As `config_name`: the option is only a flag, neither in the configuration file nor in `/config`."""

ValueT = TypeVar("ValueT")
_METADATA_KEY = "nsqkit.option"
_TABLES_KEY = "nsqkit.tables"
_NOT_GIVEN: Any = attrs.NOTHING


@attrs.frozen
class Group:
    """A heading in the help, for the options that follow it in the class, up to the next one."""

    title: str


GENERAL: Final = Group("General")
"""Of the options before the first heading of a class."""
NO_EFFECT: Final = Group("Accepted without effect")
"""Options of the original that change nothing here. They come last in the help. The configuration file may have
them, even those that are `HIDDEN`."""


@attrs.frozen(kw_only=True)
class Option:
    """What is known of an option besides its value."""

    field: str
    """Name of the attribute."""
    flag: str
    """Without leading dashes."""
    config_name: str
    """In the configuration file and in `/config`; `HIDDEN` for none."""
    kind: Kind
    help: str
    group: str
    """Title of its group in the help."""
    placeholder: str
    """For the value, in the help."""
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    """The only values, if there are any here."""

    @property
    def no_effect(self) -> bool:
        """Whether the value changes nothing."""
        return self.group == NO_EFFECT.title


@attrs.frozen
class ConfigValue:
    """The current value of an option, with the kind that says how to show it."""

    kind: Kind
    value: Any


def option(
    default: ValueT = _NOT_GIVEN,
    *,
    help: str,
    factory: Callable[[], ValueT] | None = None,
    flag: str | None = None,
    config_name: str | None = None,
    placeholder: str | None = None,
    minimum: int | None = None,
    maximum: int | None = None,
    choices: Iterable[str] = (),
) -> ValueT:
    """Declare a field of an options class.

    `default` is a value of the field's type; None means unset. `factory` computes it when an instance is made.
    Without either, the default is an empty list. `minimum`, `maximum` (of ints and durations) and `choices` (of
    texts) are enforced by `check_values`, not when the command line is read.
    """
    details = {
        "help": help,
        "flag": flag,
        "config_name": config_name,
        "placeholder": placeholder or "|".join(choices) or None,
        "minimum": minimum,
        "maximum": maximum,
        "choices": tuple(choices),
    }
    metadata = {_METADATA_KEY: {name: value for name, value in details.items() if value is not None}}
    if factory is None and default is attrs.NOTHING:
        return attrs.field(factory=list, metadata=metadata)  # type: ignore[return-value]
    if factory is not None:
        return attrs.field(factory=factory, metadata=metadata)
    return attrs.field(default=default, metadata=metadata)


@attrs.frozen(kw_only=True)
class Tables:
    """An array of tables `[[key]]` of the configuration file, which no flag can replace."""

    field: str
    """Name of the attribute."""
    key: str
    parse: Callable[[list[dict[str, Any]]], Any]
    """From all of its tables; `ValueError` has the whole reason."""
    help: str
    example: str
    """Tables as they may be in the file."""


def tables(
    default: ValueT, *, key: str, parse: Callable[[list[dict[str, Any]]], ValueT], help: str, example: str
) -> ValueT:
    """Declare a field of an options class that the tables `[[key]]` of the configuration file make."""
    metadata = {_TABLES_KEY: {"key": key, "parse": parse, "help": help, "example": example}}
    return attrs.field(default=default, metadata=metadata)


def tables_of(cls: type[attrs.AttrsInstance]) -> tuple[Tables, ...]:
    """The arrays of tables of a class, in the order of their declaration."""
    return tuple(
        Tables(field=field.name, **field.metadata[_TABLES_KEY])
        for field in attrs.fields(cls)
        if _TABLES_KEY in field.metadata
    )


@functools.cache
def options_of(cls: type[attrs.AttrsInstance]) -> tuple[Option, ...]:
    """The options of a class in the order of their declaration, those of its base classes first."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = attrs.fields_dict(cls)
    found: list[Option] = []
    for base in reversed(cls.__mro__):
        group = GENERAL
        for name in inspect.get_annotations(base):
            heading, field = vars(base).get(name), fields.get(name)
            if isinstance(heading, Group):
                group = heading
            elif field is not None and _METADATA_KEY in field.metadata:
                found.append(_option(field, hints[name], group))
    return tuple(found)


def _option(field: attrs.Attribute[Any], hint: Any, group: Group) -> Option:
    kind, placeholder = read_annotation(hint)
    details = {
        "flag": field.name.replace("_", "-"),
        "config_name": field.name,
        "placeholder": placeholder,
        **field.metadata[_METADATA_KEY],
    }
    return Option(field=field.name, kind=kind, group=group.title, **details)


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
