r"""Patterns of Go's language: what they match, what is refused, and that nothing takes long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqd.auth.pattern import MAX_PATTERNS, MAX_SIZE, MAX_TEXT, Budget, PatternError, compile_pattern


def found(pattern: str, name: str) -> bool:
    return compile_pattern(pattern, Budget())(name)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("", ["", "a"], []),
        (".*", ["", "a"], []),
        ("^.*$", ["", "a"], []),
        (".+", ["a"], [""]),
        ("^$", [""], ["a"]),
        ("ord", ["orders", "word", "ord"], ["or", ""]),
        ("^ord", ["orders"], ["word"]),
        ("ord$", ["word"], ["orders"]),
        ("^orders$", ["orders"], ["orders2", "my_orders"]),
        ("^orders.*$", ["orders", "orders2"], ["my_orders"]),
        (".*orders$", ["orders", "my_orders"], ["orders2"]),
        (r"^a\.b$", ["a.b"], ["axb"]),
        ("^a.b$", ["a.b", "axb"], ["ab"]),
        (r"^x#ephemeral$", ["x#ephemeral"], ["x"]),
        ("^(orders|invoices)$", ["orders", "invoices"], ["order", "ordersinvoices"]),
        ("^a|b$", ["ax", "xb"], ["xa"]),
        ("^(?:a|)b$", ["ab", "b"], ["a"]),
        ("^[a-c]+$", ["abc"], ["abd", ""]),
        ("^[^a-c]+$", ["xyz"], ["xaz"]),
        ("^[]a]$", ["a"], ["b"]),
        ("^[a-]$", ["a", "-"], ["b"]),
        (r"^[\w-]+$", ["a_1-B"], ["a.b"]),
        (r"^[\d-a]+$", ["1-a"], ["b"]),
        ("^[[:alpha:]]+$", ["aZ"], ["a1"]),
        ("^[[:^alpha:]]+$", ["1."], ["a1"]),
        (r"^\d{2,3}$", ["12", "123"], ["1", "1234"]),
        (r"^\d{2,}$", ["12", "12345"], ["1"]),
        (r"^\d{3}$", ["123"], ["12", "1234"]),
        ("^a{0}$", [""], ["a"]),
        (r"^\D\S\W$", ["ab."], ["1b.", "abc"]),
        ("^a{,2}$", [], ["aa"]),
        ("^ab?c*?$", ["a", "ab", "abccc"], ["abb"]),
        ("^(a*)*b$", ["b", "aaab"], ["aaa"]),
        ("(?i)^ORDERS$", ["orders", "OrDeRs"], ["order"]),
        ("^(?i:a)b$", ["Ab", "ab"], ["AB"]),
        ("^((?i)a)b$", ["Ab"], ["AB"]),
        ("(?i)^[a-c]$", ["B"], ["d"]),
        ("(?i-i)A", ["A"], ["a"]),
        ("(?s-m:^a.$)", ["ab"], ["a"]),
        ("(?m)^a$", ["a"], ["ab"]),
        (r"\Aa\z", ["a"], ["ab", "ba"]),
        (r"\bord\b", ["ord", "a.ord.b", "a-ord"], ["word", "ord_"]),
        (r"a\Bb", ["ab"], ["a.b"]),
        (r"^\Qa.b\E$", ["a.b"], ["axb"]),
        (r"^\Qa.\E+$", ["a.", "a.."], ["a.a"]),
        (r"^\x61\x{62}\143$", ["abc"], ["ab"]),
        (r"^\pL\p{Nd}\PL\p{^L}$", ["a1-2"], ["a1aa"]),
        (r"^\p{Latin}\p{Any}\p{Common}$", ["ab."], ["abc", "1b."]),
        ("(?P<word>a)(?<other>b)", ["ab"], ["ba"]),
        (r"^\_\-\#$", ["_-#"], ["_"]),
        ("^é$", [], ["e", ""]),
        ("^[^é]$", ["e"], [""]),
    ],
)
def test_matches_of_a_pattern(pattern: str, yes: list[str], no: list[str]) -> None:
    assert {name: found(pattern, name) for name in yes + no} == {
        **dict.fromkeys(yes, True),
        **dict.fromkeys(no, False),
    }


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "missing )"),
        (")", "unexpected )"),
        ("[a", "missing ]"),
        ("[b-a]", "invalid character class range"),
        ("*", "no argument for repetition operator"),
        ("a**", "bad repetition operator"),
        ("a{1001}", "invalid repetition size"),
        ("(?=a)", "invalid perl operator"),
        ("(?<!a)", "invalid perl operator"),
        (r"(a)\1", "invalid escape sequence"),
        (r"\q", "invalid escape sequence"),
        ("a\\", "trailing \\"),
        (r"\p{Nothing}", "invalid character class range"),
        ("((a{100}){100}){100}", "invalid repetition size"),
        ("[ab]{1000}" * 100, "pattern too large"),
        ("a" * (MAX_TEXT + 1), f"more than {MAX_TEXT} characters"),
        (r"\pL" * 200, f"more than {MAX_TEXT} characters"),  # 600 characters that take 60 ms
        (r"\PL" * 200, f"more than {MAX_TEXT} characters"),
    ],
)
def test_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=re.escape(reason)):
        compile_pattern(pattern, Budget())


def test_one_budget_for_all_patterns() -> None:
    budget = Budget()
    for _ in range(MAX_TEXT // 1024):
        compile_pattern("^" + "a" * 1023, budget)
    with pytest.raises(PatternError, match="too large"):
        compile_pattern("a", budget)


def test_the_number_of_patterns_is_limited() -> None:
    budget = Budget()
    for _ in range(MAX_PATTERNS):
        compile_pattern("", budget)
    with pytest.raises(PatternError, match="too many"):
        compile_pattern("", budget)


def test_the_compiled_size_of_all_patterns_is_limited() -> None:
    """A short text may stand for a large program, and a check costs as much as the sum of them."""
    budget = Budget()
    compile_pattern("[ab]{1000}", budget)
    one = MAX_SIZE - budget.size
    assert one > 1000
    for _ in range(budget.size // one):
        compile_pattern("[ab]{1000}", budget)
    with pytest.raises(PatternError, match="instructions in all"):
        compile_pattern("[ab]{1000}", budget)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|a)*$", "((a*)*)*$", "(a|aa)+$", "(.*)(.*)(.*)(.*)(.*)[^a]", "^(([a-z])+.)+[A-Z]([a-z])+$"],
)
def test_no_name_takes_long(pattern: str) -> None:
    """These keep Python's own engine busy for longer than a test may take."""
    compile_pattern(pattern, Budget())("a" * 63 + "!")


NAMES = st.text("ab.", max_size=6)
ATOMS = st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", r"\W", "^", "$", r"\b", ""])
COUNTS = st.sampled_from(["", "*", "+", "?", "*?", "{2}", "{1,2}", "{0,1}", "{1,}"])


def grouped(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(part, part).map("".join),
        st.tuples(part, part).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(part, COUNTS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    )


@given(pattern=st.recursive(ATOMS, grouped, max_leaves=8), names=st.lists(NAMES, min_size=1))
def test_the_same_as_pythons_where_both_know_the_language(pattern: str, names: list[str]) -> None:
    search = compile_pattern(pattern, Budget())
    for name in names:
        assert search(name) is (re.search(pattern, name) is not None)


@given(pattern=st.text("ab()[]{}|*+?.\\^$-:,12dpQEx<>P=!imsU", max_size=20))
def test_no_text_does_harm(pattern: str) -> None:
    try:
        search = compile_pattern(pattern, Budget())
    except PatternError:
        return
    assert search("ab.c") in (True, False)
