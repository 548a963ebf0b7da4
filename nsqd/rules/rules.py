"""The rules of the configuration file, and what holds for a topic or channel by them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from nsqd.rules.settings import (
    NOTHING_GIVEN,
    NOTHING_SET,
    SETTINGS,
    Given,
    Settings,
    SettingsError,
    contradiction,
    parse_setting,
)
from nsqkit.access.scopes import matches

__all__ = ["NO_RULES", "Rule", "RuleError", "Rules", "parse_rules"]

MAX_RULES: Final = 1000
"""Every new topic and channel looks at all of them."""
_MAX_PATTERN: Final = 100
_PATTERN: Final = re.compile(r"[.a-zA-Z0-9_*-]+(?:#ephemeral)?")
_NAMES: Final = ("topic", "channel")


class RuleError(ValueError):
    """A rule that is not possible; the text says which one, and why."""


@attrs.frozen
class Rule:
    """`number`: its place in the file, from 1 on. `topic` and `channel`: patterns. `given`: its settings."""

    number: int
    topic: str
    channel: str
    given: Given

    def __str__(self) -> str:
        return f"rule {self.number}"

    def matches(self, topic: str, channel: str | None) -> bool:
        """Whether it is about this channel; with None, about the topic itself."""
        of_channel = self.channel == "*" if channel is None else matches(self.channel, channel)
        return of_channel and matches(self.topic, topic)


@attrs.frozen
class Rules:
    """All rules, in the order of the file: the first that matches and has a setting gives it."""

    rules: tuple[Rule, ...] = ()

    def settings(
        self,
        topic: str,
        channel: str | None,
        of_topic: Given = NOTHING_GIVEN,
        of_channel: Given = NOTHING_GIVEN,
    ) -> Settings:
        """What holds for a channel, or with None for the topic itself. `of_topic`, `of_channel`: set by operators."""
        if not (self.rules or of_topic or of_channel):
            return NOTHING_SET
        found = self.effective(topic, channel, of_topic, of_channel)
        return Settings(**{name: value for name, (value, _) in found.items()}) if found else NOTHING_SET

    def effective(
        self,
        topic: str,
        channel: str | None,
        of_topic: Given = NOTHING_GIVEN,
        of_channel: Given = NOTHING_GIVEN,
    ) -> dict[str, tuple[Any, str]]:
        """The settings by name, each with where it is from: `channel`, `topic` or `rule 2`."""
        sources: list[tuple[str, Given]] = [("channel", of_channel), ("topic", of_topic)]
        sources += [(str(rule), rule.given) for rule in self.rules if rule.matches(topic, channel)]
        found: dict[str, tuple[Any, str]] = {}
        for name, setting in SETTINGS.items():
            if channel is not None and not setting.of_channels:
                continue
            for source, given in sources:
                if name in given:
                    found[name] = given[name], source
                    break
        # A rule for many topics names one for their dead letters, which it matches, too: there they do not die again.
        if found.get("dead_topic", ("",))[0] == topic:
            del found["dead_topic"]
            found.pop("max_attempts", None)
        return found

    def unmatched(self, topics: Mapping[str, Collection[str]]) -> Iterator[Rule]:
        """Rules that are about none of these topics and their channels."""
        for rule in self.rules:
            own = [name for name in topics if matches(rule.topic, name)]
            if not own or (
                rule.channel != "*"
                and not any(matches(rule.channel, channel) for name in own for channel in topics[name])
            ):
                yield rule


NO_RULES: Final = Rules()


def parse_rules(tables: Sequence[Mapping[str, object]]) -> Rules:
    """The rules of the tables `[[rule]]`. `RuleError`."""
    if len(tables) > MAX_RULES:
        raise RuleError(f"{len(tables)} rules are more than {MAX_RULES}")
    rules = []
    for number, table in enumerate(tables, 1):
        try:
            rules.append(_parse_rule(number, table))
        except SettingsError as error:
            raise RuleError(f"rule {number}: {error}") from None
    available = {name for rule in rules for name in rule.given}
    for rule in rules:
        if (reason := contradiction(rule.given, rule.topic, available)) is not None:
            raise RuleError(f"{rule}: {reason}")
    return Rules(tuple(rules))


def _parse_rule(number: int, table: Mapping[str, object]) -> Rule:
    topic, channel = (_parse_pattern(name, table.get(name, "*")) for name in _NAMES)
    given = {name: parse_setting(name, value, _NAMES) for name, value in table.items() if name not in _NAMES}
    if not given:
        raise SettingsError(f"no setting, it must have at least one of {', '.join(SETTINGS)}")
    for name in given:
        if channel != "*" and not SETTINGS[name].of_channels:
            raise SettingsError(f'{name} is a setting of topics, and needs channel = "*"')
    return Rule(number, topic, channel, given)


def _parse_pattern(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_PATTERN or _PATTERN.fullmatch(value) is None:
        shown = repr(value)[:_MAX_PATTERN] if isinstance(value, str) else type(value).__name__
        raise SettingsError(
            f"{name} must be a pattern, 1 to {_MAX_PATTERN} of the characters of names and *, not {shown}"
        )
    return re.sub(r"\*+", "*", value)
