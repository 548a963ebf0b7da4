"""Rules of the configuration file: which of them holds, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsqd.options import NsqdOptions
from nsqd.rules import NO_RULES, NOTHING_SET, RuleError, Rules, Settings, parse_rules
from nsqkit.options import HOUR, ExitError, parse

RULES = parse_rules(
    [
        {"topic": "orders.*", "channel": "archive", "max_depth": 10},
        {"topic": "orders.*", "max_depth": 20, "policy": "drop_oldest", "retain": "24h"},
        {"channel": "a*", "max_attempts": 5, "max_age": "1h"},
        {"max_depth": 30, "max_attempts": 7},
    ]
)


class TestWhatHolds:
    @pytest.mark.parametrize(
        ("topic", "channel", "settings"),
        [
            (
                "orders.new",
                "archive",
                Settings(max_depth=10, policy="drop_oldest", max_attempts=5, max_age=HOUR),
            ),
            ("orders.new", "c", Settings(max_depth=20, policy="drop_oldest", max_attempts=7)),
            ("orders", "archive", Settings(max_depth=30, max_attempts=5, max_age=HOUR)),
            ("orders", "c", Settings(max_depth=30, max_attempts=7)),
        ],
    )
    def test_the_first_rule_that_has_a_setting_gives_it(
        self, topic: str, channel: str, settings: Settings
    ) -> None:
        assert RULES.settings(topic, channel) == settings

    def test_a_topic_is_looked_up_in_the_rules_for_all_channels(self) -> None:
        assert RULES.settings("orders.new", None) == Settings(
            max_depth=20, policy="drop_oldest", max_attempts=7, retain=(24 * HOUR, None)
        )

    def test_operators_win_first_those_of_the_channel(self) -> None:
        of_topic, of_channel = {"max_depth": 2, "max_age": 3, "retain": (4, None)}, {"max_depth": 1}
        assert RULES.effective("orders.new", "archive", of_topic, of_channel) == {
            "max_depth": (1, "channel"),
            "max_age": (3, "topic"),
            "policy": ("drop_oldest", "rule 2"),
            "max_attempts": (5, "rule 3"),
        }

    def test_without_anything_all_have_the_same_settings(self) -> None:
        assert NO_RULES.settings("t", "c") is NOTHING_SET
        rules = parse_rules([{"topic": "x", "max_depth": 1}])
        assert rules.settings("t", "c") is NOTHING_SET

    def test_a_dead_topic_is_not_its_own(self) -> None:
        rules = parse_rules([{"max_attempts": 3, "dead_topic": "dead"}])
        assert rules.settings("t", "c").dead_topic == "dead"
        assert rules.settings("dead", "c") == Settings(), "and what is there does not die again"

    def test_unmatched(self) -> None:
        topics = {"orders": ["c"], "x": ["archive"]}
        assert [rule.number for rule in RULES.unmatched(topics)] == [1, 2]
        assert [rule.number for rule in RULES.unmatched({"orders.new": ["c"]})] == [1, 3]
        assert [rule.number for rule in RULES.unmatched({"orders.new": ["archive"]})] == []


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ([{"max_depth": 1}, {"max_dept": 1}], "rule 2: unknown key 'max_dept' (did you mean max_depth?)"),
        ([{"topics": "a", "max_depth": 1}], "rule 1: unknown key 'topics' (did you mean topic?)"),
        ([{"max_depth": 0}], f"rule 1: max_depth must be an integer from 1 to {(1 << 63) - 1}, not 0"),
        ([{}], "rule 1: no setting, it must have at least one of max_depth, max_bytes"),
        ([{"topic": "a b", "max_depth": 1}], "rule 1: topic must be a pattern"),
        ([{"channel": "", "max_depth": 1}], "rule 1: channel must be a pattern"),
        ([{"channel": 5, "max_depth": 1}], "rule 1: channel must be a pattern"),
        ([{"channel": "x" * 101, "max_depth": 1}], "rule 1: channel must be a pattern"),
        (
            [{"channel": "c", "retain": "1h"}],
            'rule 1: retain is a setting of topics, and needs channel = "*"',
        ),
        ([{"policy": "reject"}], "rule 1: policy reject without max_depth or max_bytes"),
        ([{"max_depth": 1}, {"idle_action": "pause"}], "rule 2: idle_action without idle_ttl"),
        ([{"topic": "a", "dead_topic": "a"}], "rule 1: dead_topic a is the topic itself"),
        ([{"max_depth": 1}] * 1001, "1001 rules are more than 1000"),
    ],
)
def test_impossible_rules(tables: list[dict[str, object]], reason: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rules(tables)
    assert str(caught.value).startswith(reason)


def test_another_rule_may_have_the_limit_of_a_policy() -> None:
    rules = parse_rules([{"topic": "a.*", "policy": "drop_oldest"}, {"max_bytes": "1MB"}])
    assert rules.settings("a.b", "c") == Settings(max_bytes=10**6, policy="drop_oldest")


class TestInTheFile:
    def options(self, tmp_path: Path, text: str) -> NsqdOptions:
        path = tmp_path / "nsqd.toml"
        path.write_text(text)
        return parse(NsqdOptions, [f"--config={path}"], program="nsqd")

    def refusal(self, tmp_path: Path, text: str) -> str:
        with pytest.raises(ExitError) as caught:
            self.options(tmp_path, text)
        assert caught.value.code == 1
        line = caught.value.stderr
        assert line.count("\n") == 1
        assert f"failed to load config file {tmp_path}/nsqd.toml - " in line
        return line.strip()

    def test_rules_follow_the_options(self, tmp_path: Path) -> None:
        options = self.options(
            tmp_path,
            'mem_queue_size = 5\n[[rule]]\ntopic = "a"\nmax_depth = 1_000\n[[rule]]\nmax_age = "2h"\n',
        )
        assert options.mem_queue_size == 5
        assert options.rules.settings("a", "c") == Settings(max_depth=1000, max_age=2 * HOUR)

    def test_no_rules(self, tmp_path: Path) -> None:
        assert self.options(tmp_path, "").rules == Rules()
        assert self.options(tmp_path, "rule = []").rules == Rules()

    def test_errors_name_file_rule_and_key(self, tmp_path: Path) -> None:
        line = self.refusal(tmp_path, "[[rule]]\nmax_depth = 5\n[[rule]]\nmax_byte = 5\n")
        assert line.endswith("rule 2: unknown key 'max_byte' (did you mean max_bytes?)")

    @pytest.mark.parametrize("text", ["rule = 5", "[rule]\nmax_depth = 5", "rule = [1]"])
    def test_something_else_of_this_name(self, tmp_path: Path, text: str) -> None:
        assert self.refusal(tmp_path, text).endswith("rule is an array of tables: [[rule]]")

    def test_a_misspelt_array(self, tmp_path: Path) -> None:
        line = self.refusal(tmp_path, "[[rules]]\nmax_depth = 5\n")
        assert line.endswith("unknown key 'rules' (did you mean rule?)")
