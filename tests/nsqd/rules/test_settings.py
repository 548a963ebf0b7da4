"""The values of settings, from TOML and JSON, and back."""

from __future__ import annotations

from typing import Any

import pytest

from nsqd.rules import Retain, Settings, SettingsError, changed, contradiction, shown
from nsqd.rules.settings import SETTINGS, parse_setting
from nsqkit.options import HOUR, MINUTE, SECOND

VALUES: list[tuple[str, object, Any]] = [
    ("max_depth", 1, 1),
    ("max_depth", 10**12, 10**12),
    ("max_bytes", 1, 1),
    ("max_bytes", "1B", 1),
    ("max_bytes", "3KB", 3000),
    ("max_bytes", "3KiB", 3072),
    ("max_bytes", "10GB", 10**10),
    ("max_bytes", "2TiB", 2 << 40),
    ("max_age", "1h30m", HOUR + 30 * MINUTE),
    ("max_age", 1500, 1500 * SECOND // 1000),
    ("idle_ttl", "1s", SECOND),
    ("idle_action", "pause", "pause"),
    ("policy", "dead_letter", "dead_letter"),
    ("max_attempts", 65535, 65535),
    ("dead_topic", "orders.dead", "orders.dead"),
    ("retain", "24h", Retain(24 * HOUR, None)),
    ("retain", "10GB", Retain(None, 10**10)),
    ("retain", ["10GB", "24h"], Retain(24 * HOUR, 10**10)),
    ("retain", ["24h"], Retain(24 * HOUR, None)),
]


@pytest.mark.parametrize(("name", "value", "parsed"), VALUES)
def test_values(name: str, value: object, parsed: Any) -> None:
    assert parse_setting(name, value) == parsed


@pytest.mark.parametrize(("name", "value", "parsed"), VALUES)
def test_what_is_shown_can_be_set(name: str, value: object, parsed: Any) -> None:
    assert changed({}, shown({name: parsed}), of_channel=False) == {name: parsed}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_depth", bad) for bad in (0, -1, True, 1.5, "5", None, [], 1 << 63)],
        *[("max_bytes", bad) for bad in (0, "0B", "", "B", "5", "5XB", "5 GB", "-5GB", "9" * 30 + "B", True)],
        *[("max_age", bad) for bad in (0, 999, "999ms", "-1h", "5", "", "1d", True, 1 << 70, 1.5, {})],
        *[("policy", bad) for bad in ("", "drop", 1, None, ["reject"])],
        *[("idle_action", bad) for bad in ("remove", 0)],
        *[("max_attempts", bad) for bad in (0, 65536, "5", True)],
        *[("dead_topic", bad) for bad in ("", "a b", "x" * 65, "a#ephemeral", 5, "a*")],
        *[("retain", bad) for bad in ([], 5, ["1h", "2h"], ["1GB", "2GB"], "x", ["1h", 5], [["1h"]], "0B")],
    ],
)
def test_wrong_values_are_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"^{name} must be .*, not "):
        parse_setting(name, value)


@pytest.mark.parametrize(
    ("name", "hint"), [("max_dept", " (did you mean max_depth?)"), ("retention", ""), ("x" * 500, "")]
)
def test_an_unknown_name_has_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_setting(name, 1)
    assert str(caught.value).startswith(f"unknown key '{name[:50]}")
    assert str(caught.value).endswith(hint)
    assert len(str(caught.value)) < 200


def test_errors_are_short_whatever_the_value_is() -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10_000, 10**6000, deep):
        with pytest.raises(SettingsError) as caught:
            parse_setting("max_depth", value)
        assert len(str(caught.value)) < 300


class TestChanges:
    def test_null_removes_one_and_the_others_stay(self) -> None:
        given = {"max_depth": 1, "max_age": SECOND}
        after = changed(given, {"max_depth": None, "policy": "reject", "idle_ttl": None}, of_channel=True)
        assert after == {"max_age": SECOND, "policy": "reject"}
        assert given == {"max_depth": 1, "max_age": SECOND}

    def test_null_for_an_unknown_name_is_an_error(self) -> None:
        with pytest.raises(SettingsError, match="unknown key"):
            changed({}, {"max_dept": None}, of_channel=True)

    def test_retain_is_not_for_channels(self) -> None:
        with pytest.raises(SettingsError, match="retain is a setting of topics"):
            changed({}, {"retain": "1h"}, of_channel=True)
        assert changed({}, {"retain": "1h"}, of_channel=False) == {"retain": (HOUR, None)}


@pytest.mark.parametrize(
    ("given", "available", "reason"),
    [
        ({"policy": "reject"}, (), "policy reject without max_depth or max_bytes"),
        ({"policy": "reject"}, ("max_age",), "policy reject without max_depth or max_bytes"),
        ({"policy": "dead_letter"}, (), "policy dead_letter without max_depth or max_bytes or max_age"),
        ({"policy": "dead_letter", "max_age": SECOND}, (), None),
        ({"policy": "drop_oldest"}, ("max_bytes",), None),
        ({"idle_action": "pause"}, (), "idle_action without idle_ttl"),
        ({"idle_action": "pause", "idle_ttl": SECOND}, (), None),
        ({"dead_topic": "t"}, (), "dead_topic t is the topic itself"),
        ({"dead_topic": "t.dead"}, (), None),
        ({}, (), None),
    ],
)
def test_contradictions(given: dict[str, Any], available: tuple[str, ...], reason: str | None) -> None:
    assert contradiction(given, "t", available) == reason


def test_every_setting_is_an_attribute() -> None:
    settings = Settings(retain=[None, 5])
    assert settings.retain == Retain(None, 5)
    assert all(hasattr(settings, name) for name in SETTINGS)
