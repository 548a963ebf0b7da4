"""The settings of topics and channels: their names, their values, and what of them contradicts itself.

A *given* map has some settings by name, in the values of the program: what one rule or an operator says, and what the
log records. Durations are integers of nanoseconds, sizes integers of bytes. In TOML and JSON a duration is a text such
as `1h30m`, or an integer of milliseconds, a size an integer or a text such as `10GB`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import attrs

from nsqkit.options import MILLISECOND, SECOND, did_you_mean, format_duration, parse_duration
from nsqkit.wire.names import is_ephemeral, is_valid_name

__all__ = [
    "NOTHING_GIVEN",
    "NOTHING_SET",
    "SETTINGS",
    "Given",
    "Policy",
    "Retain",
    "Settings",
    "SettingsError",
    "changed",
    "contradiction",
    "in_effect",
    "parse_setting",
    "shown",
]

Given = Mapping[str, Any]
"""Settings by name."""
NOTHING_GIVEN: Final[Given] = MappingProxyType({})

_MAX_COUNT: Final = (1 << 63) - 1
_MAX_ATTEMPTS: Final = (1 << 16) - 1  # as a message frame has two bytes for them
_SHORTEST: Final = SECOND  # ages are looked at once a second
_LONGEST_SHOWN: Final = 100  # characters of a wrong value in an error
_SIZE: Final = re.compile(r"([0-9]{1,19})([KMGT]i?)?B")
_UNITS: Final = {
    "": 1,
    **{f"{letter}": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGT", 1)},
}


class SettingsError(ValueError):
    """Settings that are not known, not possible, or contradict one another; the text says which and why."""


class Policy:
    """What happens when more messages wait than `max_depth` or `max_bytes` allow."""

    REJECT: Final = "reject"
    """Publishes are refused."""
    DROP_OLDEST: Final = "drop_oldest"
    DEAD_LETTER: Final = "dead_letter"
    """The oldest go to the dead topic; so do those that are older than `max_age`."""


class Retain(NamedTuple):
    """For how long finished messages stay: nanoseconds, and bytes. None: no limit of this kind."""

    age: int | None
    size: int | None


def _retain_of(value: Any) -> Retain | None:
    return None if value is None else Retain(*value)


@attrs.frozen(kw_only=True)
class Settings:
    """What holds for one topic or channel; None: not set.

    `max_age`, `idle_ttl`: nanoseconds. `policy` and `idle_action` have their defaults where they mean something.
    """

    max_depth: int | None = None
    max_bytes: int | None = None
    max_age: int | None = None
    policy: str = Policy.REJECT
    idle_ttl: int | None = None
    idle_action: str = "delete"
    max_attempts: int | None = None
    dead_topic: str | None = None
    retain: Retain | None = attrs.field(default=None, converter=_retain_of)

    @property
    def is_limiting(self) -> bool:
        """Whether what waits is limited, or a channel without a consumer."""
        return (self.max_depth, self.max_bytes, self.max_age, self.idle_ttl) != (None, None, None, None)


NOTHING_SET: Final = Settings()


# --- values


def _integer(value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"an integer from 1 to {most}")
    return value


def _count(value: object) -> int:
    return _integer(value, _MAX_COUNT)


def _attempts(value: object) -> int:
    return _integer(value, _MAX_ATTEMPTS)


def _size(value: object) -> int:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    size = int(match[1]) * _UNITS[match[2] or ""] if match else value
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MAX_COUNT:
        raise ValueError('a size such as "10GB", or an integer of bytes, at least 1')
    return size


def _duration(value: object) -> int:
    expected = 'a duration such as "24h", or an integer of milliseconds, at least a second'
    if isinstance(value, str):
        try:
            duration = parse_duration(value)
        except ValueError:
            raise ValueError(expected) from None
    elif isinstance(value, bool) or not isinstance(value, int) or value > _MAX_COUNT // MILLISECOND:
        raise ValueError(expected)
    else:
        duration = value * MILLISECOND
    if duration < _SHORTEST:
        raise ValueError(expected)
    return duration


def _word(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            hint = did_you_mean(value, words) if isinstance(value, str) and len(value) < 50 else ""
            raise ValueError(f"{', '.join(words[:-1])} or {words[-1]}{hint}")
        return value

    return parse


def _topic_name(value: object) -> str:
    if not isinstance(value, str) or not is_valid_name(value) or is_ephemeral(value):
        raise ValueError("the name of a topic that is not ephemeral")
    return value


def _retain(value: object) -> Retain:
    expected = 'a duration such as "24h", a size such as "10GB", or a list of both'
    parts = value if isinstance(value, list) else [value]
    ages, sizes = list[int](), list[int]()
    for part in parts:
        if not isinstance(part, str):
            raise ValueError(expected)
        try:
            if part.endswith("B"):
                sizes.append(_size(part))
            else:
                ages.append(_duration(part))
        except ValueError:
            raise ValueError(expected) from None
    if not parts or len(ages) > 1 or len(sizes) > 1:
        raise ValueError(expected)
    return Retain(ages[0] if ages else None, sizes[0] if sizes else None)


def _show_retain(retain: Retain) -> list[str]:
    age, size = retain
    return [
        *([] if age is None else [format_duration(age)]),
        *([] if size is None else [f"{size}B"]),
    ]


def _as_is(value: Any) -> Any:
    return value


@attrs.frozen
class Setting:
    """One setting. `parse`: from TOML or JSON; `ValueError` has the end of "it must be ...". `show`: as JSON."""

    parse: Callable[[object], Any]
    show: Callable[[Any], Any] = _as_is
    of_channels: bool = True


SETTINGS: Final[Mapping[str, Setting]] = {
    "max_depth": Setting(_count),
    "max_bytes": Setting(_size),
    "max_age": Setting(_duration, format_duration),
    "policy": Setting(_word(Policy.REJECT, Policy.DROP_OLDEST, Policy.DEAD_LETTER)),
    "idle_ttl": Setting(_duration, format_duration),
    "idle_action": Setting(_word("delete", "pause")),
    "max_attempts": Setting(_attempts),
    "dead_topic": Setting(_topic_name),
    "retain": Setting(_retain, _show_retain, of_channels=False),
}
"""All of them, by name. A new one changes the disk format: an older nsqd would ignore it."""


def parse_setting(name: str, value: object, known: Collection[str] = ()) -> Any:
    """The value of a setting from TOML or JSON. `SettingsError`. `known`: names that are known, too."""
    setting = SETTINGS.get(name)
    if setting is None:
        hint = did_you_mean(name[:_LONGEST_SHOWN], [*SETTINGS, *known])
        raise SettingsError(f"unknown key {_short(name)}{hint}")
    try:
        return setting.parse(value)
    except ValueError as expected:
        raise SettingsError(f"{name} must be {expected}, not {_short(value)}") from None


def _short(value: object) -> str:
    """The value for an error: those from outside may be long, or nested too deeply to be printed."""
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except (ValueError, RecursionError):
        return f"a very large {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def changed(given: Given, changes: Mapping[str, object], *, of_channel: bool) -> dict[str, Any]:
    """What is given after an operator's changes, from JSON; None removes a setting. `SettingsError`."""
    after = dict(given)
    for name, value in changes.items():
        if value is None and name in SETTINGS:
            after.pop(name, None)
            continue
        after[name] = parse_setting(name, value)
        if of_channel and not SETTINGS[name].of_channels:
            raise SettingsError(f"{name} is a setting of topics")
    return after


