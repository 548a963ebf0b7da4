"""Rules: what is set for the topics and channels whose names match a pattern.

    [[rule]]
    topic = "orders.*"
    max_depth = 100_000
    policy = "drop_oldest"

`Rules` are those of the configuration file, `Settings` is what holds for one topic or channel after everybody was
heard: operators (for the channel, then for the topic), and the first rule that matches and says something.
"""

from nsqd.rules.rules import NO_RULES, Rule, RuleError, Rules, parse_rules
from nsqd.rules.settings import (
    NOTHING_GIVEN,
    NOTHING_SET,
    Given,
    Policy,
    Retain,
    Settings,
    SettingsError,
    changed,
    contradiction,
    in_effect,
    shown,
)

__all__ = [
    "NOTHING_GIVEN",
    "NOTHING_SET",
    "NO_RULES",
    "Given",
    "Policy",
    "Retain",
    "Rule",
    "RuleError",
    "Rules",
    "Settings",
    "SettingsError",
    "changed",
    "contradiction",
    "in_effect",
    "parse_rules",
    "shown",
]
