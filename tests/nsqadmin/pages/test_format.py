"""Numbers are short, with the exact value in the title."""

from __future__ import annotations

from nsqadmin.pages.format import number, rate


def test_a_shortened_count_has_its_exact_value_in_the_title() -> None:
    assert number(1_234_567) == '<data value="1234567" title="1,234,567">1.23M</data>'
    assert number(1_234) == "1,234"
    assert "zero" in number(0)
    assert "zero" in number(None)


def test_a_tiny_rate_is_escaped() -> None:
    assert "&lt;0.01" in rate(0.001)
    assert 'title="0.001"' in rate(0.001)
    assert "zero" in rate(None)