def shown(given: Given) -> dict[str, Any]:
    """As JSON, in the order of `SETTINGS`."""
    return {name: setting.show(given[name]) for name, setting in SETTINGS.items() if name in given}


def in_effect(settings: Settings) -> dict[str, Any]:
    """What is set, as JSON, and the defaults that mean something then. Empty if nothing is."""
    if settings is NOTHING_SET:
        return {}
    given = {name: value for name in SETTINGS if (value := getattr(settings, name)) is not None}
    if settings.max_depth is settings.max_bytes is None and settings.policy != Policy.DEAD_LETTER:
        del given["policy"]
    if settings.idle_ttl is None:
        del given["idle_action"]
    return shown(given)


def contradiction(given: Given, topic: str, available: Collection[str] = ()) -> str | None:
    """Why these settings cannot be meant, for a topic with this name. `available`: what others give besides."""
    names = {*given, *available}
    policy = given.get("policy")
    limits = {"max_depth", "max_bytes"} | ({"max_age"} if policy == Policy.DEAD_LETTER else set())
    if policy is not None and names.isdisjoint(limits):
        return f"policy {policy} without {' or '.join(sorted(limits, reverse=True))}"
    if "idle_action" in given and "idle_ttl" not in names:
        return "idle_action without idle_ttl"
    if given.get("dead_topic") == topic:
        return f"dead_topic {topic} is the topic itself"
    return None
