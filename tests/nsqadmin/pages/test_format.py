"""Numbers are short, with the exact value in the title; names can be broken; a missing value says why."""

from __future__ import annotations

import pytest

from nsqadmin.pages.format import breakable, missing, number, rate


def test_a_shortened_count_has_its_exact_value_in_the_title() -> None:
    assert number(1_234_567) == '<data value="1234567" title="1,234,567">1.23M</data>'
    assert number(1_234) == "1,234"
    assert "zero" in number(0)
    assert "zero" in number(None)


def test_a_tiny_rate_is_escaped() -> None:
    assert "&lt;0.01" in rate(0.001)
    assert 'title="0.001"' in rate(0.001)
    assert "zero" in rate(None)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("orders", "orders"),
        ("emails.outbound_eu-1", "emails.|outbound_|eu-|1"),
        ("metrics#ephemeral", "metrics|#ephemeral"),
        ("OrderPaidV2", "Order|Paid|V2"),
        ("a--b..", "a--|b.."),
        ("10.0.0.1:4151", "10.|0.|0.|1:|4151"),
        ("#", "#"),
        ("", ""),
    ],
)
def test_names_are_broken_between_their_parts_only(name: str, parts: str) -> None:
    assert breakable(name) == parts.replace("|", "<wbr>")


def test_a_name_that_can_be_broken_is_escaped() -> None:
    assert breakable("<b>.&") == "&lt;b&gt;.<wbr>&amp;"


def test_a_missing_value_says_why() -> None:
    assert missing('no "x"') == '<span class="zero" title="no &#34;x&#34;">\N{EN DASH}</span>'
